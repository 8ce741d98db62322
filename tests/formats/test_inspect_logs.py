"""Inspect logs, plain and zipped."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from cacherl.core.errors import DataError
from cacherl.core.messages import MalformedCall
from cacherl.core.tools import ErrorClass, Source
from cacherl.formats.inspect_logs import INSPECT
from cacherl.formats.rows import MAX_ROW_BYTES
from tests.formats import samples
from tests.formats.reading import calls_of, made, read, read_object, thoughts
from tests.formats.samples import OSLO


def test_an_inspect_log_is_read_whole(tmp_path: Path) -> None:
    """Reasoning parts, attachments, parse errors, tool errors, tools from the model's event."""
    ((task, trajectory),), skipped = read_object(INSPECT, tmp_path, samples.inspect())

    assert not skipped
    assert made(trajectory) == [OSLO]
    assert isinstance(calls_of(trajectory)[1], MalformedCall)
    first, second = trajectory.results
    assert (first.text, first.is_error) == ("sun, all day long", False)
    assert (second.text, second.error_class) == ("Expecting value", ErrorClass.VALIDATION)
    assert second.source is Source.LOOP
    assert thoughts(trajectory) == ["I need the tool.", None]
    assert (task.id, task.family, trajectory.rollout) == ("ns-cities1", "cities", 1)
    assert trajectory.policy == "provider/some-model"
    assert trajectory.notes["scores"] == {"match": "C"}
    assert [spec.parameters for spec in task.tools] == [samples.WEATHER["parameters"]]


def test_an_eval_file_is_the_same_log_zipped(tmp_path: Path) -> None:
    """A sample a member, so memory holds one."""
    log = samples.inspect()
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"eval": log["eval"]}))
        archive.writestr("samples/1_epoch_2.json", json.dumps(log["samples"][0]))
        archive.writestr("samples/2_epoch_2.json", "{}")
    ((task, trajectory),), skipped = read(INSPECT, path)

    assert made(trajectory) == [OSLO]
    assert task.family == "cities"
    assert [(each.where, each.field) for each in skipped] == [
        (f"{path}: samples/2_epoch_2.json", "messages")
    ]


def test_a_damaged_eval_file_is_an_error(tmp_path: Path) -> None:
    """With the way out."""
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{")
    with pytest.raises(DataError, match=r"header\.json is no JSON"):
        read(INSPECT, path)


def locked(path: Path) -> None:
    """Set the flag of every member that says: encrypted."""
    raw = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + flags] |= 1
            at = raw.find(mark, at + 4)
    path.write_bytes(raw)


@pytest.mark.parametrize("spoilt", ["header", "locked", "sample"])
def test_an_eval_file_that_unpacks_to_too_much_or_not_at_all_is_told(
    tmp_path: Path, spoilt: str
) -> None:
    """Somebody else's zip must neither fill the memory nor end in a traceback."""
    path, bomb = tmp_path / "log.eval", " " * (MAX_ROW_BYTES + 1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", bomb if spoilt == "header" else "{}")
        archive.writestr("samples/1.json", bomb if spoilt == "sample" else "{}")
    if spoilt == "locked":
        locked(path)
    if spoilt == "sample":
        _, skipped = read(INSPECT, path)
        assert "more than 32 MiB" in skipped[0].problem
    else:
        with pytest.raises(DataError, match=r"cannot be unpacked \(.*(32 MiB|encrypted)"):
            read(INSPECT, path)
