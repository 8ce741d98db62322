"""The reliability of chains, from runs whose figures can be reckoned by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pytest

from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage
from cacherl.core.models import ModelTurn
from cacherl.core.tasks import Split, Task
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.reliability import (
    ChainRow,
    Fallback,
    Reliability,
    fallback_of,
    reliability,
    run_calls,
)
from cacherl.report.reliability import render_reliability
from cacherl.teacher.prices import Price, PricesFile, PriceTable
from tests.desk_of_two import RIGHT, SILENT, WRONG_VALUE, read, says, write
from tests.evaluate.folders import evaluated
from tests.evaluate.notes import NotesSuite, nothing
from tests.fakes import Script, ScriptedModel

AT = datetime(2026, 11, 24, tzinfo=UTC)
PRICES = PriceTable(
    PricesFile(as_of=date(2026, 11, 1), prices={"big:one": Price(prompt=1.25, completion=10)})
)
BOTH_WRONG = (says("", read(1)), says("", write("bread")), says("I wrote milk again."))


def metered(turns: tuple[AssistantMessage, ...]) -> tuple[Script, ...]:
    return tuple(
        ModelTurn(message=turn, prompt_tokens=100, completion_tokens=10, model_s=0.3)
        for turn in turns
    )


def tens(root: Path) -> EvalFolder:
    """Ten tasks of two calls; the second call of two tasks is wrong: 18 of 20 calls are right."""

    def turns(task: Task) -> tuple[Script, ...]:
        return metered(WRONG_VALUE if task.id in ("note-0-000", "note-0-001") else RIGHT)

    evaluated(root, ScriptedModel(turns, name="m"), count=10)
    return EvalFolder(root)


def row(found: Reliability, steps: int, retries: int, *, fallback: bool = False) -> ChainRow:
    return next(
        each
        for each in found.chains
        if (each.steps, each.retries, each.fallback) == (steps, retries, fallback)
    )


def test_an_oracle_makes_chains_that_all_go_right(tmp_path: Path) -> None:
    """A ceiling below 1 would be ours. The interval still says that six tasks prove little."""
    evaluated(tmp_path, ScriptedModel(RIGHT, name="gold"), count=6)

    found = reliability(run_calls(EvalFolder(tmp_path)), prices=PRICES, at=AT)

    assert found.steps.success is not None
    assert found.steps.success.value == 1.0
    assert found.ceiling.value == 1.0
    assert found.floor.value is None
    assert {each.success for each in found.chains} == {1.0}
    assert all(each.low < 0.7 and each.n == 6 for each in found.chains)
    assert {check.resampled.value for check in found.checks} == {1.0}


def test_figures_are_those_reckoned_by_hand(tmp_path: Path) -> None:
    """18 of 20 calls: 0.9 a call, and 41 % of five-step chains fail."""
    found = reliability(run_calls(tens(tmp_path)), prices=PRICES, at=AT)

    assert found.steps.success is not None
    assert (found.calls, found.episodes, found.tasks, found.silent) == (20, 10, 10, 0)
    assert found.steps.success.value == pytest.approx(0.9)
    assert [each.value for each in found.steps.by_position] == pytest.approx([1.0, 0.8])
    assert row(found, 5, 0).success == pytest.approx(0.9**5)
    assert row(found, 5, 0).low == pytest.approx(found.steps.success.low**5)
    assert found.sentences[0].startswith("90 % a call: 41 % of 5-step chains fail somewhere")
    assert "n = 10 tasks, 20 calls" in found.sentences[0]


def test_a_check_retries_and_a_fallback_mend_what_they_promise(tmp_path: Path) -> None:
    """With a perfect check, two retries leave one call in a thousand."""
    found = reliability(
        run_calls(tens(tmp_path)),
        prices=PRICES,
        at=AT,
        catch=1.0,
        false_alarm=0.0,
        fallback=Fallback(success=0.5, dollars_per_call=0.01, said="given"),
        dollars_per_hour=2,
        teacher="big:one",
    )

    assert row(found, 5, 2).success == pytest.approx(0.999**5)
    assert row(found, 1, 0).given_up == pytest.approx(0.1)
    asked = row(found, 1, 0, fallback=True)
    assert asked.success == pytest.approx(0.9 + 0.1 * 0.5)
    assert asked.dollars == pytest.approx(0.45 * 2 / 3600 + 0.1 * 0.01)


def test_cost_stands_beside_the_teachers_at_a_price_of_a_day(tmp_path: Path) -> None:
    """150 tokens read and 15 written a call, 0.45 s: $337.50 a million calls against $250."""
    run = run_calls(tens(tmp_path))

    costs = reliability(
        run, prices=PRICES, at=AT, teacher="big:one", dollars_per_hour=2, catch=0.0
    ).costs

    assert (costs.prompt_tokens, costs.completion_tokens) == (150, 15)
    assert costs.calls_per_interaction == 2
    assert "2026-11-01" in costs.teacher_said
    assert costs.plain is not None
    assert costs.plain.per_million_calls == pytest.approx(250)
    assert costs.plain.teacher_per_million_calls == pytest.approx(337.5)
    assert costs.plain.teacher_per_10k_interactions == pytest.approx(6.75)
    assert costs.watched == costs.plain  # nothing is caught, so nothing is tried again


def test_without_a_price_dollars_are_unknown_and_tokens_are_told(tmp_path: Path) -> None:
    """Unknown is not free."""
    found = reliability(run_calls(tens(tmp_path)), prices=PRICES, at=AT)

    assert found.costs.student_per_call is None
    assert "--usd-per-hour" in found.costs.student_said
    assert found.costs.plain is None
    assert {each.dollars for each in found.chains} == {None}


def test_failures_that_come_together_refute_the_product_rule(tmp_path: Path) -> None:
    """Half the tasks are wrong throughout: half of the chains are right, not a quarter."""

    def turns(task: Task) -> tuple[Script, ...]:
        return BOTH_WRONG if int(task.id[-3:]) % 2 else RIGHT

    evaluated(tmp_path, ScriptedModel(turns, name="m"), count=24)
    found = reliability(run_calls(EvalFolder(tmp_path)), prices=PRICES, at=AT)

    check = next(each for each in found.checks if each.steps == 2)
    assert check.rule is not None
    assert (check.rule.observed.value, check.product, check.holds) == (0.5, 0.25, False)
    assert check.resampled.value == pytest.approx(0.5, abs=0.02)
    assert any("does not hold for 2 steps" in said for said in found.sentences)


def test_another_run_is_the_fallback_with_its_own_success(tmp_path: Path) -> None:
    """A measured fallback beats an assumed one, and says its n."""
    found = fallback_of(run_calls(tens(tmp_path)), PRICES, at=AT)

    assert found.success == pytest.approx(0.9)
    assert "n = 10" in found.said
    assert found.dollars_per_call is None


def test_an_episode_without_a_call_is_no_chain(tmp_path: Path) -> None:
    """It is told, and lowers no share of calls."""

    def turns(task: Task) -> tuple[Script, ...]:
        return SILENT if task.id == "note-0-000" else RIGHT

    evaluated(tmp_path, ScriptedModel(turns, name="m"), count=6)
    found = reliability(run_calls(EvalFolder(tmp_path)), prices=PRICES, at=AT)

    assert (found.silent, found.tasks, found.episodes) == (1, 5, 6)
    assert row(found, 10, 0).success == 1.0


def test_a_run_without_gold_calls_or_without_a_call_says_so(tmp_path: Path) -> None:
    """No figure is better than one of nothing."""

    class Untold(NotesSuite):
        def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
            return [
                msgspec.structs.replace(task, gold=None)
                for task in super().tasks(split, count=count, seed=seed)
            ]

    evaluated(tmp_path / "a", ScriptedModel(RIGHT, name="m"), suite=Untold(), count=3)
    with pytest.raises(DataError, match="gold calls"):
        run_calls(EvalFolder(tmp_path / "a"))

    evaluated(tmp_path / "b", nothing(), count=3)
    with pytest.raises(DataError, match="made no call in 3 episodes"):
        run_calls(EvalFolder(tmp_path / "b"))


def test_the_page_has_the_figures_and_no_markup_of_others(tmp_path: Path) -> None:
    """A model may be called anything."""
    evaluated(tmp_path, ScriptedModel(RIGHT, name="<b>m</b>"), count=3)

    page = render_reliability(
        reliability(run_calls(EvalFolder(tmp_path)), prices=PRICES, at=AT, teacher="big:one")
    )

    assert "&lt;b&gt;m&lt;/b&gt;" in page
    assert "<b>m</b>" not in page
    assert "doing nothing makes no call" in page
