"""The page on the cache runs: whoever copies an example must get what the page says."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import msgspec
import pytest

from cacherl.cache.lookup.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs/cache.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_examples_run_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder, with nothing but what stands on the page."""
    pytest.importorskip("sklearn", reason="the page calibrates")
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    names = runpy.run_path(str(script))
    assert names["summary"].live_calls == 3


def test_the_settings_on_the_page_are_settings() -> None:
    """A key that does not exist would be refused with a message the reader has not earned."""
    [block] = blocks("toml")
    settings = msgspec.convert(tomllib.loads(block), Settings)

    assert settings.rules("shop", "get_order").max_age_s == 86400
    assert settings.rules("shop", "search").kinds == {"query": "text", "filters.code": "code"}
