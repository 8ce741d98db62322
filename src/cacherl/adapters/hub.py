"""The Hugging Face Hub, through its own client."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from cacherl import __version__
from cacherl.core.errors import HubError
from cacherl.core.hubs import Commit, HubFile, RepoType

_TransportError: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the client's HTTP library raises: `httpx.HTTPError` before version 2 of the client, `httpx2.HTTPError` since."""

_LOGIN = "Run `hf auth login`, or set HF_TOKEN"


class HuggingFaceHub:
    """A `Hub`. Endpoint (`HF_ENDPOINT`) and token (`HF_TOKEN`, or `hf auth login`) are the client's own."""

    def __init__(self, endpoint: str | None = None) -> None:
        """`endpoint` over `HF_ENDPOINT`."""
        self._api = HfApi(endpoint=endpoint, library_name="cacherl", library_version=__version__)

    def push(
        self,
        repo: str,
        type_: RepoType,
        files: Mapping[str, Path | bytes],
        *,
        gone: Collection[str],
        private: bool,
        revision: str | None,
        message: str,
    ) -> Commit:
        with self._told(repo, type_, revision):
            if get_token() is None:
                raise HubError(f"nobody is logged in to {self._api.endpoint}. {_LOGIN}.")
            made = self._api.create_repo(
                repo, repo_type=type_, private=True if private else None, exist_ok=True
            )
            repo = made.repo_id
            if private and not self._api.repo_info(repo, repo_type=type_).private:
                raise HubError(
                    f"{made}: is there already, and public, so nothing was pushed. Make it private in its "
                    "settings, push to another repository, or leave --private out."
                )
            if revision is not None:
                self._api.create_branch(repo, branch=revision, repo_type=type_, exist_ok=True)
            there = self._api.list_repo_files(repo, repo_type=type_, revision=revision)
            operations = [
                CommitOperationAdd(
                    path_in_repo=name,
                    path_or_fileobj=held if isinstance(held, bytes) else str(held),
                )
                for name, held in files.items()
            ] + [CommitOperationDelete(path_in_repo=name) for name in there if name in gone]
            done = self._api.create_commit(
                repo, operations, commit_message=message, repo_type=type_, revision=revision
            )
            return self.look(repo, type_, done.oid)

    def look(self, repo: str, type_: RepoType, revision: str | None) -> Commit:
        with self._told(repo, type_, revision):
            info = self._api.repo_info(repo, repo_type=type_, revision=revision)
            tree = self._api.list_repo_tree(
                repo, recursive=True, repo_type=type_, revision=info.sha
            )
            files = tuple(
                HubFile(
                    name=each.path,
                    bytes=each.size,
                    sha256=None if each.lfs is None else each.lfs.sha256,
                    git_sha1=each.blob_id if each.lfs is None else None,
                )
                for each in tree
                if isinstance(each, RepoFile)
            )
        return Commit(
            repo=repo,
            type=type_,
            sha=str(info.sha),
            url=self._page(repo, type_),
            private=bool(info.private),
            files=files,
        )

    def download(self, commit: Commit, folder: Path) -> None:
        with self._told(commit.repo, commit.type, commit.sha):
            self._api.snapshot_download(
                commit.repo, repo_type=commit.type, revision=commit.sha, local_dir=folder
            )

    def _page(self, repo: str, type_: RepoType) -> str:
        return f"{self._api.endpoint}/{'datasets/' if type_ is RepoType.DATASET else ''}{repo}"

    @contextlib.contextmanager
    def _told(self, repo: str, type_: RepoType, revision: str | None) -> Iterator[None]:
        """Say what went wrong in one line that ends with what to do. Never says the token."""
        endpoint = self._api.endpoint
        try:
            yield
        except GatedRepoError as error:  # a kind of RepositoryNotFoundError
            raise HubError(
                f"{repo}: its owner asks for consent first. Open {self._page(repo, type_)} in a browser, accept "
                "its terms with the account of your token, and run the same command again."
            ) from error
        except RepositoryNotFoundError as error:
            hint = _LOGIN if get_token() is None else "Check the name, and what your token may see"
            raise HubError(
                f"{repo}: {endpoint} shows no such {type_} repository: it is not there, or private. "
                f"{hint}; a {_other(type_)} repository needs --type {_other(type_)}."
            ) from error
        except RevisionNotFoundError as error:
            raise HubError(
                f"{repo}: has no branch, tag or commit {revision!r}. Choose another --revision."
            ) from error
        except HFValidationError as error:
            raise HubError(
                f"{repo!r} is no name of a repository. Write OWNER/NAME, such as my-team/desk."
            ) from error
        except HfHubHTTPError as error:
            raise HubError(self._refused(repo, error)) from error
        except OfflineModeIsEnabled as error:
            raise HubError(
                f"{endpoint} was not asked: HF_HUB_OFFLINE is set. Unset it, and run the same command again."
            ) from error
        except LocalEntryNotFoundError as error:  # the client's word for a download that failed
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError):
                raise HubError(self._refused(repo, cause)) from error
            raise HubError(_unreachable(endpoint, cause or error)) from error
        except _TransportError as error:
            raise HubError(_unreachable(endpoint, error)) from error
        except RuntimeError as error:  # how the client tells that an upload failed
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError):
                raise HubError(self._refused(repo, cause)) from error
            if isinstance(cause, _TransportError):
                raise HubError(_unreachable(endpoint, cause)) from error
            raise

    def _refused(self, repo: str, error: HfHubHTTPError) -> str:
        status = error.response.status_code
        match status:
            case 401:
                return f"{self._api.endpoint} does not know the token (401). {_LOGIN} anew."
            case 403:
                return (
                    f"{repo}: the token may not do that (403). It needs the right to write there: make "
                    f"one at {self._api.endpoint}/settings/tokens."
                )
            case _:
                said = " ".join(str(error.server_message or "").split())[:300]
                return (
                    f"{repo}: {self._api.endpoint} answered {status}{f' ({said})' if said else ''}. "
                    "Run the same command again later: what was transferred is kept."
                )


def _unreachable(endpoint: str, error: BaseException) -> str:
    return (
        f"{endpoint} cannot be reached ({type(error).__name__}). Check the network and run the same command "
        "again: what was transferred is kept."
    )


def _other(type_: RepoType) -> RepoType:
    return RepoType.MODEL if type_ is RepoType.DATASET else RepoType.DATASET
