"""How often the cache is right, on real recordings, next to the keys that others use.

    make bench-fidelity

Worlds: tau-bench (200 conversations of gpt-4o with the airline's tools, `../shared/data`) and the
gold calls of BFCL's multi-turn tasks on their real backends. Queries are calls whose true answer is
known; each walks its own episode, so that the state is the one the live tool stood in.

Schemes:

    canonical         namespace, tool, canonical arguments: no state at all
    full history      task and every earlier call
    writer prefix     task and every earlier call of a tool that writes (as TVCACHE does)
    writer prefix, global   the same without the task, failed writes dropped
    read/write sets   ours: the earlier writes that touch what the call reads
    fingerprint       ours, where the environment tells its state
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from cacherl.cache.identity.state import StateOverlay
from cacherl.cache.lookup.draws import Draw
from cacherl.cache.lookup.hit import Scope, Viewpoint
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.tasks import Split
from cacherl.core.tools import Source, Tier, ToolResult, ToolSpec
from cacherl.formats.tau_bench import read_tau_bench
from cacherl.suites.bfcl.backends import Backends, state_of
from cacherl.suites.bfcl.cases import Case, Cases, read_cases
from cacherl.suites.bfcl.wheel import add_wheel

TAU = Path("../shared/data/tau-bench/gpt-4o-airline.json")
RESULTS = Path("benchmarks/results")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call, what the live tool said, and what the environment's state was before it."""

    spec: ToolSpec
    call: ToolCall
    result: ToolResult
    fingerprint: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One episode on live tools."""

    namespace: str
    scenario: str
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Tally:
    """What a scheme found."""

    asked: int = 0
    met: dict[str, int] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    stated: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, tier: str, right: bool, stated: float | None, what: str) -> None:
        """Count one answer."""
        self.met[tier] = self.met.get(tier, 0) + 1
        self.right[tier] = self.right.get(tier, 0) + right
        if stated is not None:
            self.stated.setdefault(tier, []).append(stated)
        if not right:
            self.wrong.append(f"{tier}: {what}")

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return, by tier: hits, their share of all calls, and the share of them that was right."""
        return {
            tier: {
                "hits": met,
                "share": round(met / self.asked, 4),
                "right": round(self.right[tier] / met, 4),
                "stated": _mean(self.stated.get(tier)),
            }
            for tier, met in self.met.items()
        }


def _mean(values: list[float] | None) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


Silent = Callable[[Step], bool]
"""Calls that are made but not counted: every key answers them alike."""


# ---- other people's keys


Key = Callable[[Episode, Sequence[Step], Step, bytes], tuple[Any, ...]]


def _canonical(step: Step, cache: ToolCache) -> bytes:
    return cache.plan(step.spec).normal(step.call.arguments).canonical


def canonical(episode: Episode, before: Sequence[Step], step: Step, said: bytes) -> tuple[Any, ...]:
    """Key: tool and canonical arguments."""
    return step.spec.name, said


def raw(episode: Episode, before: Sequence[Step], step: Step, said: bytes) -> tuple[Any, ...]:
    """Key: tool and the arguments as they were written."""
    return step.spec.name, json.dumps(step.call.arguments)


def _history(steps: Iterable[Step]) -> str:
    return json.dumps([[s.spec.name, s.call.arguments] for s in steps], sort_keys=True)


def full_history(
    episode: Episode, before: Sequence[Step], step: Step, said: bytes
) -> tuple[Any, ...]:
    """Key: the task and every earlier call."""
    return episode.scenario, _history(before), step.spec.name, said


def writer_prefix(
    episode: Episode, before: Sequence[Step], step: Step, said: bytes
) -> tuple[Any, ...]:
    """Key: the task and every earlier call of a tool that writes."""
    writes = [s for s in before if s.spec.effects.writes]
    return episode.scenario, _history(writes), step.spec.name, said


def writer_prefix_global(
    episode: Episode, before: Sequence[Step], step: Step, said: bytes
) -> tuple[Any, ...]:
    """Key: every earlier successful call of a tool that writes."""
    writes = [s for s in before if s.spec.effects.writes and not s.result.is_error]
    return _history(writes), step.spec.name, said


OTHERS: dict[str, Key] = {
    "raw JSON": raw,
    "canonical": canonical,
    "full history": full_history,
    "writer prefix": writer_prefix,
    "writer prefix, global": writer_prefix_global,
}


def measured(key: Key, known: Sequence[Episode], asked: Sequence[Episode], silent: Silent) -> Tally:
    """Return what a plain key finds: the first recorded answer of an equal key."""
    cache = ToolCache.open(":memory:")
    answers: dict[tuple[Any, ...], str] = {}
    for episode, before, step in _walk(known):
        answers.setdefault(key(episode, before, step, _canonical(step, cache)), step.result.text)
    tally = Tally()
    for episode, before, step in _walk(asked):
        if silent(step):
            continue
        tally.asked += 1
        found = answers.get(key(episode, before, step, _canonical(step, cache)))
        if found is not None:
            tally.add("hit", found == step.result.text, None, _named(step))
    return tally


def _walk(episodes: Iterable[Episode]) -> Iterator[tuple[Episode, Sequence[Step], Step]]:
    for episode in episodes:
        for place, step in enumerate(episode.steps):
            yield episode, episode.steps[:place], step


def _named(step: Step) -> str:
    return f"{step.spec.name} {json.dumps(step.call.arguments, ensure_ascii=False)[:160]}"


# ---- ours


def ours(
    known: Sequence[Episode],
    asked: Sequence[Episode],
    silent: Silent,
    *,
    scope: Scope = Scope.GLOBAL,
    by_fingerprint: bool = False,
) -> Tally:
    """Return what the cache finds, with the fidelity it states after calibrating on `known`."""
    cache = ToolCache.open(":memory:")
    for episode, step, state_key, occurrence in _placed(cache, known, by_fingerprint):
        cache.record(
            episode.namespace,
            step.spec,
            step.call,
            step.result,
            state_key=state_key,
            scenario=episode.scenario,
            split=Split.TRAIN,
            recorded_at=0.0,
            occurrence=occurrence,
        )
    cache.calibrate(scope=scope)
    tally = Tally()
    for episode, step, state_key, occurrence in _placed(cache, asked, by_fingerprint):
        if silent(step):
            continue
        tally.asked += 1
        hit = cache.lookup(
            episode.namespace,
            step.spec,
            step.call.arguments,
            state_key=state_key,
            view=Viewpoint(scenario=episode.scenario, scope=scope),
            draw=Draw(occurrence=occurrence),
        )
        if hit.observation is not None:
            right = hit.observation.text == step.result.text
            tally.add(hit.tier.value, right, hit.fidelity, _named(step))
    return tally


def _placed(
    cache: ToolCache, episodes: Iterable[Episode], by_fingerprint: bool
) -> Iterator[tuple[Episode, Step, bytes, int]]:
    """Yield every step with the state key it stood in and how often it had been made there."""
    for episode in episodes:
        overlay = StateOverlay()
        made: dict[tuple[str, bytes, bytes], int] = {}
        for step in episode.steps:
            spec = step.spec
            normal = cache.plan(spec).normal(step.call.arguments)
            state = overlay.state(spec.effects, normal.arguments)
            key = state.key
            if by_fingerprint and step.fingerprint is not None:
                key = step.fingerprint
            same = (spec.name, normal.canonical, key)
            yield episode, step, key, made.get(same, 0)
            made[same] = made.get(same, 0) + 1
            if not step.result.is_error:
                overlay.write(
                    spec.name,
                    spec.effects,
                    normal.arguments,
                    normal.canonical,
                    state,
                    step.result.text,
                )


# ---- tau-bench


def tau_episodes(path: Path) -> list[tuple[Episode, int]]:
    """Return the conversations with their trial."""
    episodes = []
    for task, trajectory in read_tau_bench(path):
        specs = {spec.name: spec for spec in task.tools}
        calls = [
            call
            for message in trajectory.messages
            if isinstance(message, AssistantMessage)
            for call in message.calls
        ]
        steps = tuple(
            Step(spec=specs[call.name], call=call, result=result)
            for call, result in zip(calls, trajectory.results, strict=False)
            if isinstance(call, ToolCall)
        )
        episodes.append(
            (
                Episode(namespace=task.namespace, scenario=task.scenario, steps=steps),
                trajectory.rollout,
            )
        )
    return episodes


def _tau_silent(step: Step) -> bool:
    return step.spec.name in ("think", "transfer_to_human_agents")


# ---- BFCL


def bfcl_episode(wheel: Path, cases: Cases, case: Case, calls: Sequence[ToolCall]) -> Episode:
    """Run calls from the case's initial state. The fingerprint is that of the call's own backend."""
    backends = Backends(wheel, cases, case)
    steps = []
    for call in calls:
        made = backends.instances.get(cases.class_of[call.name])
        if made is None:
            continue
        state = hashlib.blake2b(repr(state_of(made)).encode(), digest_size=16).digest()
        text, error = backends.run(call)
        result = ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=error is not None,
            error_class=error,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )
        steps.append(Step(spec=cases.specs[call.name], call=call, result=result, fingerprint=state))
    return Episode(namespace="bfcl", scenario=case.scenario, steps=tuple(steps))


def _calls(case: Case) -> list[ToolCall]:
    return [call for turn in case.gold for call in turn]


def deviated(calls: Sequence[ToolCall], dice: random.Random) -> list[ToolCall]:
    """Return the calls as a policy might make them: one dropped, repeated or swapped with the next."""
    made = list(calls)
    place = dice.randrange(len(made))
    match dice.randrange(3):
        case 0:
            del made[place]
        case 1:
            made.insert(place, made[place])
        case _:
            other = (place + 1) % len(made)
            made[place], made[other] = made[other], made[place]
    return made


# ---- the table


def table(
    known: Sequence[Episode],
    asked: Sequence[Episode],
    silent: Silent,
    **more: Any,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return every scheme's rows for one split."""
    rows = {name: measured(key, known, asked, silent).rows() for name, key in OTHERS.items()}
    rows["read/write sets"] = ours(known, asked, silent, **more).rows()
    if any(step.fingerprint is not None for episode in asked for step in episode.steps):
        rows["fingerprint"] = ours(known, asked, silent, by_fingerprint=True).rows()
    return rows


def _print(title: str, n: int, rows: dict[str, dict[str, dict[str, Any]]]) -> None:
    print(f"\n{title}, {n} calls asked")
    print(f"  {'key':<24}{'tier':<12}{'hits':>6}{'share':>9}{'right':>9}{'stated':>9}")
    for name, tiers in rows.items():
        for tier, row in tiers.items():
            stated = "" if row["stated"] is None else f"{row['stated']:.3f}"
            print(
                f"  {name:<24}{tier:<12}{row['hits']:>6}{row['share']:>9.1%}{row['right']:>9.1%}"
                f"{stated:>9}"
            )


def _counted(episodes: Iterable[Episode], silent: Silent) -> int:
    return sum(not silent(step) for episode in episodes for step in episode.steps)


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tau", type=Path, default=TAU)
    parser.add_argument(
        "--bfcl", type=Path, help="BFCL's wheel; what `cacherl suites add bfcl` kept unless told."
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "fidelity.json")
    chosen = parser.parse_args()
    kept: dict[str, Any] = {"machine": machine(), "worlds": {}}
    checks: list[tuple[str, bool, str]] = []

    if chosen.tau.exists():
        recordings = tau_episodes(chosen.tau)
        for title, is_known in (
            ("tau-bench, trials 0-2 answer trial 3", lambda e, trial: trial < 3),
            ("tau-bench, tasks 0-39 answer tasks 40-49", lambda e, trial: int(e.scenario) < 40),
        ):
            known = [episode for episode, trial in recordings if is_known(episode, trial)]
            asked = [episode for episode, trial in recordings if not is_known(episode, trial)]
            n = _counted(asked, _tau_silent)
            rows = table(known, asked, _tau_silent)
            _print(title, n, rows)
            kept["worlds"][title] = {"asked": n, "rows": rows}
            if "trials" in title:
                checks += _checks(rows)
    else:
        print(f"{chosen.tau} is not there: tau-bench is left out")

    wheel = chosen.bfcl or add_wheel()
    cases = read_cases(wheel)
    base = [case for case in cases.by_id.values() if case.category == "base"]
    train = [case for case in base if case.split is not Split.TEST]
    test = [case for case in base if case.split is Split.TEST]
    known = [bfcl_episode(wheel, cases, case, _calls(case)) for case in train]
    held_out = [bfcl_episode(wheel, cases, case, _calls(case)) for case in test]
    dice = random.Random(0)  # noqa: S311 - repeatable, not secret
    strayed = [
        bfcl_episode(wheel, cases, case, deviated(_calls(case), dice))
        for case in train
        for _ in range(4)
    ]
    for title, asked in (
        ("BFCL multi-turn, 160 tasks answer the other 40", held_out),
        ("BFCL multi-turn, gold answers strayed runs of the same 160 tasks", strayed),
    ):
        n = _counted(asked, lambda step: False)
        rows = table(known, asked, lambda step: False, scope=Scope.SCENARIO)
        _print(title, n, rows)
        kept["worlds"][title] = {"asked": n, "rows": rows}
        exact = rows["read/write sets"].get(Tier.EXACT.value, {"right": 1.0, "hits": 0})
        checks.append((f"{title}: EXACT is right every time", exact["right"] == 1.0, ""))

    print()
    for what, holds, seen in checks:
        print(f"  {'ok' if holds else 'falls short':<12}{what}{seen}")
    kept["checks"] = [{"what": w, "holds": h} for w, h, _ in checks]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"\nKept in {chosen.out}")
    return 0


def _checks(rows: dict[str, dict[str, dict[str, Any]]]) -> list[tuple[str, bool, str]]:
    found = rows["read/write sets"]
    exact = found[Tier.EXACT.value]
    checks = [
        ("tau-bench: EXACT is right every time", exact["right"] == 1.0, f" ({exact['right']:.1%})"),
        ("tau-bench: EXACT at 68 % or more", exact["share"] >= 0.68, f" ({exact['share']:.1%})"),
    ]
    fuzzy = found.get(Tier.FUZZY.value)
    if fuzzy is None:
        checks.append(
            ("tau-bench: FUZZY is right as often as it states", True, " (it never answered)")
        )
    else:
        held = fuzzy["stated"] is not None and fuzzy["right"] >= fuzzy["stated"]
        seen = f" ({fuzzy['right']:.1%} right, {fuzzy['stated']} stated)"
        checks.append(("tau-bench: FUZZY is right as often as it states", held, seen))
    return checks


if __name__ == "__main__":
    sys.exit(main())
