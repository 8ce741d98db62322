"""A run's data, made of real episodes on the small world, for the page to be drawn from."""

from __future__ import annotations

import math

import msgspec

from cacherl.agent import run_episode
from cacherl.cache.trust.fidelity import (
    Bin,
    Calibration,
    Estimate,
    Looks,
    Reliability,
    Suspect,
    Unit,
)
from cacherl.core.models import Limits
from cacherl.core.tools import Tier
from cacherl.core.trajectories import StopReason
from cacherl.metrics import EvalRow, FailureKind, paired_difference, summarise
from cacherl.report import (
    Curve,
    Gain,
    ModelReport,
    NextCommand,
    ReportData,
    TeacherCost,
    Transcript,
)
from tests.desk_of_two import (
    RIGHT,
    SILENT,
    WRONG_VALUE,
    StatelessTools,
    TaskModel,
    copy_task,
    read,
    says,
)

FAMILIES = ("cancel_order", "refund", "two_orders", "find_article", "book_visit", "no_tool")


def rows(policy: str, strength: float, *, live: bool) -> list[EvalRow]:
    """Return 60 rows whose accuracies spread around `strength`."""
    out = []
    for i in range(60):
        luck = (i * 37 % 60) / 60
        accuracy = 1.0 if luck < strength else (0.5 if luck < strength + 0.1 else 0.0)
        tier = Tier.LIVE if live else (Tier.EXACT, Tier.EXACT, Tier.FUZZY, Tier.BEST_EFFORT)[i % 4]
        out.append(
            EvalRow(
                task_id=f"t{i:02}",
                policy=policy,
                seed=0,
                live=live,
                family=FAMILIES[i % len(FAMILIES)],
                language="fr" if i % 3 == 0 else "en",
                wording="new" if i % 4 == 0 else "old",
                seen_wording=i % 4 != 0,
                process_accuracy=accuracy,
                end_to_end=accuracy == 1.0,
                outcome_right=accuracy == 1.0,
                answer_right=accuracy > 0,
                stop=StopReason.ANSWER if accuracy else StopReason.MAX_TURNS,
                tiers=(tier,) * 2,
                worst_tier=tier,
                failures=() if accuracy else (FailureKind.OVER_CHAINING,),
                calls=3,
                gold_calls=2,
                turns=4,
                prompt_tokens=900,
                completion_tokens=123,
                thinking_share=0.41,
            )
        )
    return out


def calibration() -> Calibration:
    """Return a calibration of a cache with one sound and one doubtful tool."""

    def found(tool: str, tier: Tier, n: float, same: float, fidelity: float) -> Estimate:
        return Estimate(
            namespace="desk" if tool else "",
            tool=tool,
            tier=tier,
            state_matched=tier is not Tier.BEST_EFFORT,
            n=n,
            same=same,
            fidelity=fidelity,
            low=fidelity - 0.061,
            high=fidelity + 0.012,
        )

    return Calibration(
        made_at=0.0,
        cache="train.sqlite",
        calls=4182,
        observations=4400,
        scenarios=300,
        unit=Unit.OBSERVATION,
        seed=0,
        per_tool=300,
        asked=913,
        answered={Tier.EXACT: 702.0, Tier.BEST_EFFORT: 118.0, Tier.MISS: 93.0},
        estimates=(
            found("", Tier.EXACT, 702.0, 694.0, 0.983),
            found("", Tier.BEST_EFFORT, 118.0, 27.5, 0.241),
            found("get_order", Tier.EXACT, 611.0, 611.0, 0.987),
            found("search_kb", Tier.EXACT, 91.0, 83.0, 0.912),
            found("search_kb", Tier.BEST_EFFORT, 118.0, 27.5, 0.236),
        ),
        reliability=Reliability(
            n=820.0,
            folds=5,
            error=0.0173,
            bins=(
                Bin(low=0.2, high=0.3, n=118.0, stated=0.24, observed=0.21),
                Bin(low=0.9, high=1.0, n=702.0, stated=0.981, observed=0.989),
            ),
        ),
        suspects=(
            Suspect(
                namespace="desk",
                tool="search_kb",
                contradicted=8,
                repeated=31,
                within_episode=False,
                reads=(),
                paths=("$",),
                arguments='{"query":"boots"}',
                answers=("[]", '["boots 17"]'),
                looks=Looks.UNCLEAR,
                advice="answers differ though nothing it reads was written: declare what it reads",
            ),
        ),
    )


async def sample_report() -> ReportData:
    strengths = {"base": 0.06, "sft": 0.74, "grpo": 0.9}
    live = {name: rows(name, s, live=True) for name, s in strengths.items()}
    cached = {name: rows(name, s - 0.04, live=False) for name, s in strengths.items()}
    task = copy_task("t", family="cancel_order")
    thoughtful = says("", read(0), thinking="The text must come from note 0, so I read it first.")
    played = {}
    for name, script, tier in (
        ("base", SILENT, Tier.LIVE),
        ("sft", WRONG_VALUE, Tier.FUZZY),
        ("grpo", (thoughtful, *RIGHT[1:]), Tier.EXACT),
    ):
        played[name] = await run_episode(
            TaskModel({"t": script}, name=name),
            StatelessTools(tier=tier),
            task,
            limits=Limits(),
        )
    steps = tuple(float(i) for i in range(1, 121))
    return ReportData(
        recipe="quickstart",
        machine="2 cores, no GPU",
        commit="abc1234",
        finished="24 November 2026",
        seed=17,
        models=tuple(
            ModelReport(name=name, live=summarise(live[name]), cached=summarise(cached[name]))
            for name in strengths
        ),
        gains=tuple(
            Gain(before=a, after=b, metric="process_accuracy", mean=mean, low=low, high=high)
            for a, b in (("base", "sft"), ("sft", "grpo"))
            for mean, low, high in [paired_difference(live[a], live[b])]
        ),
        sft_loss=Curve(
            steps=steps,
            values=tuple(3 * math.exp(-s / 25) + 0.2 * math.sin(s * 3) ** 2 for s in steps),
        ),
        grpo={
            "reward": Curve(
                steps=steps, values=tuple(0.9 - 0.3 * math.exp(-s / 40) for s in steps)
            ),
            "process": Curve(
                steps=steps, values=tuple(0.94 - 0.25 * math.exp(-s / 30) for s in steps)
            ),
            "answer": Curve(
                steps=steps, values=tuple(0.86 - 0.4 * math.exp(-s / 50) for s in steps)
            ),
            "kl": Curve(steps=steps, values=tuple(0.02 * s**0.5 for s in steps)),
        },
        grpo_tier_mix={
            "exact": Curve(steps=steps, values=tuple(0.5 + 0.002 * s for s in steps)),
            "fuzzy": Curve(steps=steps, values=(0.15,) * len(steps)),
            "best_effort": Curve(steps=steps, values=tuple(0.35 - 0.002 * s for s in steps)),
        },
        stage_wall_s={
            "record": 21.5,
            "augment": 3.2,
            "sft": 240.0,
            "grpo": 270.0,
            "evaluate": 88.0,
        },
        live_calls_in_training=0,
        teacher=TeacherCost(usd=0.0, calls=0, prompt_tokens=0, completion_tokens=0),
        cache_stats={"entries": 4182, "tools": 14, "errors_recorded": 301, "mean_fidelity": 0.973},
        calibration=calibration(),
        transcripts=(
            Transcript(task=task, played=played),
            Transcript(
                task=msgspec.structs.replace(task, user_turns=("Copie la note 0, merci.",)),
                played=played,
            ),
        ),
        next_commands=(
            NextCommand(
                why="Try other tasks.", command="cacherl eval runs/quickstart/grpo --seed 7"
            ),
        ),
    )
