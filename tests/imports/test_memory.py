"""Memory follows the longest row, not the file."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc"
)

_IMPORT = """
import sys
from pathlib import Path
from cacherl.imports import ImportOptions, import_files

options = ImportOptions(format_name="openai", cache=sys.argv[3] == "cache")
summary = import_files(Path(sys.argv[1]), Path(sys.argv[2]), options)
print(summary.trajectories, Path("/proc/self/status").read_text())
"""
_EXPORT = """
import sys
from pathlib import Path
from cacherl.exports import ExportOptions, export_folder

card = export_folder(Path(sys.argv[1]), Path(sys.argv[2]), ExportOptions(format_name="trl"))
print(card.rows, Path("/proc/self/status").read_text())
"""
_TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "d" * 500,
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    },
}
ROW = 60  # KiB
SMALL, LARGE = 30, 400


def rows(count: int) -> Iterator[dict[str, Any]]:
    dice = random.Random(0)
    for number in range(count):
        told = dice.randbytes(30_000).hex()  # not to be packed into nothing
        call = {"name": "search", "arguments": json.dumps({"q": f"q{number}"})}
        yield {
            "id": f"r{number}",
            "messages": [
                {"role": "user", "content": f"{number}?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c", "function": call}],
                },
                {"role": "tool", "tool_call_id": "c", "content": told},
                {"role": "assistant", "content": "Done."},
            ],
            "tools": [_TOOL],
        }


def written(path: Path, count: int) -> Path:
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        packed = [
            {"messages": json.dumps(r["messages"]), "tools": json.dumps(r["tools"])}
            for r in rows(count)
        ]
        pq.write_table(pa.Table.from_pylist(packed), path, row_group_size=100)
    elif path.suffix == ".json":
        path.write_text("[" + ",\n".join(map(json.dumps, rows(count))) + "]")
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows(count)).encode()
        if path.suffix == ".zst":
            text = pytest.importorskip("zstandard").compress(text)
        path.write_bytes(text)
    return path


def run(script: str, *arguments: object) -> tuple[int, int]:
    """Run in a process of its own; return the conversations and the most memory it ever held, in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    found, _, status = done.stdout.partition(" ")
    # Not `ru_maxrss`: that begins with what the parent held when it forked.
    return int(found), int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize(
    ("name", "cache", "counts"),
    [
        ("a.jsonl", "no cache", (SMALL, LARGE)),
        ("a.jsonl", "cache", (SMALL, LARGE)),
        ("a.json", "no cache", (SMALL, LARGE)),
        ("a.jsonl.zst", "no cache", (SMALL, LARGE)),
        # One page of each column is held, whatever we do: the writer says how many rows that is.
        ("a.parquet", "no cache", (LARGE, 3 * LARGE)),
    ],
    ids=["lines", "lines with a cache", "array", "packed lines", "table"],
)
def test_a_larger_file_takes_no_more_memory(
    tmp_path: Path, name: str, cache: str, counts: tuple[int, int]
) -> None:
    """A data set of 5 GB is imported on a laptop of 8: what grows is 100 bytes a conversation."""
    peaks = []
    for count in counts:
        source = written(tmp_path / f"{count}{name}", count)
        found, peak = run(_IMPORT, source, tmp_path / f"out{count}", cache)
        assert found == count
        peaks.append(peak)

    assert peaks[1] - peaks[0] < (counts[1] - counts[0]) * ROW // 3, peaks


def test_a_file_that_unpacks_to_far_more_is_unpacked_bit_by_bit(tmp_path: Path) -> None:
    """Somebody else's file of 20 KB may hold one line of half a gigabyte: it is left out unread."""
    zstandard = pytest.importorskip("zstandard")
    plain = written(tmp_path / "plain.jsonl", 1)
    _, usual = run(_IMPORT, plain, tmp_path / "plain", "no cache")
    path, packer = tmp_path / "bomb.jsonl.zst", zstandard.ZstdCompressor().compressobj()
    with path.open("wb") as file:
        file.write(packer.compress(plain.read_bytes()))
        for _ in range(32):
            file.write(packer.compress(b"x" * (16 << 20)))
        file.write(packer.flush())

    found, peak = run(_IMPORT, path, tmp_path / "bomb", "no cache")

    assert path.stat().st_size < 200_000
    assert found == 1
    assert peak - usual < 160 << 10, (peak, usual)  # KiB: a few times the longest row


def test_an_export_holds_no_more_than_a_batch(tmp_path: Path) -> None:
    """The same on the way out, tasks with their tools included."""
    peaks = []
    for count in (SMALL, LARGE):
        folder = tmp_path / f"out{count}"
        run(_IMPORT, written(tmp_path / f"{count}.jsonl", count), folder, "no cache")
        found, peak = run(_EXPORT, folder, tmp_path / f"{count}-trl.jsonl")
        assert found == count
        peaks.append(peak)

    assert peaks[1] - peaks[0] < (LARGE - SMALL) * ROW // 3, peaks
