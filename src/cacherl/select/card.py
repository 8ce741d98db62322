"""What a training set holds, as figures that a person and a program can check.

One pass, whatever the size: counts, a number or two of each trajectory, and a handful of examples.

Sources: T. Gebru et al., Datasheets for Datasets, arXiv:1803.09010; M. Pushkarna et al., Data Cards,
arXiv:2204.01075: what a reader of a data set needs to be told.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from cacherl import __version__
from cacherl.cache.safety.scan import excerpt
from cacherl.cache.safety.sensitive import Found, Profile, Sweep
from cacherl.core.errors import DataError
from cacherl.core.languages import UNDETERMINED, detector, prose
from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.reward.judge import Agreement, agreement
from cacherl.reward.process import made_calls
from cacherl.select.balance import Diversity, Selection, effective_number, length_of
from cacherl.select.duplicates import asked
from cacherl.select.verdicts import PERFECT, Judgement
from cacherl.teacher.ledger import Ledger

EXAMPLES = 6
EXAMPLE_CHARS = {"tool": 400, "thinking": 800}
"""Characters of one message in an example; the file has the whole. Others are cut at 1,200."""
SHOWN_SECRETS = 20
SHOWN_SOURCES = 50
BYTES_PER_TOKEN = 4
"""UTF-8 bytes of a token, roughly, for text without a tokenizer: within a third for what people write."""
SURE = 0.5
"""A detected language counts from this confidence on; below it a text stays undetermined."""
RECORDED = "recorded here"
"""The source of what was not imported."""

Counting = Callable[[str], int]
"""Returns how many tokens a text is."""


# ---- the record ------------------------------------------------------------------------------


class Histogram(Record, frozen=True, kw_only=True):
    """One number of each trajectory."""

    bars: dict[str, int]
    """Trajectories by value, or by a range of values such as `5-6`, smallest first."""
    mean: float
    median: float
    p95: float
    """95 of 100 trajectories lie at or below it."""
    largest: int


class ToolRow(Record, frozen=True, kw_only=True):
    """One tool that is called."""

    name: str
    trajectories: int
    calls: int
    share: float
    """Of all calls, in [0, 1]."""
    errors: int
    """Calls answered with an error."""


class Tokens(Record, frozen=True, kw_only=True):
    """How much text there is."""

    counted_by: str
    """The tokenizer, or how it was estimated."""
    estimated: bool
    by_part: dict[str, int]
    """All tokens: `tools` (the specs on offer), `system`, `user`, `thinking`, `answers`, `calls`, `results`."""
    per_trajectory: Histogram
    thinking_per_trajectory: float
    """Mean over the trajectories that think at all."""
    thinking_trajectories: int


class Verifier(Record, frozen=True, kw_only=True):
    """What one verifier says of the set."""

    name: str
    known: int
    """Trajectories that it can judge."""
    right: int
    mean: float
    """Of its scores, in [0, 1]."""


class JudgeFacts(Record, frozen=True, kw_only=True):
    """What the judge says of all that was considered, kept or not."""

    model: str
    conversations: int
    samples: int
    failed: int
    """Samples that gave no score."""
    contested: int
    """Conversations whose samples lie further apart than allowed."""
    points: dict[str, int]
    """Conversations by their mean, rounded to a point from 0 to 5."""
    agreement: Agreement | None = None


class SelectionFacts(Record, frozen=True, kw_only=True):
    """How the set was chosen."""

    considered: int
    by_verdict: dict[str, int]
    before: Diversity
    alone: Diversity
    """What rejection sampling alone would have kept."""
    after: Diversity
    tools_lost: tuple[str, ...]
    rare_tools: tuple[str, ...]
    judge: JudgeFacts | None = None


class SourceRow(Record, frozen=True, kw_only=True):
    """Where trajectories come from, and under which terms."""

    format: str
    file: str
    licence: str | None
    """As SPDX writes it; None where nobody said. Empty where it is the reader's own recording."""
    trajectories: int


class CostRow(Record, frozen=True, kw_only=True):
    """What one model was paid for one purpose."""

    purpose: str
    model: str
    replies: int
    tokens: int
    """Read and written."""
    dollars: float | None
    """None where a reply has no known price."""
    price: str
    """Where the price comes from and of when it is; empty where none is known."""


class SecretPlace(Record, frozen=True, kw_only=True):
    """Where something stands that looks as if it must not be published; never the secret itself."""

    kind: str
    trajectory: str
    path: str
    excerpt: str


class Secrets(Record, frozen=True, kw_only=True):
    """What a scan of every message, wire, note, prompt and tool description found."""

    profile: str
    kinds: dict[str, int]
    places: tuple[SecretPlace, ...]
    """The first of them."""


class Line(Record, frozen=True, kw_only=True):
    """One turn of an example."""

    role: str
    """`system`, `user`, `thinking`, `assistant`, `call` or `tool`."""
    text: str


class Example(Record, frozen=True, kw_only=True):
    """One trajectory, shortened."""

    task_id: str
    rollout: int
    family: str
    language: str
    verdict: str
    """Empty where nobody judged it."""
    score: float | None
    lines: tuple[Line, ...]


class FileFacts(Record, frozen=True, kw_only=True):
    """One file that the set was made of, or that it is."""

    name: str
    role: str
    """`trajectories`, `tasks`, `held out` (read) or `this set` (what the card is about)."""
    bytes: int
    sha256: str


class CardWarning(Record, frozen=True, kw_only=True):
    """Something to look at before the set is trained on or published."""

    kind: str
    """`secrets`, `licence`, `scores`, `judge`, `tools` or `tokens`."""
    text: str


class Card(Record, frozen=True, kw_only=True):
    """The data card: what the page is drawn from, and what a program reads."""

    name: str
    made_at: str
    version: str = __version__
    """Of cacherl."""
    files: tuple[FileFacts, ...] = ()
    options: JsonObject = {}
    warnings: tuple[CardWarning, ...] = ()
    trajectories: int
    tasks: int
    namespaces: dict[str, int]
    tools: tuple[ToolRow, ...]
    """The most called first."""
    tools_offered: int
    """Different tools that were on offer, called or not."""
    tools_seen_once: tuple[str, ...]
    """Called in a single trajectory: nobody learns a tool from one example."""
    effective_tools: float
    malformed_calls: int
    error_classes: dict[str, int]
    user_turns: Histogram
    assistant_turns: Histogram
    calls: Histogram
    tokens: Tokens
    families: dict[str, int]
    languages: dict[str, int]
    languages_detected: int
    """Trajectories whose language was not told but detected."""
    splits: dict[str, int]
    stops: dict[str, int]
    policies: dict[str, int]
    """Who acted."""
    sources: tuple[SourceRow, ...]
    verifiers: tuple[Verifier, ...] = ()
    selection: SelectionFacts | None = None
    costs: tuple[CostRow, ...] = ()
    """Over the whole history of the folder's journal."""
    secrets: Secrets
    examples: tuple[Example, ...]


# ---- building it -----------------------------------------------------------------------------


class CardBuilder:
    """Takes one trajectory after the other; keeps counts and a few examples."""

    def __init__(
        self,
        *,
        count_tokens: Counting | None = None,
        tokenizer: str = "",
        seed: int = 0,
    ) -> None:
        """Costs nothing yet.

        Args:
            count_tokens: how long a text is for the model to be trained; None estimates.
            tokenizer: what the card calls it.
            seed: draws the examples.
        """
        self._count = count_tokens or _estimate
        self._tokenizer = tokenizer
        self._estimated = count_tokens is None
        self._salt = seed.to_bytes(16, "little")
        self._trajectories = 0
        self._tasks: set[bytes] = set()
        self._namespaces: Counter[str] = Counter()
        self._tools: Counter[str] = Counter()
        self._calls_of: Counter[str] = Counter()
        self._errors_of: Counter[str] = Counter()
        self._offered: set[str] = set()
        self._malformed = 0
        self._error_classes: Counter[str] = Counter()
        self._numbers = {name: array("Q") for name in ("user", "assistant", "calls", "tokens")}
        self._parts: Counter[str] = Counter()
        self._thinking = 0
        self._specs: dict[bytes, int] = {}
        self._families: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._detected = 0
        self._splits: Counter[str] = Counter()
        self._stops: Counter[str] = Counter()
        self._policies: Counter[str] = Counter()
        self._sources: Counter[tuple[str, str, str | None]] = Counter()
        self._scores: dict[str, array[float]] = {}
        self._unscored = 0
        self._secrets: Counter[str] = Counter()
        self._places: list[SecretPlace] = []
        self._swept: set[int] = set()
        self._here = ("", "")
        self._sweep = Sweep(Profile(), self._found)
        self._hide = Sweep(Profile(), lambda found: _hidden(found.kind))
        self._examples: dict[str, tuple[bytes, Example]] = {}

    def add(self, task: Task, trajectory: Trajectory, judgement: Judgement | None = None) -> None:
        """Count one trajectory."""
        self._trajectories += 1
        self._tasks.add(hashlib.blake2b(task.id.encode(), digest_size=8).digest())
        self._namespaces[task.namespace] += 1
        self._families[task.family] += 1
        self._splits[task.split.value] += 1
        self._stops[trajectory.stop.value] += 1
        self._policies[trajectory.policy] += 1
        self._sources[self._source(trajectory)] += 1
        language = self._language(task, trajectory)
        self._languages[language] += 1
        self._add_tools(task, trajectory)
        self._add_tokens(task, trajectory)
        self._add_secrets(trajectory)
        self._add_secrets_of_task(task)
        if judgement is not None:
            self._add_scores(judgement)
        self._add_example(task, trajectory, judgement, language)

    def _source(self, trajectory: Trajectory) -> tuple[str, str, str | None]:
        notes = trajectory.notes
        said = notes.get("format")
        if not isinstance(said, str):
            return RECORDED, "", ""
        where = notes.get("from", notes.get("file", ""))
        file = re.sub(r":\d+$", "", where) if isinstance(where, str) else ""
        licence = notes.get("licence")
        return said, Path(file).name, str(licence) if licence else None

    def _language(self, task: Task, trajectory: Trajectory) -> str:
        if task.language and task.language != UNDETERMINED:
            return task.language
        guess = detector()(prose(asked(trajectory)[:4000]))
        if guess.confidence < SURE:
            return UNDETERMINED
        self._detected += 1
        return guess.language

    def _add_tools(self, task: Task, trajectory: Trajectory) -> None:
        self._offered.update(spec.name for spec in task.tools)
        calls = made_calls(trajectory)
        named = [call.name for call in calls if isinstance(call, ToolCall)]
        self._malformed += len(calls) - len(named)
        self._calls_of.update(named)
        self._tools.update(set(named))
        for result in trajectory.results:
            if result.is_error:
                self._errors_of[result.name] += 1
                self._error_classes[
                    result.error_class.value if result.error_class else "unknown"
                ] += 1
        self._numbers["calls"].append(len(calls))
        for name, kind in (("user", UserMessage), ("assistant", AssistantMessage)):
            self._numbers[name].append(sum(isinstance(m, kind) for m in trajectory.messages))

    def _add_tokens(self, task: Task, trajectory: Trajectory) -> None:
        parts: Counter[str] = Counter()
        specs = msgspec.json.encode(task.tools)
        digest = hashlib.blake2b(specs, digest_size=8).digest()
        if digest not in self._specs:  # most tasks of a world offer the same tools
            self._specs[digest] = self._count(specs.decode())
        parts["tools"] = self._specs[digest]
        if not any(isinstance(message, SystemMessage) for message in trajectory.messages):
            parts["system"] = self._count(task.system)
        for message in trajectory.messages:
            for role, text in _texts(message):
                parts[role] += self._count(text)
        self._parts.update(parts)
        self._numbers["tokens"].append(parts.total())
        self._thinking += parts["thinking"] > 0

    def _add_secrets(self, trajectory: Trajectory) -> None:
        name = f"{trajectory.task_id}#{trajectory.rollout}"
        for number, message in enumerate(trajectory.messages):
            self._here = (name, f"messages[{number}]")
            for _, text in _texts(message, calls=False):
                self._sweep.text(text)
            if isinstance(message, AssistantMessage):
                for call in message.calls:
                    if isinstance(call, ToolCall):
                        self._sweep.arguments(call.arguments)
                    else:
                        self._sweep.text(call.text)
        for number, result in enumerate(trajectory.results):
            if result.wire is not None:
                self._here = (name, f"results[{number}].wire")
                self._sweep.text(result.wire)
        self._here = (name, "notes")
        self._sweep.arguments(trajectory.notes)

    def _add_secrets_of_task(self, task: Task) -> None:
        texts = [("scenario", task.scenario), ("system", task.system)]
        texts += [(f"tools.{spec.name}", spec.description) for spec in task.tools]
        for place, text in texts:
            seen = hash(text)  # the same prompt and tools stand in every task
            if seen not in self._swept:
                self._swept.add(seen)
                self._here = (task.id, place)
                self._sweep.text(text)

    def _found(self, found: Found) -> str:
        self._secrets[found.kind] += 1
        if len(self._places) < SHOWN_SECRETS:
            trajectory, place = self._here
            self._places.append(
                SecretPlace(
                    kind=found.kind,
                    trajectory=trajectory,
                    path=f"{place}.{found.path}" if found.path else place,
                    excerpt=excerpt(found.kind, found.value),
                )
            )
        return _hidden(found.kind)

    def _add_scores(self, judgement: Judgement) -> None:
        judged = judgement.judged.score if judgement.judged is not None else None
        scores = {
            "state": judgement.state,
            "answer": judgement.answer,
            "process": judgement.process,
            "judge": judged,
            "own score": judgement.noted,
        }
        for name, score in scores.items():
            if score is not None:
                self._scores.setdefault(name, array("d")).append(score)
        self._unscored += all(score is None for score in scores.values())

    def _add_example(
        self, task: Task, trajectory: Trajectory, judgement: Judgement | None, language: str
    ) -> None:
        order = hashlib.blake2b(
            f"{task.id}#{trajectory.rollout}".encode(), digest_size=8, salt=self._salt
        ).digest()
        held = self._examples.get(task.family)
        if held is not None:
            if held[0] <= order:
                return
        elif len(self._examples) >= EXAMPLES:  # one of a family, so that they differ
            worst = max(self._examples, key=lambda family: self._examples[family][0])
            if self._examples[worst][0] <= order:
                return
            del self._examples[worst]
        self._examples[task.family] = (
            order,
            Example(
                task_id=task.id,
                rollout=trajectory.rollout,
                family=task.family,
                language=language,
                verdict=judgement.verdict.value if judgement is not None else "",
                score=judgement.score if judgement is not None else None,
                lines=tuple(
                    Line(role=role, text=_cut(text, EXAMPLE_CHARS.get(role, 1200)))
                    for message in trajectory.messages
                    for role, text in _shown(message, self._hide)
                ),
            ),
        )

    def build(
        self,
        *,
        name: str,
        made_at: datetime,
        files: Sequence[FileFacts] = (),
        options: JsonObject | None = None,
        selection: SelectionFacts | None = None,
        verifiers: Sequence[Verifier] | None = None,
        costs: Sequence[CostRow] = (),
    ) -> Card:
        """Return the card of all that was added.

        `verifiers` stands in for what the judgements say, where an earlier card knows better.

        Raises:
            DataError: nothing was.
        """
        if not self._trajectories:
            raise DataError(f"{name}: holds no trajectory, so there is nothing to say of it.")
        calls = self._calls_of.total()
        tools = tuple(
            ToolRow(
                name=tool,
                trajectories=self._tools[tool],
                calls=count,
                share=count / calls,
                errors=min(self._errors_of[tool], count),
            )
            for tool, count in sorted(self._calls_of.items(), key=lambda kv: (-kv[1], kv[0]))
        )
        thinking = self._parts["thinking"]
        card = Card(
            name=name,
            made_at=made_at.strftime("%Y-%m-%d %H:%M UTC"),
            files=tuple(files),
            options=options or {},
            trajectories=self._trajectories,
            tasks=len(self._tasks),
            namespaces=_largest_first(self._namespaces),
            tools=tools,
            tools_offered=len(self._offered | set(self._calls_of)),
            tools_seen_once=tuple(sorted(t for t, count in self._tools.items() if count == 1)),
            effective_tools=effective_number(self._tools.values()),
            malformed_calls=self._malformed,
            error_classes=_largest_first(self._error_classes),
            user_turns=_histogram(self._numbers["user"]),
            assistant_turns=_histogram(self._numbers["assistant"]),
            calls=_histogram(self._numbers["calls"]),
            tokens=Tokens(
                counted_by=self._tokenizer or f"estimate: {BYTES_PER_TOKEN} UTF-8 bytes a token",
                estimated=self._estimated,
                by_part={part: self._parts[part] for part in PARTS},
                per_trajectory=_histogram(self._numbers["tokens"], even=True),
                thinking_per_trajectory=thinking / self._thinking if self._thinking else 0.0,
                thinking_trajectories=self._thinking,
            ),
            families=_largest_first(self._families),
            languages=_largest_first(self._languages),
            languages_detected=self._detected,
            splits=_largest_first(self._splits),
            stops=_largest_first(self._stops),
            policies=_largest_first(self._policies),
            sources=tuple(
                SourceRow(format=kind, file=file, licence=licence, trajectories=count)
                for (kind, file, licence), count in self._sources.most_common(SHOWN_SOURCES)
            ),
            verifiers=self._verifiers() if verifiers is None else tuple(verifiers),
            selection=selection,
            costs=tuple(costs),
            secrets=Secrets(
                profile="secrets",
                kinds=_largest_first(self._secrets),
                places=tuple(self._places),
            ),
            examples=tuple(one for _, one in sorted(self._examples.values(), key=lambda e: e[0])),
        )
        return msgspec.structs.replace(
            card, warnings=tuple(_warnings(card, self._sources, self._unscored))
        )

    def _verifiers(self) -> tuple[Verifier, ...]:
        return tuple(
            Verifier(
                name=name,
                known=len(scores),
                right=sum(score >= PERFECT for score in scores),
                mean=statistics.fmean(scores),
            )
            for name, scores in self._scores.items()
        )


PARTS = ("tools", "system", "user", "thinking", "answers", "calls", "results")


def _texts(message: Message, *, calls: bool = True) -> Iterable[tuple[str, str]]:
    """Yield each text of a message with the part that it belongs to."""
    match message:
        case SystemMessage():
            yield "system", message.content
        case UserMessage():
            yield "user", message.content
        case ToolMessage():
            yield "results", message.content
        case AssistantMessage():
            if message.thinking:
                yield "thinking", message.thinking
            if message.content:
                yield "answers", message.content
            if calls:
                for call in message.calls:
                    yield "calls", _written(call)


def _hidden(kind: str) -> str:
    return f"<{kind}:{'0' * 12}>"


def _shown(message: Message, hide: Sweep) -> Iterable[tuple[str, str]]:
    """Yield each text of a message as an example shows it: a card is what gets published."""
    roles = {"answers": "assistant", "results": "tool"}
    for part, text in _texts(message, calls=False):
        if part != "system":  # the same in every example, and long
            yield roles.get(part, part), hide.text(text)
    if isinstance(message, AssistantMessage):
        for call in message.calls:
            if isinstance(call, MalformedCall):
                yield "call", hide.text(call.text)
            else:
                swept = msgspec.structs.replace(call, arguments=hide.arguments(call.arguments))
                yield "call", _written(swept)


def _written(call: ToolCall | MalformedCall) -> str:
    if isinstance(call, MalformedCall):
        return call.text
    return f"{call.name}({msgspec.json.encode(call.arguments).decode()})"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit].rstrip() + " …"


def _estimate(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))


def _histogram(values: Sequence[int], *, even: bool = False) -> Histogram:
    """Return the numbers as bars: by length of a conversation, or in even steps up to a last open one."""
    in_order = sorted(values)
    p95 = in_order[max(0, -(-95 * len(in_order) // 100) - 1)]
    bars = _even_bars(in_order, p95) if even else _by_length(in_order)
    return Histogram(
        bars=bars,
        mean=statistics.fmean(in_order),
        median=statistics.median(in_order),
        p95=float(p95),
        largest=in_order[-1],
    )


def _by_length(in_order: Sequence[int]) -> dict[str, int]:
    bars: Counter[str] = Counter()
    for value, count in Counter(in_order).items():  # from the smallest value up, so in order
        bars[length_of(value)] += count
    return dict(bars)


def _even_bars(in_order: Sequence[int], p95: int) -> dict[str, int]:
    """Return about ten bars between the smallest value and the 95th percentile, empty ones included."""
    least = (p95 - in_order[0]) / 10
    step = next(
        digit * 10**power
        for power in range(19)
        for digit in (1, 2, 5)
        if digit * 10**power >= least
    )
    first, last = in_order[0] // step, p95 // step + 1
    held = Counter(min(value // step, last) for value in in_order)
    bars = {
        (f"{n * step}-{(n + 1) * step - 1}" if step > 1 else str(n)): held[n]
        for n in range(first, last)
    }
    if held[last]:
        bars[f"{last * step}+"] = held[last]
    return bars


# ---- what to look at -------------------------------------------------------------------------

_NON_COMMERCIAL = re.compile(r"(?:^|[-_ ])NC(?:$|[-_ ])|non-?commercial", re.IGNORECASE)
_HIGH_ERRORS = 0.2


def _warnings(
    card: Card, sources: Mapping[tuple[str, str, str | None], int], unscored: int
) -> Iterable[CardWarning]:
    n = card.trajectories
    if card.secrets.kinds:
        kinds = ", ".join(f"{count} {kind}" for kind, count in card.secrets.kinds.items())
        yield CardWarning(
            kind="secrets",
            text=f"What looks like secrets stands in the messages: {kinds}. Do not publish this set, nor "
            "train on it, before you have looked: a model learns to repeat them.",
        )
    by_licence: Counter[str | None] = Counter()
    formats: dict[str | None, set[str]] = {}
    for (kind, _, licence), count in sources.items():
        by_licence[licence] += count
        formats.setdefault(licence, set()).add(kind)
    for licence, count in by_licence.items():
        if licence is None:
            yield CardWarning(
                kind="licence",
                text=f"Nobody said under which licence {count} trajectories may be used "
                f"({', '.join(sorted(formats[licence]))}). Find out before you publish a model or the set.",
            )
        elif _NON_COMMERCIAL.search(licence):
            yield CardWarning(
                kind="licence",
                text=f"{count} trajectories ({', '.join(sorted(formats[licence]))}) are under {licence}: "
                "no commercial use, and a model trained on them may count as one.",
            )
    if unscored:
        yield CardWarning(
            kind="scores",
            text=f"Nothing says that {unscored} of {n} trajectories are right: no gold, no judge, no score "
            "of the data set.",
        )
    judge = card.selection.judge if card.selection is not None else None
    if judge is not None and judge.agreement is not None:
        alpha = judge.agreement.alpha_interval
        if (
            alpha is not None and alpha < 0.667
        ):  # Krippendorff's own lowest bound for tentative conclusions
            yield CardWarning(
                kind="judge",
                text=f"The judge agrees little with itself (Krippendorff's alpha {alpha:.2f}, below 0.67): "
                "its threshold selects in part by chance. Ask a stronger judge, or more samples.",
            )
    if judge is not None and judge.failed:
        yield CardWarning(
            kind="judge",
            text=f"{judge.failed} of {judge.samples + judge.failed} samples of the judge gave no score.",
        )
    lost = card.selection.tools_lost if card.selection is not None else ()
    if lost:
        yield CardWarning(
            kind="tools",
            text=f"Called before selecting and in none of the kept: {_some(lost)}.",
        )
    if card.tools_seen_once:
        yield CardWarning(
            kind="tools",
            text=f"Called in one trajectory only: {_some(card.tools_seen_once)}.",
        )
    failing = [t.name for t in card.tools if t.calls >= 5 and t.errors > _HIGH_ERRORS * t.calls]
    if failing:
        yield CardWarning(
            kind="tools",
            text=f"More than one call in five of {_some(failing)} was answered with an error: a model learns "
            "to call them that way.",
        )
    if card.tokens.estimated:
        yield CardWarning(
            kind="tokens",
            text="Token counts are estimates. Name the model's tokenizer with --tokenizer to count them.",
        )


def _some(names: Sequence[str], shown: int = 5) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def selection_facts(selection: Selection, judge: str = "") -> SelectionFacts:
    """Return of a selection what the card says; `judge` names the model that was asked."""
    asked_of = [one for one in selection.judgements if one.judged is not None]
    facts = None
    if asked_of:
        said = [one.judged for one in asked_of if one.judged is not None]
        points = Counter(
            str(int(statistics.fmean(scores.points) + 0.5)) for scores in said if scores.points
        )
        facts = JudgeFacts(
            model=judge,
            conversations=len(said),
            samples=sum(len(scores.points) for scores in said),
            failed=sum(scores.failed for scores in said),
            contested=sum(one.contested for one in asked_of),
            points={str(point): points[str(point)] for point in range(6)},
            agreement=agreement(scores.points for scores in said),
        )
    return SelectionFacts(
        considered=selection.considered,
        by_verdict=selection.by_verdict,
        before=selection.before,
        alone=selection.alone,
        after=selection.after,
        tools_lost=selection.tools_lost,
        rare_tools=selection.rare_tools,
        judge=facts,
    )


def costs_of(ledger: Path) -> tuple[CostRow, ...]:
    """Return what a folder's journal says was paid; nothing where there is no ledger.

    Raises:
        DataError: the file is no ledger.
    """
    try:
        account = msgspec.json.decode(ledger.read_bytes(), type=Ledger)
    except FileNotFoundError:
        return ()
    except msgspec.DecodeError as error:
        raise DataError(
            f"{ledger}: not a ledger: {error}. Delete it; it is written anew."
        ) from error
    return tuple(
        CostRow(
            purpose=row.purpose,
            model=row.model,
            replies=row.replies,
            tokens=row.prompt_tokens + row.completion_tokens,
            dollars=row.dollars,
            price=account.prices.get(row.model) or "",
        )
        for row in account.rows
    )


def file_facts(path: Path, role: str) -> FileFacts:
    """Return a file's size and digest."""
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return FileFacts(name=path.name, role=role, bytes=path.stat().st_size, sha256=digest)
