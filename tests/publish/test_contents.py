"""What of a path may leave the house."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.core.errors import DataError
from cacherl.publish.contents import Kind, files_of, kind_of


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A folder from elsewhere may hold a link to a key."""
    key = tmp_path / "id_ed25519"
    key.write_text("key")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "trajectories.jsonl").symlink_to(key)
    (folder / "tasks.jsonl").write_text("")

    with pytest.raises(DataError, match="is a link to"):
        files_of(folder, Kind.FOLDER, only_best=False)


def test_a_cache_that_is_being_written_is_not_pushed(tmp_path: Path) -> None:
    """Half of it stands in the write-ahead log, which stays here."""
    cache = tmp_path / "train.sqlite"
    cache.write_bytes(b"x")
    cache.with_name("train.sqlite-wal").write_bytes(b"x")

    with pytest.raises(DataError, match="is being written to"):
        files_of(cache, Kind.CACHE, only_best=False)


def test_a_path_with_nothing_to_publish_is_told(tmp_path: Path) -> None:
    """The wrong folder is a common slip, and a home directory on the Hub is not undone."""
    (tmp_path / ".ssh").mkdir()

    with pytest.raises(DataError, match=r"no tasks\.jsonl"):
        kind_of(tmp_path)
