"""Documents that name what does not exist send people the wrong way."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def rooms_of_the_picture() -> list[str]:
    table = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)


def rooms_of_the_code() -> set[str]:
    found = set()
    for path in (ROOT / "src/cacherl").iterdir():
        if path.suffix == ".py" and path.stem != "__init__":
            found.add(path.stem)
        elif path.is_dir() and any(path.rglob("*.py")):
            found.add(path.name)
    return found


def test_the_picture_shows_every_room_and_no_other() -> None:
    """A newcomer looks for the place of a change in it."""
    assert sorted(rooms_of_the_picture()) == sorted(rooms_of_the_code())


def test_the_picture_has_the_order_of_the_contract() -> None:
    """The drawing and the rule that holds the code to it are one."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(
        contract["layers"]
        for contract in config["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    contract = [re.findall(r"\w+", layer) for layer in reversed(layers)]

    assert rooms_of_the_picture() == [room for layer in contract for room in layer]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A dead link in the first page a newcomer reads is a bad start."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_paper_leads_to_code_that_exists() -> None:
    """The index is how a reader gets from a method to its lines."""
    index = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
    names = re.findall(r"`(cacherl[\w.]+)`", index)

    assert len(names) > 10
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_readme_names_only_verbs_that_make_knows() -> None:
    """Copy, paste, work."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, flags=re.MULTILINE))

    for page in PAGES:
        verbs = re.findall(
            r"^ {4}make ([\w-]+)|`make ([\w-]+)", page.read_text(encoding="utf-8"), re.M
        )
        assert {a or b for a, b in verbs} <= targets, page
