"""`cacherl hub` with the real client, against a hub on this machine: what goes up comes back, and what must not, does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cacherl.core.folders import DataFolder
from cacherl.publish.pull import Pulled
from tests.hub_server import HubServer, Repo
from tests.record.preloaded import Preloaded

TOKEN = "hf_" + "anasTokenForTheTests" * 2
MODULES = (
    "cacherl.adapters.hub",
    "cacherl.publish.pull",
    "cacherl.publish.push",
    "detect_secrets.plugins.aws",
    "pyarrow.parquet",
    "yaml",
)
"""What commands import: each process would load it anew."""
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Preloaded]:
    """Processes of `cacherl` that know no hub but ours."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            environment.delenv(name)
        environment.setenv("HF_ENDPOINT", hub.url)
        environment.setenv("HF_HOME", str(folder / "home"))
        environment.setenv("HF_HUB_DISABLE_XET", "1")  # our hub does not speak it
        environment.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        with Preloaded(folder, *MODULES) as preloaded:
            yield preloaded


@pytest.fixture
def run(processes: Preloaded, hub: HubServer) -> Iterator[Run]:
    """Run a command as Ana; returns the exit code and everything it printed."""
    token = processes.folder / "home" / "token"
    token.parent.mkdir(exist_ok=True)
    token.write_text(TOKEN)
    hub.users = {TOKEN: "ana"}
    hub.repos.clear()
    hub.read_only.clear()
    hub.spoil.clear()
    hub.break_uploads_after = hub.break_downloads_after = None

    def run(*arguments: str | Path) -> tuple[int, str]:
        before = processes.log.stat().st_size if processes.log.exists() else 0
        code = processes.run(arguments)
        printed = processes.log.read_bytes()[before:].decode()
        assert TOKEN not in printed
        assert "Traceback" not in printed
        return code, printed

    yield run
    token.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def recorded(processes: Preloaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "desk"
    for command in (
        ("record", "--world", "desk", "--count", "12", "--teacher", "expert", "--out", out),
        ("augment", out, "--teacher", "desk"),
        ("select", out),
    ):
        assert processes.run(command) == 0, processes.log.read_text()
    return out


@pytest.fixture
def desk(recorded: Path, tmp_path: Path) -> DataFolder:
    """A folder that was recorded, augmented and selected."""
    folder = DataFolder(tmp_path / "desk")
    for path in recorded.rglob("*"):
        if path.is_file():
            copy = folder.root / path.relative_to(recorded)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def there(run: Run, recorded: Path, hub: HubServer) -> Repo:
    """The same folder as it is on the hub once it was pushed."""
    if not PUSHED:
        assert run("hub", "push", recorded, "ana/desk", "--licence", "MIT")[0] == 0
        PUSHED.update(hub.repos["dataset", "ana/desk"].files())
    hub.repos["dataset", "ana/desk"] = repo = Repo()
    repo.commit("main", dict(PUSHED), "pushed")
    return repo


PUSHED: dict[str, bytes] = {}
UP = (
    "augmented.jsonl",
    "cache.sqlite",
    "card.html",
    "card.json",
    "selected.jsonl",
    "tasks.jsonl",
    "trajectories.jsonl",
)


def test_a_folder_that_was_pushed_comes_back_byte_for_byte(
    run: Run, hub: HubServer, desk: DataFolder, tmp_path: Path
) -> None:
    """And is a folder to go on with: its card, its cache, its conversations."""
    pushed, _ = run("hub", "push", desk.root, "ana/desk", "--licence", "MIT", "--message", "One")
    out = tmp_path / "back"
    pulled, told = run("hub", "pull", "ana/desk", "--out", out)

    assert (pushed, pulled) == (0, 0), told
    repo = hub.repos["dataset", "ana/desk"]
    assert repo.messages == ["initial commit", "One"]
    assert sorted(repo.files()) == ["README.md", *UP[:4], "data/train.parquet", *UP[4:]]
    for name in UP:
        assert (out / name).read_bytes() == (desk.root / name).read_bytes()
    for name, data in repo.files().items():
        assert (out / name).read_bytes() == data
    held = json.loads((out / "hub.json").read_bytes())
    assert (held["repo"], held["commit"]) == ("ana/desk", repo.branches["main"])
    assert sorted(p.name for p in out.iterdir()) == sorted([*UP, "README.md", "data", "hub.json"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert run("card", out)[0] == run("cache", "verify", out / "cache.sqlite")[0] == 0


def test_what_was_pushed_is_loaded_by_the_library_that_everybody_uses(
    run: Run, there: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's front matter says where the table is; without it `load_dataset` guesses, and fails."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run("hub", "pull", "ana/desk", "--out", tmp_path / "back")
    from datasets import load_dataset

    loaded = load_dataset(str(tmp_path / "back"), split="train", cache_dir=str(tmp_path / "c"))

    assert loaded.num_rows == len(there.files()["selected.jsonl"].splitlines())
    assert {message["role"] for message in loaded[0]["messages"]} >= {"user", "assistant"}
    readme = (tmp_path / "back" / "README.md").read_text()
    matter = yaml.safe_load(readme.split("---\n")[1])
    assert matter["license"] == "mit"
    assert matter["language"] == ["en", "fr"]
    assert matter["size_categories"] == ["n<1K"]


def test_the_journal_and_everything_unnamed_stay_at_home(
    run: Run, hub: HubServer, desk: DataFolder
) -> None:
    """Paid replies and live calls may hold anything, keys included."""
    (desk.journal).mkdir(exist_ok=True)
    (desk.journal / "requests.jsonl").write_text('{"key": "secret"}\n')
    (desk.root / "cache.sqlite.redaction-key").write_text("key")
    (desk.root / ".env").write_text("OPENAI_API_KEY=x")
    (desk.root / "notes.txt").write_text("mine")

    assert run("hub", "push", desk.root, "ana/desk")[0] == 0

    names = set(hub.repos["dataset", "ana/desk"].files())
    assert names == {*UP, "README.md", "data/train.parquet"}


def test_what_is_gone_here_is_gone_there_and_what_others_put_there_stays(
    run: Run, there: Repo, desk: DataFolder
) -> None:
    """A second push makes the repository what the folder is, in one commit."""
    files = there.files() | {"LICENSE": b"ours", "README.md": b"---\nlicense: mit\n---\nby hand"}
    there.commit("main", files, "by hand")
    desk.augmented.unlink()

    code, _ = run("hub", "push", desk.root, "ana/desk", "--keep-readme")

    assert code == 0
    assert len(there.commits) == 4
    assert "augmented.jsonl" not in there.files()
    assert there.files()["LICENSE"] == b"ours"
    assert there.files()["README.md"].endswith(b"by hand")


def test_a_branch_is_made_and_a_commit_is_pulled_as_it_was(
    run: Run, there: Repo, desk: DataFolder, tmp_path: Path
) -> None:
    """What an experiment was trained on can be had again, to the byte."""
    first = there.branches["main"]
    run("hub", "push", desk.root, "ana/desk", "--revision", "v1", "--only-best")
    _, told = run("hub", "pull", "ana/desk", "--revision", first[:12], "--out", tmp_path / "old")
    none, unknown = run("hub", "pull", "ana/desk", "--revision", "v9", "--out", tmp_path / "none")

    assert there.branches["main"] == first
    assert "trajectories.jsonl" not in there.files("v1")
    assert (tmp_path / "old" / "trajectories.jsonl").exists(), told
    assert json.loads((tmp_path / "old" / "hub.json").read_bytes())["commit"] == first
    assert none == 1
    assert "has no branch, tag or commit 'v9'" in unknown


def test_what_looks_secret_is_refused_unless_it_is_allowed(
    run: Run, hub: HubServer, desk: DataFolder, tmp_path: Path
) -> None:
    """A token in a tool's answer is public for good once it was up for a minute."""
    lines = desk.trajectories.read_text().splitlines()
    spoilt = json.loads(lines[0])
    del spoilt["_sum"]
    spoilt["notes"]["log"] = "called with ghp_" + "a1B2" * 9
    desk.trajectories.write_text("\n".join([json.dumps(spoilt), *lines[1:]]) + "\n")

    refused, why = run("hub", "push", desk.root, "ana/desk")
    dry, listed = run("hub", "push", desk.root, "ana/desk", "--dry-run")
    assert hub.repos == {}
    allow = tmp_path / "harmless.txt"
    allow.write_text("github_token * *\n")
    allowed, _ = run("hub", "push", desk.root, "ana/desk", "--allow", allow)
    forced, told = run("hub", "push", desk.root, "ana/desk", "--allow-findings")

    assert (refused, dry, allowed, forced) == (1, 1, 0, 0)
    for said in (why, listed):
        assert "github_token" in said
        assert "a1B2a1B2" not in said
        assert "--allow-findings" in said
    assert "pushed all the same" in told


def test_held_out_answers_are_refused_unless_they_are_meant(
    run: Run, hub: HubServer, tmp_path: Path
) -> None:
    """A benchmark whose answers are on the Hub is in the next model's training data."""
    out = tmp_path / "held"
    run(
        *("record", "--world", "desk", "--split", "test", "--count", "3"),
        *("--teacher", "expert", "--out", out),
    )

    refused, why = run("hub", "push", out, "ana/held")
    assert hub.repos == {}
    meant, told = run("hub", "push", out, "ana/held", "--include-held-out", "--private")

    assert (refused, meant) == (1, 0)
    assert "3 held-out tasks with their right answers" in why
    assert hub.repos["dataset", "ana/held"].private
    assert "data/train.parquet" not in hub.repos["dataset", "ana/held"].files()
    assert "without a table" in told


@pytest.mark.parametrize("kind", ["sqlite", "snapshot"])
def test_a_cache_alone_goes_up_and_comes_back(
    run: Run, hub: HubServer, desk: DataFolder, tmp_path: Path, kind: str
) -> None:
    """Others replay the tools without having them."""
    cache = desk.cache
    if kind == "snapshot":
        cache = tmp_path / "desk.snapshot"
        assert run("cache", "freeze", desk.cache, cache)[0] == 0
    pushed, told = run("hub", "push", cache, "desk-cache")
    pulled, _ = run("hub", "pull", "ana/desk-cache", "--out", tmp_path / "back")

    assert (pushed, pulled) == (0, 0), told
    assert "ana/desk-cache" in told
    assert (tmp_path / "back" / cache.name).read_bytes() == cache.read_bytes()
    readme = hub.repos["dataset", "ana/desk-cache"].files()["README.md"].decode()
    assert "get_order" in readme


def test_a_model_goes_up_as_a_model_without_what_training_left_beside_it(
    run: Run, hub: HubServer, tmp_path: Path
) -> None:
    """Optimizer states are three times the weights, and logs are nobody's business."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "training_args.bin", "optimizer.pt", "run.log"):
        (model / name).write_text("{}")
    (model / "model.safetensors").write_bytes(b"\0" * 100)

    pushed, told = run("hub", "push", model, "ana/small")
    pulled, _ = run("hub", "pull", "ana/small", "--type", "model", "--out", tmp_path / "back")

    assert (pushed, pulled) == (0, 0), told
    names = set(hub.repos["model", "ana/small"].files())
    assert names == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


def test_anybodys_data_set_is_pulled_to_be_imported(
    run: Run, hub: HubServer, tmp_path: Path
) -> None:
    """Most of what there is to learn from was not made here."""
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "?"}]}
    ]
    hub.repos["dataset", "bo/chats"] = repo = Repo()
    repo.commit("main", {"data/a.jsonl": json.dumps(rows[0]).encode()}, "data")

    code, told = run("hub", "pull", "bo/chats", "--out", tmp_path / "chats")

    assert code == 0
    assert "cacherl import" in told


# ---- transfers that break off ------------------------------------------------------------------


def test_a_push_that_broke_off_uploads_no_file_twice(
    run: Run, hub: HubServer, desk: DataFolder
) -> None:
    """Nothing is to be seen of it before it is whole."""
    hub.uploads.clear()
    hub.large.clear()
    hub.break_uploads_after = 2
    broken, why = run("hub", "push", desk.root, "ana/desk")
    seen = hub.repos["dataset", "ana/desk"].files()
    hub.break_uploads_after = None
    done, _ = run("hub", "push", desk.root, "ana/desk")

    assert (broken, done) == (1, 0)
    assert seen == {}
    assert "507" in why
    assert "Run the same command again" in why
    assert all(hub.uploads.count(file) == 1 for file in hub.uploads[:2])
    assert len(set(hub.uploads)) > 2


def test_a_pull_that_broke_off_goes_on_and_shows_nothing_before_it_is_whole(
    run: Run, hub: HubServer, there: Repo, tmp_path: Path
) -> None:
    """A half folder would be trained on."""
    out = tmp_path / "back"
    hub.break_downloads_after = 2
    broken, why = run("hub", "pull", "ana/desk", "--out", out)
    seen = out.exists()
    hub.break_downloads_after = None
    done, _ = run("hub", "pull", "ana/desk", "--out", out)

    assert (broken, seen, done) == (1, False, 0), why
    assert "what was transferred is kept" in why
    assert (out / "tasks.jsonl").read_bytes() == there.files()["tasks.jsonl"]
    assert [path.name for path in tmp_path.iterdir() if "pulling" in path.name] == []


@pytest.mark.parametrize("name", ["tasks.jsonl", "README.md"])
def test_a_file_that_is_not_what_the_hub_says_is_not_taken(
    run: Run, hub: HubServer, there: Repo, tmp_path: Path, name: str
) -> None:
    """A proxy that rewrites, a mirror that is behind, a bit that flipped."""
    hub.spoil.add(name)
    refused, why = run("hub", "pull", "ana/desk", "--out", tmp_path / "back")
    hub.spoil.clear()
    done, _ = run("hub", "pull", "ana/desk", "--out", tmp_path / "back")

    assert (refused, done) == (1, 0), why
    assert name in why


def test_what_was_damaged_before_it_was_pushed_is_told(
    run: Run, there: Repo, tmp_path: Path
) -> None:
    """The Hub keeps any bytes; the records know their own."""
    tasks = there.files()["tasks.jsonl"].replace(b"O-", b"0-", 1)
    there.commit("main", there.files() | {"tasks.jsonl": tasks}, "damage")

    code, why = run("hub", "pull", "ana/desk", "--out", tmp_path / "back")

    assert code == 1
    assert "the checksum does not match" in why
    assert not (tmp_path / "back").exists()


def test_a_folder_that_holds_something_is_never_written_over(
    run: Run, there: Repo, tmp_path: Path
) -> None:
    """The same again is checked, and that is all."""
    out = tmp_path / "back"
    run("hub", "pull", "ana/desk", "--out", out)
    again, _ = run("hub", "pull", "ana/desk", "--out", out)
    there.commit("main", {"a.txt": b"new"}, "new")
    newer, why = run("hub", "pull", "ana/desk", "--out", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.md").write_text("all of it")
    other, also = run("hub", "pull", "ana/desk", "--out", tmp_path / "mine")

    assert (again, newer, other) == (0, 1, 1)
    assert "Name another folder" in why
    assert "Name another folder" in also


# ---- who may do what ---------------------------------------------------------------------------


def test_each_refusal_says_what_to_do(
    run: Run, hub: HubServer, processes: Preloaded, desk: DataFolder, tmp_path: Path
) -> None:
    """Five ways to be refused, five different things to do about it."""
    token = processes.folder / "home" / "token"
    hub.repos["dataset", "bo/hidden"] = Repo(private=True)
    hub.repos["dataset", "bo/gated"] = gated = Repo(gated=True)
    gated.commit("main", {"a.txt": b"terms"}, "data")
    out = tmp_path / "out"

    def refused(*arguments: str | Path) -> str:
        code, printed = run(*arguments)
        assert code == 1
        assert printed.splitlines()[-1].startswith("Error: ")
        return printed

    assert "accept its terms" in refused("hub", "pull", "bo/gated", "--out", out)
    assert "it is not there, or private" in refused("hub", "pull", "bo/hidden", "--out", out)
    assert "--type model" in refused("hub", "pull", "bo/none", "--out", out)
    assert "the right to write" in refused("hub", "push", desk.root, "bo/desk")
    assert "Write OWNER/NAME" in refused("hub", "push", desk.root, "a/b/c")
    gated.may_read.add("ana")
    assert run("hub", "pull", "bo/gated", "--out", tmp_path / "in")[0] == 0
    token.write_text("hf_revoked")
    assert "does not know the token" in refused("hub", "push", desk.root, "ana/desk")
    token.unlink()
    assert "nobody is logged in" in refused("hub", "push", desk.root, "ana/desk")
    assert not out.exists()


def test_private_is_a_promise(run: Run, hub: HubServer, desk: DataFolder) -> None:
    """The Hub ignores the wish where the repository is there: what should be private would be public."""
    hub.repos["dataset", "ana/desk"] = Repo()

    code, why = run("hub", "push", desk.root, "ana/desk", "--private")

    assert code == 1
    assert "public, so nothing was pushed" in why
    assert hub.repos["dataset", "ana/desk"].files() == {}


def test_a_hub_that_is_away_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline is the normal state of a cluster's nodes."""
    from huggingface_hub import constants

    from cacherl.adapters.hub import HuggingFaceHub
    from cacherl.core.errors import HubError
    from cacherl.core.hubs import RepoType

    with HubServer() as gone:
        pass
    # The suite is offline, and the library may have read that before.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    with pytest.raises(HubError, match="cannot be reached"):
        HuggingFaceHub(gone.url).look("ana/desk", RepoType.DATASET, None)


def test_json_is_for_machines(run: Run, desk: DataFolder, tmp_path: Path) -> None:
    """Nothing but JSON on standard output, with the commit to pin."""
    _, pushed = run("hub", "push", desk.root, "ana/desk", "--json")
    _, pulled = run("hub", "pull", "ana/desk", "--out", tmp_path / "back", "--json")
    _, dry = run("hub", "push", desk.root, "ana/desk", "--dry-run", "--json")

    said: dict[str, Any] = json.loads(pushed)
    assert json.loads(pulled)["commit"] == said["commit"]
    assert set(json.loads(pulled)) == set(Pulled.__struct_fields__)
    assert "ana/desk" in json.loads(dry)["readme"]
