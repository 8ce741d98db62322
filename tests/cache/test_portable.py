"""Caches as files for others: nothing is lost, nothing is invented, damage is told."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.storage.portable import export, is_export, read_export
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.cache.upkeep.merge import import_file
from cacherl.core.errors import DataError, MissingExtraError, RecipeError
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Source
from tests.cache.recordings import CANCEL, GET, SPACE, recorded, seen

pyarrow = pytest.importorskip("pyarrow")

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(),
    ANY_TEXT,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(ANY_TEXT, VALUES, max_size=3).map(canonical_json)
OBSERVATIONS = st.builds(
    Observation,
    text=ANY_TEXT | st.sampled_from(["a", "b"]),
    is_error=st.booleans(),
    error_class=st.none() | st.sampled_from(ErrorClass),
    source=st.sampled_from(Source),
    scenario=st.sampled_from(["s1", "s2"]),
    split=st.sampled_from(Split),
    latency_s=st.floats(0, 1e9),
    recorded_at=st.none() | st.floats(0, 2e9),
    occurrence=st.integers(0, 3),
    asked=st.none() | ARGUMENTS.map(bytes.decode),
    after=st.none() | st.text(max_size=4),
    wire=st.none() | ARGUMENTS.map(bytes.decode),
)
CALLS = st.builds(
    RecordedCall.of,
    st.sampled_from([SPACE, "other"]),
    st.sampled_from(["get_order", "search"]),
    ARGUMENTS | st.sampled_from([b"{}", b'{"a":1}']),
    st.sampled_from([b"", b"0123456789abcdef"]),
)
KEPT = st.builds(Kept, observation=OBSERVATIONS, times=st.integers(1, 5))
ENTRIES = st.builds(CacheEntry, call=CALLS, kept=st.lists(KEPT, min_size=1, max_size=4).map(tuple))
NOTES = st.dictionaries(
    st.sampled_from(["settings", "calibration"]), st.binary(max_size=8), max_size=2
)

several = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = itertools.count()


def filled(entries: list[CacheEntry], notes: dict[str, bytes] | None = None) -> MemoryStore:
    store = MemoryStore()
    store.put_tool(SPACE, GET)
    for entry in entries:
        store.absorb(entry)
    for name, value in (notes or {}).items():
        store.put_note(name, value)
    return store


def exported(store: CacheStore, folder: Path) -> bytes:
    path = folder / f"{next(numbers)}.jsonl"
    export(store, path)
    return path.read_bytes()


def imported(file: Path) -> bytes:
    """Import into a new cache file and return what that exports."""
    out = file.with_name(f"{next(numbers)}.sqlite")
    import_file(file, str(out))
    store = SqliteStore(out)
    try:
        return exported(store, file.parent)
    finally:
        store.close()


@pytest.fixture
def strange() -> MemoryStore:
    """A cache of what JSON, Arrow and terminals trip over."""
    texts = ["", "\x00", "é\u2028😀", '{"a":1e400}', "\ud800 half", "\n\r\n", "NaN"]
    arguments: list[dict[str, Any]] = [
        {"n": math.nan, "m": -math.inf},
        {"big": 2**70, "small": -(2**70)},
        {"half": "\udfff", "key\ud800": None},
        {"nested": [[{"absent": None}], {"present": 1}]},
    ]
    store = MemoryStore()
    store.put_tool(SPACE, GET)
    store.put_tool("other", CANCEL)
    store.put_note("settings", b'{"tools":{}}')
    store.put_note("redaction", b"\xff\x00")
    for number, text in enumerate(texts):
        for asked in arguments:
            call = recorded(canonical_json(asked), state=b"0123456789abcdef" * (number % 2))
            store.add(call, seen(text, error=ErrorClass.NOT_FOUND))
            store.add(call, seen(text, scenario="s2"))
    store.add(recorded(canonical_json({"text": "y" * 1_000_000})), seen("x" * 1_000_000))
    return store


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_was_exported_imports_and_exports_to_the_same_bytes(
    strange: MemoryStore, form: str, tmp_path: Path
) -> None:
    """NaN, 2^70, half characters and megabytes survive; the digest tells that they did."""
    first = export(strange, tmp_path / f"a.{form}")

    import_file(tmp_path / f"a.{form}", str(tmp_path / "b.sqlite"))
    store = SqliteStore(tmp_path / "b.sqlite")
    second = export(store, tmp_path / f"c.{form}")

    assert [entry.kept for entry in store.entries()] != []
    assert {(e.call, *sorted(k.observation.text for k in e.kept)) for e in store.entries()} == {
        (e.call, *sorted(k.observation.text for k in e.kept)) for e in strange.entries()
    }
    assert store.tools() == strange.tools()
    assert {name: store.note(name) for name in store.notes()} == {
        name: strange.note(name) for name in strange.notes()
    }
    store.close()
    assert second.digest == first.digest
    assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"c.{form}").read_bytes()


@several
@given(st.lists(ENTRIES, max_size=6), NOTES)
def test_every_cache_comes_back_through_both_formats(
    tmp_path: Path, entries: list[CacheEntry], notes: dict[str, bytes]
) -> None:
    """JSONL, cache, Parquet, cache, JSONL: byte for byte what it was at first."""
    store = filled(entries, notes)
    first = exported(store, tmp_path)
    jsonl = tmp_path / f"{next(numbers)}.jsonl"
    jsonl.write_bytes(first)
    middle = tmp_path / f"{next(numbers)}.sqlite"
    import_file(jsonl, str(middle))
    parquet = tmp_path / f"{next(numbers)}.parquet"
    between = SqliteStore(middle)
    export(between, parquet)
    between.close()

    assert imported(parquet) == first


@several
@given(st.lists(ENTRIES, max_size=6), st.randoms(use_true_random=False))
def test_equal_caches_export_to_equal_bytes_whatever_came_first(
    tmp_path: Path, entries: list[CacheEntry], order: random.Random
) -> None:
    """So that two exports can be compared by `diff` and by their digest."""
    shuffled = list(entries)
    order.shuffle(shuffled)

    assert exported(filled(entries), tmp_path) == exported(filled(shuffled), tmp_path)


def test_sorting_through_files_gives_what_sorting_in_memory_gives(tmp_path: Path) -> None:
    """A cache that is larger than memory is exported all the same, in the same order."""
    store = MemoryStore()
    chance = random.Random(7)
    for number in range(400):
        call = recorded(b'{"n":%d}' % chance.randrange(150), tool=f"tool{chance.randrange(3)}")
        store.add(call, seen(f"text {number}"))
    whole = export(store, tmp_path / "whole.jsonl")

    piecewise = export(store, tmp_path / "pieces.jsonl", chunk_bytes=1)

    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "pieces.jsonl").read_bytes()
    assert piecewise.digest == whole.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pieces.jsonl", "whole.jsonl"]


def test_other_programs_read_the_columns(strange: MemoryStore, tmp_path: Path) -> None:
    """A data scientist loads the file with pandas or `datasets`; arguments have no invented nulls."""
    from pyarrow import parquet

    export(strange, tmp_path / "a.parquet")
    export(strange, tmp_path / "a.jsonl")

    table = parquet.read_table(tmp_path / "a.parquet")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().split("\n")[:-1]]

    rows = [line for line in lines if line["kind"] == "observation"]
    assert table.num_rows == len(rows) == 57
    assert table.column("arguments").to_pylist() == [row["arguments"] for row in rows]
    assert table.column("text").to_pylist() == [row["text"] for row in rows]
    assert str(table.schema.field("times").type) == "int64"
    assert str(table.schema.field("recorded_at").type) == "double"
    nested = next(row for row in rows if "nested" in row["arguments"])
    assert json.loads(nested["arguments"]) == {"nested": [[{"absent": None}], {"present": 1}]}


def small(folder: Path, form: str) -> Path:
    store = MemoryStore()
    store.put_tool(SPACE, GET)
    store.put_note("settings", b"{}")
    for name in "ABCDE":
        store.add(recorded(b'{"order_id":"%s"}' % name.encode()), seen(f"order {name}"))
    path = folder / f"small.{form}"
    export(store, path)
    return path


@pytest.mark.parametrize(
    ("old", "new", "seen_in_error"),
    [
        ('"text":"order C"', '"text":"order X"', ":6: the checksum does not match"),
        ('"text":"order C"', '"text":7', "`$.text`"),
        ('"text":"order C"', '"text":"order C","mood":"fine"', "`mood`"),
        ('"source":"live"', '"source":"dream"', "`$.source`"),
        ('{"_sum":"', '{"sum":"', ":1: the line has no checksum"),
    ],
)
def test_an_edited_line_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, seen_in_error: str
) -> None:
    """Whoever edits an export by hand learns where, and that nothing was imported."""
    path = small(tmp_path, "jsonl")
    lines = path.read_text().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if "order C" in line or "_sum" in old)
    lines[place] = lines[place].replace(old, new)
    path.write_text("".join(lines))
    out = tmp_path / "out.sqlite"
    store = SqliteStore(out, mode="write")
    store.add(recorded(), seen("before"))
    store.close()

    with pytest.raises(DataError, match=f"{path.name}:{place + 1}") as refused:
        import_file(path, str(out))

    assert seen_in_error in str(refused.value)
    store = SqliteStore(out)
    assert [entry.call for entry in store.entries()] == [recorded()]
    assert store.tools() == {}
    store.close()


def signed(line: str, **members: Any) -> str:
    """Return the line with other members, under a checksum that is right."""
    import hashlib

    record = {name: value for name, value in json.loads(line).items() if name != "_sum"} | members
    body = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
    total = hashlib.blake2b(body.encode(), digest_size=8).hexdigest()
    return f'{{"_sum":"{total}",{body[1:]}\n'


@pytest.mark.parametrize(
    "members",
    [
        {"arguments": '{"b":1, "a":2}'},
        {"arguments": '{"b":1,"a":2}'},
        {"arguments": '{"a":1.0}'},
        {"arguments": "[1]"},
        {"arguments": "no"},
        {"asked": "{ }"},
        {"state": "AB"},
        {"state": "abc"},
        {"times": 0},
        {"occurrence": -1},
        {"text_escaped": '"other"'},
        {"recorded_at": "now"},
        {"split": "holdout"},
    ],
)
def test_a_line_that_no_cache_could_hold_is_refused_by_field(
    tmp_path: Path, members: dict[str, Any]
) -> None:
    """A program that writes such files itself must learn of a call that no lookup would ever find."""
    path = small(tmp_path, "jsonl")
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = signed(lines[4], **members)
    path.write_text("".join(lines))

    with pytest.raises(DataError, match=rf"small.jsonl:5: .*\$\.{next(iter(members))}`"):
        list(read_export(path))


@pytest.mark.parametrize("change", ["cut", "lost", "twice", "moved", "more", "empty", "header"])
def test_lines_that_are_whole_but_not_all_there_are_refused(tmp_path: Path, change: str) -> None:
    """A checksum a line does not see a line that is gone."""
    path = small(tmp_path, "jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {
        "cut": lines[:-1],
        "lost": lines[:4] + lines[5:],
        "twice": lines[:4] + lines[4:5] + lines[4:],
        "moved": lines[:4] + lines[5:6] + lines[4:5] + lines[6:],
        "more": [*lines, lines[4]],
        "empty": [],
        "header": lines[1:],
    }[change]
    path.write_bytes(b"".join(changed))
    out = tmp_path / "out.sqlite"

    with pytest.raises(DataError, match=r"small\.jsonl"):
        import_file(path, str(out))

    assert not out.exists() or not list(SqliteStore(out).entries())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_flipped_bit_is_never_a_silently_wrong_answer(tmp_path: Path, form: str) -> None:
    """Disks and transfers damage files; a cache that believes them trains on noise."""
    path = small(tmp_path, form)
    whole = path.read_bytes()
    right = list(read_export(path))
    chance = random.Random(11)
    outcomes = []
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        outcomes.append(outcome(path))

    refusals = [each for each in outcomes if isinstance(each, str)]
    assert all(each == right for each in outcomes if not isinstance(each, str))
    assert all(path.name in refusal for refusal in refusals)
    assert len(refusals) == 300 if form == "jsonl" else len(refusals) > 150


def outcome(path: Path) -> list[Any] | str:
    """Return what an export holds, or why it was refused."""
    try:
        return list(read_export(path))
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_truncated_file_is_refused(tmp_path: Path, form: str) -> None:
    """An interrupted copy must not import as a smaller cache."""
    path = small(tmp_path, form)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=path.name):
            list(read_export(path))


def test_a_newer_file_says_so(tmp_path: Path) -> None:
    """Reading it half-understood would lose what its version added."""
    path = small(tmp_path, "jsonl")
    lines = path.read_text().splitlines(keepends=True)
    for members in ({"format": 2}, {"canon": "c99"}):
        path.write_text("".join([signed(lines[0], **members), *lines[1:]]))
        with pytest.raises(DataError, match="Upgrade cacherl"):
            list(read_export(path))


class _Failing(MemoryStore):
    """A cache that turns out damaged while it is read."""

    def entries(self) -> Iterator[CacheEntry]:
        yield from super().entries()
        raise DataError("damaged")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_that_fails_leaves_the_old_file_whole(tmp_path: Path, form: str) -> None:
    """A file appears whole or not at all, and no temporary file stays behind."""
    path = small(tmp_path, form)
    before = path.read_bytes()
    store = _Failing()
    store.add(recorded(), seen("x"))

    with pytest.raises(DataError, match="damaged"):
        export(store, path, chunk_bytes=1)

    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_no_file_can_say_is_told(tmp_path: Path) -> None:
    """Refused with the call and the field, not written as something else."""
    store = MemoryStore()
    store.add(recorded(), seen("x", scenario="\ud800"))
    with pytest.raises(DataError, match="scenario"):
        export(store, tmp_path / "a.jsonl")

    store = MemoryStore()
    store.add(recorded(), msgspec.structs.replace(seen("x"), recorded_at=math.nan))
    with pytest.raises(DataError, match="recorded_at"):
        export(store, tmp_path / "a.jsonl")

    store = MemoryStore()
    store.put_tool(SPACE, msgspec.structs.replace(GET, parameters={"maximum": math.inf}))
    with pytest.raises(DataError, match="get_order"):
        export(store, tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_the_ending_chooses_the_format(tmp_path: Path) -> None:
    """A third format is refused before anything is read."""
    with pytest.raises(RecipeError, match=r"\.jsonl or \.parquet"):
        export(MemoryStore(), tmp_path / "a.csv")
    assert is_export(small(tmp_path, "jsonl"))
    assert is_export(small(tmp_path, "parquet"))
    assert not is_export(Path(__file__))


def test_a_parquet_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """It has no checksums and no arguments that we could trust."""
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not an export of cacherl"):
        list(read_export(tmp_path / "a.parquet"))


def test_without_pyarrow_parquet_names_what_to_install(tmp_path: Path) -> None:
    """JSONL needs nothing; Parquet says which extra it needs, in one line."""
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path\n"
        "from cacherl.cache.storage.portable import export\n"
        "from cacherl.cache.storage.store import MemoryStore\n"
        "export(MemoryStore(), Path('a.jsonl'))\n"
        "export(MemoryStore(), Path('a.parquet'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert MissingExtraError.__name__ in done.stderr
    assert "cacherl[parquet]" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]
