"""Can a model that trains on this cache see what it will be tested on?

A leak is what is reachable only through a held-out scenario: its recordings, or another split's, in
the training cache. What a training scenario answered by itself is no leak even where a held-out one
answers the same: worlds share facts (opening hours, articles, a common database). Those are counted,
because a model may know them by heart, and never fail the audit.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from cacherl.cache.identity.normalise import is_writer
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.scan import every_entry
from cacherl.cache.storage.entry import CacheEntry, Observation
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import CacheError
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tier, ToolSpec, undeclared

Says = Callable[[str, str], bool]
"""Does a text say a phrase? `reward.answer.says`, as final answers are judged."""

_MIN_TWIN_CALLS = 3


class Severity(enum.StrEnum):
    """What a finding means."""

    LEAK = "leak"
    """Reachable only through what is held out: figures on the held-out tasks are worthless."""
    WARNING = "warning"
    """Could be a coincidence of a shared world: look at it."""
    SHARED = "shared"
    """Data that training scenarios hold themselves."""


class Kind(enum.StrEnum):
    """What was found."""

    SPLIT = "split"
    """Observations of another split than the cache's."""
    SCENARIO = "scenario"
    """Recordings of a held-out scenario."""
    TWIN = "twin"
    """A training scenario that answers every call of a held-out one the same."""
    CALL = "call"
    """A held-out call, word for word."""
    NEAR = "near"
    """A held-out call through the FUZZY gate."""
    ANSWER = "answer"
    """What a held-out task's final answer must say."""


class Leak(Record, frozen=True, kw_only=True):
    """One finding."""

    severity: Severity
    kind: Kind
    what: str
    """In one line."""
    held_out: str
    """The held-out scenario or task."""
    tool: str = ""
    key: str = ""
    """The training cache's entry (hex)."""


class Audit(Record, frozen=True, kw_only=True):
    """What an audit found."""

    training: str
    holdout: str
    training_calls: int
    held_out_scenarios: int
    held_out_calls: int
    """Distinct calls that are held out: recorded, or of gold solutions."""
    present: int
    """Of these, calls that the training cache answers EXACT."""
    same_answer: int
    """Of these, calls with the held-out answer (recordings only: gold calls have none)."""
    near: int
    """Held-out calls that are not present and that the training cache answers FUZZY."""
    counts: dict[str, int]
    """`severity kind` to how many."""
    findings: tuple[Leak, ...]
    """Leaks and warnings; what is shared is only counted."""

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """The findings that fail the audit."""
        return tuple(each for each in self.findings if each.severity is Severity.LEAK)


class HeldCall(msgspec.Struct, frozen=True, kw_only=True):
    """A held-out call."""

    namespace: str
    spec: ToolSpec
    arguments: JsonObject
    state: bytes | None
    """None where nobody knows: any."""
    scenario: str
    called: str
    """The task or scenario, for messages."""
    answers: frozenset[tuple[str, bool]] | None
    """(text, is an error); None where nobody knows."""


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is held out."""

    scenarios: frozenset[str]
    calls: tuple[HeldCall, ...]
    tasks: tuple[Task, ...]


def held_out_tasks(tasks: Iterable[Task]) -> HeldOut:
    """Return what tasks hold out: their scenarios, the calls of their gold solutions, their answers."""
    tasks = tuple(tasks)
    calls = []
    for task in tasks:
        specs = {spec.name: spec for spec in task.tools}
        for gold in () if task.gold is None else task.gold.listed:
            calls.append(
                HeldCall(
                    namespace=task.namespace,
                    spec=specs.get(gold.name) or undeclared(gold.name),
                    arguments=gold.arguments,
                    state=None,
                    scenario=task.scenario,
                    called=task.id,
                    answers=None,
                )
            )
    return HeldOut(
        scenarios=frozenset(task.scenario for task in tasks), calls=tuple(calls), tasks=tasks
    )


def held_out_cache(store: CacheStore) -> HeldOut:
    """Return what a cache of held-out episodes holds out: its scenarios and calls with their answers."""
    specs = store.tools()
    calls = []
    scenarios: set[str] = set()
    for entry in store.entries():
        by_scenario: dict[str, set[tuple[str, bool]]] = defaultdict(set)
        for kept in entry.kept:
            seen = kept.observation
            by_scenario[seen.scenario].add((seen.text, seen.is_error))
        scenarios.update(by_scenario)
        call = entry.call
        for scenario, answers in by_scenario.items():
            calls.append(
                HeldCall(
                    namespace=call.namespace,
                    spec=specs.get((call.namespace, call.tool)) or undeclared(call.tool),
                    arguments=call.arguments,
                    state=call.state,
                    scenario=scenario,
                    called=scenario,
                    answers=frozenset(answers),
                )
            )
    return HeldOut(scenarios=frozenset(scenarios), calls=tuple(calls), tasks=())


def audit(
    training: ToolCache,
    held_out: HeldOut,
    *,
    holdout: str,
    says: Says,
    split: Split = Split.TRAIN,
) -> Audit:
    """Find what of the held-out episodes a training cache can answer.

    Args:
        training: the cache that rollouts are trained on.
        held_out: by `held_out_tasks` or `held_out_cache`.
        holdout: what is held out, for messages.
        says: decides whether a result says a required answer.
        split: the split that the training cache should hold alone.
    """
    return _Auditor(training, held_out, says, split).run(holdout)


class _Auditor:
    def __init__(self, training: ToolCache, held_out: HeldOut, says: Says, split: Split) -> None:
        self._training = training
        self._held_out = held_out
        self._says = says
        self._split = split
        self._findings: list[Leak] = []
        self._shared: Counter[str] = Counter()
        self._by_call: dict[tuple[str, str, bytes], list[tuple[bytes, bytes]]] = defaultdict(list)
        self._calls = 0
        self._scenarios: Counter[str] = Counter()
        self._foreign_texts: list[tuple[str, str]] = []

    def run(self, holdout: str) -> Audit:
        self._read_training()
        present = same = near = 0
        seen: set[tuple[str, str, bytes, bytes | None, str]] = set()
        answered: dict[str, list[dict[str, bool]]] = defaultdict(list)
        for held in self._held_out.calls:
            spec = self._training.effective(held.namespace, held.spec)
            canonical = self._training.normal(spec, held.arguments).canonical
            name = (held.namespace, spec.name, canonical, held.state, held.called)
            if name in seen:
                continue
            seen.add(name)
            entries = self._entries(held, spec.name, canonical)
            if entries:
                present += 1
                same += self._judge_call(held, entries)
            else:
                near += self._judge_near(held, spec)
            answered[held.called].append(self._same_by_scenario(held, entries))
        for called, calls in answered.items():
            self._judge_twins(called, calls)
        self._judge_answers()
        counts = Counter(f"{each.severity} {each.kind}" for each in self._findings)
        counts.update(self._shared)
        rank = list(Severity)
        ordered = sorted(
            self._findings,
            key=lambda f: (rank.index(f.severity), f.kind, f.held_out, f.tool, f.key),
        )
        return Audit(
            training=self._training.name,
            holdout=holdout,
            training_calls=self._calls,
            held_out_scenarios=len(self._held_out.scenarios),
            held_out_calls=len(seen),
            present=present,
            same_answer=same,
            near=near,
            counts=dict(sorted(counts.items())),
            findings=tuple(ordered),
        )

    # ---- what the training cache holds

    def _read_training(self) -> None:
        splits: Counter[Split] = Counter()
        for entry in self._training.store.entries():
            self._calls += 1
            call = entry.call
            self._by_call[call.namespace, call.tool, call.canonical].append((call.state, call.key))
            for kept in entry.kept:
                observation = kept.observation
                splits[observation.split] += 1
                self._scenarios[observation.scenario] += 1
                if self._is_foreign(observation):
                    self._foreign_texts.append((observation.text, call.key.hex()))
        for split, count in sorted(splits.items()):
            if split is not self._split:
                self._add(
                    Severity.LEAK,
                    Kind.SPLIT,
                    f"{count} observations are of split {split}, not {self._split}",
                    f"split {split}",
                )
        for scenario in sorted(self._held_out.scenarios & set(self._scenarios)):
            self._add(
                Severity.LEAK,
                Kind.SCENARIO,
                f"{self._scenarios[scenario]} recordings of the held-out scenario {scenario}",
                scenario,
            )

    def _is_foreign(self, observation: Observation) -> bool:
        return (
            observation.split is not self._split or observation.scenario in self._held_out.scenarios
        )

    def _entries(self, held: HeldCall, tool: str, canonical: bytes) -> list[CacheEntry]:
        places = self._by_call.get((held.namespace, tool, canonical), ())
        entries = []
        for state, key in places:
            entry = None
            if held.state is None or held.state == state:
                entry = self._training.store.by_key(key)
            if entry is not None:
                entries.append(entry)
        return entries

    # ---- judging

    def _judge_call(self, held: HeldCall, entries: Sequence[CacheEntry]) -> bool:
        """Judge a held-out call that the training cache answers; say whether with the held-out answer."""
        foreign = own = False
        key = entries[0].call.key.hex()
        for observation in _observations(entries):
            if held.answers is not None and not _agrees(observation, held):
                continue
            if self._is_foreign(observation):
                foreign = True
            else:
                own = True
        tool = held.spec.name
        if foreign and not own:
            said = "its recorded answer" if held.answers is not None else "a recorded answer"
            self._add(
                Severity.LEAK,
                Kind.CALL,
                f"{tool} of {held.called} is there with {said}, from what is held out only",
                held.called,
                tool,
                key,
            )
        elif own and held.answers is not None and _is_bound(entries, self._is_foreign):
            self._add(
                Severity.WARNING,
                Kind.CALL,
                f"{tool} of {held.called} has the held-out answer, though training scenarios differ on it",
                held.called,
                tool,
                key,
            )
        elif own and held.answers is None and self._writes(held) and _succeeds(entries):
            self._add(
                Severity.WARNING,
                Kind.CALL,
                f"the gold write {tool} of {held.called} was made in training",
                held.called,
                tool,
                key,
            )
        elif own:
            self._shared[f"{Severity.SHARED} {Kind.CALL}"] += 1
        return held.answers is not None and (foreign or own)

    def _judge_near(self, held: HeldCall, spec: ToolSpec) -> bool:
        hit = self._training.lookup(
            held.namespace, held.spec, held.arguments, state_key=held.state or b""
        )
        if hit.tier is not Tier.FUZZY or hit.observation is None or hit.key is None:
            return False
        same = held.answers is None or _agrees(hit.observation, held)
        if self._is_foreign(hit.observation):
            self._add(
                Severity.LEAK if same else Severity.WARNING,
                Kind.NEAR,
                f"{spec.name} of {held.called} is there in other words, from what is held out",
                held.called,
                spec.name,
                hit.key,
            )
        elif same:
            self._shared[f"{Severity.SHARED} {Kind.NEAR}"] += 1
        return True

    def _same_by_scenario(self, held: HeldCall, entries: Sequence[CacheEntry]) -> dict[str, bool]:
        """Return the training scenarios that give the held-out answer, and whether others differ."""
        if held.answers is None:
            return {}
        own = [seen for seen in _observations(entries) if not self._is_foreign(seen)]
        bound = _is_bound(entries, self._is_foreign)
        return {seen.scenario: bound for seen in own if _agrees(seen, held)}

    def _judge_twins(self, called: str, calls: Sequence[dict[str, bool]]) -> None:
        if len(calls) < _MIN_TWIN_CALLS:
            return
        twins = set.intersection(*(set(call) for call in calls))
        for twin in sorted(twins):
            # Agreeing where training scenarios disagree: the same data under another name.
            bound = sum(call[twin] for call in calls)
            alone = sum(len(call) == 1 for call in calls)
            if not bound and not alone:
                continue
            self._add(
                Severity.LEAK if bound else Severity.WARNING,
                Kind.TWIN,
                f"training scenario {twin} answers all {len(calls)} calls of {called} the same"
                + (f", {bound} where other scenarios differ" if bound else ""),
                called,
            )

    def _judge_answers(self) -> None:
        wanted: dict[str, set[str]] = defaultdict(set)
        for task in self._held_out.tasks:
            for group in () if task.gold is None else task.gold.answer.must:
                for phrase in group:
                    if any(self._says(text, phrase) for text, _ in self._foreign_texts):
                        wanted[phrase].add(task.id)
        if not wanted:
            return
        shared = self._said_in_training(wanted)
        for task in self._held_out.tasks:
            must = () if task.gold is None else task.gold.answer.must
            only = [
                group
                for group in must
                if any(p in wanted for p in group) and not any(p in shared for p in group)
            ]
            self._shared[f"{Severity.SHARED} {Kind.ANSWER}"] += bool(
                must and not only and any(p in shared for group in must for p in group)
            )
            if only:
                keys = [k for text, k in self._foreign_texts if self._says(text, only[0][0])]
                self._add(
                    Severity.LEAK,
                    Kind.ANSWER,
                    f"{len(only)} of {len(must)} parts of the answer to {task.id} stand in results "
                    "that come from what is held out only",
                    task.id,
                    key=keys[0] if keys else "",
                )

    def _said_in_training(self, phrases: Iterable[str]) -> set[str]:
        left, found = set(phrases), set[str]()
        for entry in self._training.store.entries():
            for observation in _observations([entry]):
                if self._is_foreign(observation):
                    continue
                said = {phrase for phrase in left if self._says(observation.text, phrase)}
                found |= said
                left -= said
            if not left:
                break
        return found

    def _writes(self, held: HeldCall) -> bool:
        return is_writer(self._training.effective(held.namespace, held.spec).effects)

    def _add(
        self,
        severity: Severity,
        kind: Kind,
        what: str,
        held_out: str,
        tool: str = "",
        key: str = "",
    ) -> None:
        self._findings.append(
            Leak(severity=severity, kind=kind, what=what, held_out=held_out, tool=tool, key=key)
        )


def _observations(entries: Iterable[CacheEntry]) -> Iterator[Observation]:
    for entry in entries:
        for kept in entry.kept:
            yield kept.observation


def _agrees(observation: Observation, held: HeldCall) -> bool:
    return held.answers is not None and (observation.text, observation.is_error) in held.answers


def _is_bound(entries: Iterable[CacheEntry], foreign: Callable[[Observation], bool]) -> bool:
    """Say whether training scenarios differ on one of the calls: the answer belongs to a scenario."""
    for entry in entries:
        own = [seen for seen in _observations([entry]) if not foreign(seen)]
        by_scenario: dict[str, set[tuple[str, bool]]] = defaultdict(set)
        for seen in own:
            by_scenario[seen.scenario].add((seen.text, seen.is_error))
        if len({frozenset(answers) for answers in by_scenario.values()}) > 1:
            return True
    return False


def _succeeds(entries: Iterable[CacheEntry]) -> bool:
    return any(not seen.is_error for seen in _observations(entries))


# ---- evaluation --------------------------------------------------------------------------------


def require_single_split(store: CacheStore, split: Split, name: str) -> None:
    """Refuse a cache that holds anything but one split: what may answer an evaluation.

    Looks at every recording, so that nothing depends on what the file says of itself.

    Raises:
        CacheError: it holds recordings of another split, or none at all.
    """
    found: Counter[Split] = Counter()
    for entry in every_entry(store):
        for kept in entry.kept:
            found[kept.observation.split] += 1
    if set(found) == {split}:
        return
    if not found:
        raise CacheError(f"{name}: holds no recordings, so it cannot answer an evaluation.")
    told = ", ".join(f"{count} of {each}" for each, count in sorted(found.items()))
    drop = " ".join(f"--split {each}" for each in sorted(set(found) - {split}))
    way = (
        f"Copy it with `cacherl cache merge COPY {name}`, then `cacherl cache gc COPY {drop} --apply`"
        if found[split]
        else f"Name the cache of split {split}"
    )
    raise CacheError(
        f"{name}: an evaluation on split {split} may see recordings of that split only, and this "
        f"cache holds {told}. {way}."
    )


def open_for_evaluation(path: Path | str, split: Split) -> ToolCache:
    """Open a cache file to answer an evaluation on one split.

    Raises:
        CacheError: no such cache, a damaged one, or one that holds another split too.
    """
    cache = ToolCache.open(path)
    try:
        require_single_split(cache.store, split, cache.name)
    except BaseException:
        cache.close()
        raise
    return cache
