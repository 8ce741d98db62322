"""Whatever a row has become on its way, it is a valid conversation or skipped by field: nothing else."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from cacherl.core.errors import DataError
from cacherl.formats.format import Format
from cacherl.formats.table import FORMATS, guess
from tests.formats import samples
from tests.formats.reading import read

ROWS: dict[str, list[Any]] = {
    "toucan": [samples.toucan()],
    "toolathlon": [samples.toolathlon()],
    "apigen-mt": [samples.apigen()],
    "xlam": [samples.xlam()],
    "toolace": [samples.toolace()],
    "hermes": [samples.hermes()],
    "glaive": [samples.glaive()],
    "sharegpt": [samples.sharegpt()],
    "tau-bench": [samples.tau()],
    "tau2-bench": [samples.tau2()],
    "inspect": [samples.inspect()],
    "mcp-log": samples.mcp(),
    "otel": samples.otel(),
}
JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1.5,
    2**70,
    "",
    "text",
    "{",
    "[]",
    '{"name": 1}',
    "<tool_call>{",
    "[f(",
    [],
    {},
    [None],
    {"name": []},
    [[[[]]]],
)


def mutated(value: Any, dice: random.Random) -> Any:
    """Return the value with one place changed, inside JSON texts too."""
    if isinstance(value, str) and value[:1] in ("{", "[") and dice.random() < 0.8:
        try:
            return json.dumps(mutated(json.loads(value), dice))
        except ValueError:
            pass
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        match dice.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case _:
                return {**value, key: mutated(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.9:
        place = dice.randrange(len(value))
        match dice.randrange(6):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, copy.deepcopy(value[place])]
            case 2:
                other = dice.randrange(len(value))
                swapped = list(value)
                swapped[place], swapped[other] = swapped[other], swapped[place]
                return swapped
            case _:
                return [*value[:place], mutated(value[place], dice), *value[place + 1 :]]
    if isinstance(value, str) and value and dice.random() < 0.5:
        place = dice.randrange(len(value))
        return (
            value[:place]
            + dice.choice(["", "'", '"', "\\", "<", "\u2028", "\x00"])
            + value[place + 1 :]
        )
    return dice.choice(JUNK)


def written(kind: Format, rows: list[Any], path: Path) -> None:
    if kind.under and kind.name != "otel":
        path.write_text(json.dumps(rows[0]), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_a_changed_row_is_read_or_skipped_by_field(name: str, tmp_path: Path) -> None:
    """`read` checks every conversation that comes out, to its replay; anything raised fails the test."""
    kind = FORMATS[name]
    dice = random.Random(name)
    path = tmp_path / "rows.json"
    came = went = 0
    for _ in range(60):
        rows = copy.deepcopy(ROWS[name])
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(len(rows))
            rows[place] = mutated(rows[place], dice)
        written(kind, rows, path)
        try:
            found, skipped = read(kind, path)
        except DataError:  # nothing is left of the file
            continue
        came += bool(found)
        went += bool(skipped)
        assert all(each.problem and each.where.startswith(str(path)) for each in skipped)
    assert came
    assert went


@pytest.mark.parametrize("name", ROWS)
def test_the_file_says_what_it_is(name: str) -> None:
    """`cacherl import` without `--format` takes what the first row looks like."""
    guessed = guess(ROWS[name][0])

    assert guessed is not None
    assert guessed.name == name


def test_the_page_names_every_format_and_its_licence() -> None:
    """A licence that a page gets wrong is a licence that somebody breaks."""
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}

    for name in ROWS:
        assert (FORMATS[name].licence or "") in rows[name]
