"""Rows out of whatever people keep them in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cacherl.core.errors import DataError
from cacherl.formats.rows import (
    Row,
    Skipped,
    Unreadable,
    bare_name,
    files_of,
    rows_of,
    sample_of,
)

ROWS = [{"n": 1, "text": "é\n\u2028"}, {"n": 2, "inner": {"a": [1, None]}}, {"n": 3, "text": "“”"}]

KINDS: dict[str, Callable[[list[Any]], str]] = {
    "a.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "lines.json": lambda rows: "\n".join(json.dumps(row) for row in rows),
    "crlf.jsonl": lambda rows: "\ufeff\r\n" + "\r\n\r\n".join(map(json.dumps, rows)) + "\r\n",
    "array.json": json.dumps,
    "indented.json": lambda rows: "\ufeff " + json.dumps(rows, indent=2, ensure_ascii=False),
    "array": lambda rows: " [\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
    "objects.json": lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: pytest.importorskip("zstandard").compress(data),
}


def written(path: Path, data: str | bytes) -> Path:
    raw = data.encode() if isinstance(data, str) else data
    path.write_bytes(PACKINGS.get(path.suffix, PACKINGS[""])(raw))
    return path


def read(path: Path, **options: Any) -> tuple[list[Row], list[Skipped]]:
    skipped: list[Skipped] = []
    return list(rows_of(path, on_skip=skipped.append, **options)), skipped


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_out_as_they_went_in(tmp_path: Path, kind: str, packing: str) -> None:
    """People keep one and the same thing in a dozen ways, and none of them says which."""
    path = written(tmp_path / (kind + packing), KINDS[kind](ROWS))

    rows, skipped = read(path)

    assert [row.value() for row in rows] == ROWS
    assert skipped == []


def test_a_row_says_where_it_stands(tmp_path: Path) -> None:
    """Nobody finds the bad row of a million without its line."""
    lines = written(tmp_path / "a.jsonl", '{"n":1}\n\n\n{"n":2}\n')
    array = written(tmp_path / "b.json", '[{"n":1},\n{"n":2}]')

    assert [row.where for row in read(lines)[0]] == [f"{lines}:1", f"{lines}:4"]
    assert [row.where for row in read(array)[0]] == [f"{array}: row 1", f"{array}: row 2"]


def test_the_digest_is_of_the_untouched_row(tmp_path: Path) -> None:
    """Provenance names what stood in the file, so equal rows have equal digests wherever they stand."""
    body = json.dumps(ROWS[0])
    lines = written(tmp_path / "a.jsonl", body + "\n")
    array = written(tmp_path / "b.json", f"[\n {body} ]")

    assert read(lines)[0][0].digest() == read(array)[0][0].digest()
    assert read(lines)[0][0].raw == body.encode()


def test_rows_under_a_key_of_one_object(tmp_path: Path) -> None:
    """Evaluation logs are one object with the rows in it; what stands around them is passed over."""
    whole = {"version": 2, "eval": {"samples": "no"}, "samples": ROWS, "stats": [1, 2]}
    for name, indent in (("a.json", 2), ("b.json", None)):
        path = written(tmp_path / name, json.dumps(whole, indent=indent))

        assert [row.value() for row in read(path, under="samples")[0]] == ROWS


def test_rows_larger_than_the_buffer(tmp_path: Path) -> None:
    """A row may lie across any number of buffers, and a character across two."""
    rows = [{"text": "é“𝄞" * size} for size in (1, 400_000, 3, 99_991, 200_003, 5)]
    path = written(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False))

    found, skipped = read(path)

    assert [row.value() for row in found] == rows
    assert skipped == []


def test_a_line_that_is_too_long_is_passed_over_unread(tmp_path: Path) -> None:
    """One broken line must not take all memory, nor the rows after it."""
    long = json.dumps({"text": "x" * 5_000})
    fits = json.dumps({"text": "y" * 900})
    path = written(tmp_path / "a.jsonl", f"{fits}\n{long}\n{fits}\n{long}")

    rows, skipped = read(path, max_row_bytes=1_000)

    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]
    assert [each.where for each in skipped] == [f"{path}:2", f"{path}:4"]


def test_a_line_of_exactly_the_most_is_read(tmp_path: Path) -> None:
    """The bound is on the line with its end."""
    line = json.dumps({"text": "x" * 100})
    path = written(tmp_path / "a.jsonl", f"{line}\n{line}\n")

    assert len(read(path, max_row_bytes=len(line) + 1)[0]) == 2


def test_a_torn_last_line_is_a_bad_row_and_no_more(tmp_path: Path) -> None:
    """What a killed writer leaves behind costs its last row."""
    path = written(tmp_path / "a.jsonl", '{"n":1}\n{"n":2}\n{"n":')

    *good, torn = read(path)[0]

    assert [row.value()["n"] for row in good] == [1, 2]
    with pytest.raises(Unreadable, match="no JSON"):
        torn.value()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"n":1},{"n":2},{"n":', "ends early"),
        ('[{"n":1},{"n":2}', "the end of the file"),
        ('[{"n":1},{"n":2}, nope, {"n":3}]', "no JSON"),
        ('[{"n":1},{"n":2} {"n":3}]', "expected"),
        ('[{"n":1},{"n":2}] }', "no JSON"),
    ],
)
def test_a_broken_document_gives_what_stands_before_the_break(
    tmp_path: Path, text: str, problem: str
) -> None:
    """After a break in one JSON text nobody can tell where the next row begins; it is said."""
    path = written(tmp_path / "a.json", text)

    rows, (skipped,) = read(path)

    assert [row.value()["n"] for row in rows] == [1, 2]
    assert problem in skipped.problem
    assert "nothing after it" in skipped.problem
    assert skipped.where == f"{path}: row 3"


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_packed_file_without_its_end_gives_what_is_there(tmp_path: Path, packing: str) -> None:
    """A download that broke off must be noticed, not taken for the whole."""
    lines = "".join(
        json.dumps({"n": n, "text": f"{n * 7919 % 104729}"}) + "\n" for n in range(40_000)
    )
    packed = PACKINGS[packing](lines.encode())
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(packed[: len(packed) * 2 // 3])

    rows, skipped = read(path)

    assert 0 < len(rows) < 40_000
    assert "damaged" in skipped[-1].problem


def test_several_frames_are_one_file(tmp_path: Path) -> None:
    """`zstd` and `gzip` files may be joined with `cat`."""
    for packing, pack in list(PACKINGS.items())[1:]:
        path = tmp_path / f"a.jsonl{packing}"
        path.write_bytes(pack(b'{"n":1}\n{"n"') + pack(b":2}\n"))

        assert [row.value()["n"] for row in read(path)[0]] == [1, 2]


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.jsonl", '{"n":1}\n'.encode("utf-16"), "iconv"),
        ("a.jsonl.gz", b"no gzip", "cannot be unpacked"),
        ("a.jsonl.zst", b"no zstd", "cannot be unpacked"),
        ("a.parquet", b"no table", "no Parquet table"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, name: str, data: bytes, complaint: str
) -> None:
    """What to do, in one line."""
    path = tmp_path / name
    path.write_bytes(data)

    with pytest.raises(DataError, match=complaint):
        read(path)


def test_bytes_that_are_no_text_are_one_bad_row(tmp_path: Path) -> None:
    """A wrong byte must not end the file."""
    for name, data in (
        ("a.jsonl", b'{"n":1}\n{"n":"\xff"}\n{"n":3}\n'),
        ("b.json", b'[{"n":1},{"n":"\xff"},{"n":3}]'),
    ):
        path = tmp_path / name
        path.write_bytes(data)

        first, bad, last = read(path)[0]

        assert (first.value()["n"], last.value()["n"]) == (1, 3)
        with pytest.raises(Unreadable):
            bad.value()


def test_rows_of_a_table_have_no_keys_that_they_did_not_have(tmp_path: Path) -> None:
    """Arrow fills a struct's missing keys with nulls; as arguments they would be calls nobody made."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "id": n,
            "call": {"city": "Oslo"} if n % 2 else {"days": n},
            "s": "[1, null]",
            "more": [None],
        }
        for n in range(3_000)
    ]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    packed = written(tmp_path / "b.parquet.zst", path.read_bytes())

    assert [row.value() for row in read(path)[0]] == rows
    assert [row.value() for row in read(packed)[0]] == rows
    narrow = [row.value() for row in read(path, columns=("call", "absent"))[0]]
    assert narrow == [{"call": row["call"]} for row in rows]


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    """A data set of many files is one data set; what else lies in the folder is not."""
    names = ["b/2.jsonl.zst", "a-00001.parquet", "a-00000.jsonl"]
    for name in [*names, "README.md", ".hidden/x.jsonl", "a.sqlite"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert [str(p.relative_to(tmp_path)) for p in files_of(tmp_path)] == sorted(names)
    assert [p.name for p in files_of(tmp_path / "a-*")] == ["a-00000.jsonl", "a-00001.parquet"]
    with pytest.raises(DataError, match="no such file"):
        files_of(tmp_path / "c-*")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no"):
        files_of(tmp_path / "empty")


def test_a_name_is_bare_without_what_says_kind_and_packing() -> None:
    """It becomes the namespace and the folder."""
    assert bare_name(Path("x/gpt-4.1.jsonl.gz")) == "gpt-4.1"
    assert bare_name(Path("x/airline.json")) == "airline"


def test_a_look_at_the_beginning_reads_no_further_than_it_must(tmp_path: Path) -> None:
    """A 5 GB file must say what it is at once."""
    whole = {"info": {"git": "x"}, "tasks": ROWS, "simulations": ROWS * 1_000}
    path = written(tmp_path / "a.json", json.dumps(whole, indent=1))

    assert sample_of(path) == {"info": {"git": "x"}, "tasks": ROWS[:1], "simulations": ROWS[:1]}
    assert sample_of(written(tmp_path / "b.jsonl", KINDS["a.jsonl"](ROWS))) == ROWS[0]
    assert sample_of(written(tmp_path / "c.jsonl", "nope\n")) is None
    with pytest.raises(DataError, match="empty"):
        sample_of(written(tmp_path / "d.jsonl", ""))


def test_typed_reading_says_which_field_is_wrong() -> None:
    """The report names the place within the row."""

    class Point(msgspec.Struct):
        at: list[int]

    with pytest.raises(Unreadable) as caught:
        Row("a:1", b'{"at": [1, "x"]}').read(msgspec.json.Decoder(Point))

    assert caught.value.field == "at[1]"
    assert "str" in caught.value.problem
