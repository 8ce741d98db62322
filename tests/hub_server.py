"""A hub on this machine: what the real client of the Hugging Face Hub needs to push and pull, in memory.

It speaks the parts of the Hub's HTTP API that the client uses: repositories and branches, `preupload`, LFS batch,
upload and verify, commits as NDJSON, info, tree and `resolve` with its headers and redirects; who may see and write
what; and gated repositories. The Hub's other way to store large files (Xet) it does not speak: clients set
HF_HUB_DISABLE_XET.

    with HubServer() as hub:
        hub.users["token-of-ana"] = "ana"
        ... HF_ENDPOINT=hub.url HF_TOKEN=token-of-ana hf upload ...
        hub.repos["dataset", "ana/desk"].files()
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

LARGE = 1 << 14
"""Files of this size on go to the large file storage; so do binary ones."""


@dataclass
class Repo:
    """One repository: every commit is the whole tree."""

    private: bool = False
    gated: bool = False
    may_read: set[str] = field(default_factory=set)
    """Users who were let in, beside the owner."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        seed = json.dumps([len(self.commits), branch, sorted(files), message])
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def sha(self, revision: str) -> str | None:
        if revision in self.branches:
            return self.branches[revision]
        return next((sha for sha in self.commits if sha.startswith(revision)), None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        sha = self.sha(revision)
        assert sha is not None
        return self.commits[sha]


def is_large(path: str, data: bytes) -> bool:
    return len(data) >= LARGE or b"\0" in data[:512]


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """Serves in a thread while the `with` block lasts."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        """Token -> who it is of."""
        self.read_only: set[str] = set()
        """Tokens that may not write."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        """The large file storage, by SHA-256."""
        self.uploads: list[str] = []
        """Large files uploaded, in order; a repeated one was uploaded twice."""
        self.break_uploads_after: int | None = None
        """So many more large files are taken; the next is answered with 500."""
        self.break_downloads_after: int | None = None
        self.spoil: set[str] = set()
        """Names of files that come out with a byte changed."""
        self.seen_tokens: list[str] = []
        self._sockets = [socket.socket(), socket.socket()]
        # Files lie on another host than the Hub: the client reads its headers off the redirect.
        for held, host in zip(self._sockets, ("127.0.0.1", "127.0.0.2"), strict=True):
            held.bind((host, 0))
        self.url, self._files_url = (
            "http://{}:{}".format(*held.getsockname()) for held in self._sockets
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=self._routes()), log_level="critical", lifespan="off", ws="none"
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": self._sockets}, daemon=True
        )

    def __enter__(self) -> HubServer:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        for held in self._sockets:
            held.close()

    def _routes(self) -> list[Route]:
        api = "/api/{plural}/{owner}/{name}"
        routes = [
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route("/api/validate-yaml", self._validate, methods=["POST"]),
            Route(f"{api}/preupload/{{revision}}", self._preupload, methods=["POST"]),
            Route(f"{api}/commit/{{revision}}", self._commit, methods=["POST"]),
            Route(f"{api}/branch/{{revision}}", self._branch, methods=["POST"]),
            Route(f"{api}/tree/{{revision}}", self._tree),
            Route(f"{api}/revision/{{revision}}", self._info),
            Route(api, self._info),
            Route("/lfs/{oid}", self._upload, methods=["PUT"]),
            Route("/lfs/{oid}", self._large),
            Route("/lfs-verify", self._verify, methods=["POST"]),
        ]
        for prefix, plural in (("/datasets", "datasets"), ("", "models")):
            repo = prefix + "/{owner}/{name}"
            for path, handler, methods in (
                (repo + ".git/info/lfs/objects/batch", self._batch, ["POST"]),
                (repo + "/resolve/{revision}/{path:path}", self._resolve, ["GET", "HEAD"]),
            ):
                routes.append(Route(path, _with(handler, plural), methods=methods))
        return routes

    # ---- who may do what -----------------------------------------------------------------------

    def _user(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token:
            self.seen_tokens.append(token)
        return self.users.get(token)

    def _found(self, request: Request, *, write: bool = False, content: bool = False) -> Any:
        """Return the repository, or the response that refuses it."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        user = self._user(request)
        if token and user is None:
            return _refusal(401, "", "Invalid credentials in Authorization header")
        owner = request.path_params["owner"]
        type_ = request.path_params["plural"].removesuffix("s")
        repo = self.repos.get((type_, f"{owner}/{request.path_params['name']}"))
        if repo is None or (repo.private and user != owner and user not in repo.may_read):
            return _refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and (user != owner or token in self.read_only):
            return _refusal(403 if user else 401, "", "You may not write here")
        if content and repo.gated and user != owner and user not in repo.may_read:
            return _refusal(403 if user else 401, "GatedRepo", "Access to this repo is restricted")
        return repo

    # ---- repositories --------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        user = self._user(request)
        if user is None:
            return _refusal(401, "", "Invalid credentials in Authorization header")
        asked = await request.json()
        owner = asked.get("organization") or user
        type_ = asked.get("type", "model")
        repo = f"{owner}/{asked['name']}"
        url = f"{self.url}/{'datasets/' if type_ == 'dataset' else ''}{repo}"
        if (type_, repo) in self.repos:
            return JSONResponse({"url": url, "error": "You already created this"}, status_code=409)
        if owner != user or token in self.read_only:
            return _refusal(403, "", "You don't have the rights to create this")
        self.repos[type_, repo] = Repo(private=asked.get("visibility") == "private")
        return JSONResponse({"url": url, "name": repo})

    async def _validate(self, request: Request) -> Response:
        """Check what the Hub checks of a README's front matter: it is YAML, with a known licence."""
        content = (await request.json())["content"]
        errors = []
        if not content.startswith("---\n"):
            return JSONResponse({"errors": [], "warnings": [{"message": "empty or missing yaml"}]})
        try:
            matter = yaml.safe_load(content.split("---\n")[1])
            if matter["license"] not in ("mit", "apache-2.0", "cc-by-4.0", "other", "unknown"):
                errors.append({"message": '"license" must be one of ...'})
        except (yaml.YAMLError, KeyError) as error:
            errors.append({"message": str(error)})
        return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if errors else 200)

    async def _branch(self, request: Request) -> Response:
        repo = self._found(request, write=True)
        if isinstance(repo, Response):
            return repo
        branch = request.path_params["revision"]
        if branch in repo.branches:
            return JSONResponse({"error": "Reference already exists"}, status_code=409)
        repo.branches[branch] = repo.branches["main"]
        return JSONResponse({}, status_code=201)

    async def _info(self, request: Request) -> Response:
        repo = self._found(request)
        if isinstance(repo, Response):
            return repo
        sha = repo.sha(request.path_params.get("revision", "main"))
        if sha is None:
            return _refusal(404, "RevisionNotFound", "Invalid rev id")
        id_ = f"{request.path_params['owner']}/{request.path_params['name']}"
        return JSONResponse(
            {"id": id_, "sha": sha, "private": repo.private, "gated": repo.gated, "tags": []}
        )

    async def _tree(self, request: Request) -> Response:
        repo = self._found(request)
        if isinstance(repo, Response):
            return repo
        sha = repo.sha(request.path_params["revision"])
        if sha is None:
            return _refusal(404, "RevisionNotFound", "Invalid rev id")
        entries: list[dict[str, Any]] = []
        for path, data in sorted(repo.commits[sha].items()):
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if is_large(path, data):
                oid = hashlib.sha256(data).hexdigest()
                entry |= {"oid": "0" * 40, "lfs": {"oid": oid, "size": len(data), "pointerSize": 1}}
            entries.append(entry)
        return JSONResponse(entries)

    # ---- pushing -------------------------------------------------------------------------------

    async def _preupload(self, request: Request) -> Response:
        repo = self._found(request, write=True)
        if isinstance(repo, Response):
            return repo
        there = repo.files(request.path_params["revision"])
        modes = []
        for file in (await request.json())["files"]:
            sample = base64.b64decode(file["sample"])
            large = file["size"] >= LARGE or b"\0" in sample
            answer = {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
            }
            held = there.get(file["path"])
            if held is not None:
                answer["oid"] = hashlib.sha256(held).hexdigest() if large else git_sha1(held)
            modes.append(answer)
        return JSONResponse({"files": modes})

    async def _batch(self, request: Request) -> Response:
        repo = self._found(request, write=True)
        if isinstance(repo, Response):
            return repo
        objects = []
        for asked in (await request.json())["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.large:
                answer["actions"] = {
                    "upload": {"href": f"{self.url}/lfs/{asked['oid']}"},
                    "verify": {"href": f"{self.url}/lfs-verify"},
                }
            objects.append(answer)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _upload(self, request: Request) -> Response:
        body = await request.body()
        oid = request.path_params["oid"]
        if self.break_uploads_after is not None:
            if self.break_uploads_after == 0:
                return Response("storage is out", status_code=507)
            self.break_uploads_after -= 1
        if hashlib.sha256(body).hexdigest() != oid:
            return Response("not what it says", status_code=400)
        self.uploads.append(oid)
        self.large[oid] = body
        return Response()

    async def _verify(self, request: Request) -> Response:
        asked = await request.json()
        held = self.large.get(asked["oid"])
        right = held is not None and len(held) == asked["size"]
        return Response(status_code=200 if right else 404)

    async def _commit(self, request: Request) -> Response:
        repo = self._found(request, write=True)
        if isinstance(repo, Response):
            return repo
        branch = request.path_params["revision"]
        files = dict(repo.files(branch))
        message = ""
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        sha = repo.commit(branch, files, message)
        url = (
            f"{self.url}/{request.path_params['owner']}/{request.path_params['name']}/commit/{sha}"
        )
        return JSONResponse({"success": True, "commitOid": sha, "commitUrl": url})

    # ---- pulling -------------------------------------------------------------------------------

    async def _resolve(self, request: Request) -> Response:
        repo = self._found(request, content=True)
        if isinstance(repo, Response):
            return repo
        sha = repo.sha(request.path_params["revision"])
        if sha is None:
            return _refusal(404, "RevisionNotFound", "Invalid rev id")
        path = request.path_params["path"]
        data = repo.commits[sha].get(path)
        if data is None:
            return _refusal(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": sha}
        if is_large(path, data):
            oid = hashlib.sha256(data).hexdigest()
            self.large[oid] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"'}
            spoilt = "?spoil" if path in self.spoil else ""
            return RedirectResponse(f"{self._files_url}/lfs/{oid}{spoilt}", 302, headers=headers)
        if path in self.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return Response(data, headers=headers | {"ETag": f'"{git_sha1(data)}"'})

    async def _large(self, request: Request) -> Response:
        data = self.large[request.path_params["oid"]]
        if self.break_downloads_after is not None:
            if self.break_downloads_after == 0:
                return Response("storage is out", status_code=507)
            self.break_downloads_after -= 1
        if "spoil" in request.query_params:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return Response(data)


def _with(handler: Any, plural: str) -> Any:
    async def handle(request: Request) -> Response:
        request.scope["path_params"]["plural"] = plural
        answer: Response = await handler(request)
        return answer

    return handle


def _refusal(status: int, code: str, message: str) -> Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return JSONResponse({"error": message}, status_code=status, headers=headers)
