"""The README of a repository: what a hub reads of it, and that nobody else's words become its markup."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.publish.readme import dataset_readme
from cacherl.select.card import Card, CardBuilder

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def card(
    *licences: str | None, tool: str = "find", language: str = "en", name: str = "desk"
) -> Card:
    """Return the card of one imported conversation for each licence."""
    builder = CardBuilder()
    for number, licence in enumerate(licences):
        task = Task(
            id=f"t{number}",
            split=Split.TRAIN,
            family="f",
            language=language,
            wording="",
            scenario="",
            namespace="n",
            system="",
            user_turns=("Hi",),
            tools=(),
        )
        messages = (
            UserMessage(content="Hi"),
            AssistantMessage(calls=(ToolCall(id="c", name=tool, arguments={}),)),
        )
        notes = {"format": "openai", "from": "a.jsonl:1"} | (
            {"licence": licence} if licence else {}
        )
        builder.add(
            task,
            Trajectory(
                task_id=task.id,
                policy="p",
                messages=messages,
                results=(),
                stop=StopReason.ANSWER,
                notes=notes,
            ),
        )
    return builder.build(name=name, made_at=NOW)


def written(card: Card, licence: str | None = None, *, has_table: bool = True) -> tuple[Any, str]:
    text = dataset_readme(card, "ana/desk", licence=licence, has_table=has_table, files=["a.jsonl"])
    _, matter, body = text.split("---\n", 2)
    return yaml.safe_load(matter), body


@pytest.mark.parametrize(
    ("sources", "said", "expected"),
    [
        (("MIT",), None, {"license": "mit"}),
        (("Apache-2.0", "Apache-2.0"), None, {"license": "apache-2.0"}),
        (("MIT", "Apache-2.0"), None, {"license": "other"}),
        (("MIT", None), None, {"license": "other"}),
        ((None,), None, {"license": "unknown"}),
        (("MIT", "Apache-2.0"), "CC-BY-4.0", {"license": "cc-by-4.0"}),
        (("My Own 1",), None, {"license": "other", "license_name": "my-own-1"}),
    ],
)
def test_the_licence_is_that_of_all_sources_or_none(
    sources: tuple[str | None, ...], said: str | None, expected: dict[str, str]
) -> None:
    """A hub shows one word, and people go by it: where two differ it must not be one of them."""
    matter, body = written(card(*sources), said)

    assert {key: matter[key] for key in matter if key.startswith("license")} == expected
    assert all(source in body for source in sources if source)


def test_without_a_table_the_hub_is_told_not_to_show_one() -> None:
    """It would guess from the JSON files, and show an error."""
    with_table, _ = written(card("MIT"))
    without, body = written(card("MIT"), has_table=False)

    assert with_table["configs"][0]["data_files"][0]["path"] == "data/train.parquet"
    assert without["viewer"] is False
    assert "configs" not in without
    assert "load_dataset" not in body


def test_a_language_that_nobody_knows_is_not_named() -> None:
    """`und` is no tag that the Hub takes."""
    matter, _ = written(card("MIT", language="und-x"))

    assert "language" not in matter


@pytest.mark.parametrize(
    "name",
    ["x`|y", "[a](javascript:x)", "<script>x</script>", "a\n# b", "\x1b[31mred", "---\nx: y"],
)
def test_names_of_others_are_text(name: str) -> None:
    """Tools of a stranger's server stand in the README under our name."""
    matter, body = written(card("MIT", tool=name, name=name))

    assert set(matter) >= {"license", "configs", "tags"}
    assert "<script>" not in body.replace("`<script>x</script>`", "")
    assert "[a](" not in body.replace("`[a](javascript:x)`", "")
    assert "\x1b" not in body
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert len(headings) == len(written(card("MIT"))[1].split("\n#")) - 1
