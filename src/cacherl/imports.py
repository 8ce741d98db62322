"""Other people's trajectory files into a folder of tasks, trajectories and a cache; and playing them again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from cacherl.agent import run_episode
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import Recorded, ToolCache
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import atomic_writer, encode_line, read_jsonl
from cacherl.core.messages import UserMessage
from cacherl.core.models import Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.conversation import UNDETERMINED, Conversation
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Skipped, Unreadable, bare_name, files_of, rows_of, sample_of
from cacherl.formats.table import FORMATS, format_named, guess
from cacherl.recorded import RecordedModel

AUTO = "auto"
ALL_BAD = 100
"""Rows in a row that cannot be read, from the first on, after which the format must be a wrong one."""

_MANIFEST = "import.json"
_SKIPPED = "skipped.jsonl"
_TASKS, _TRAJECTORIES = (DataFolder(Path()).tasks.name, DataFolder(Path()).trajectories.name)
_STAGE = ".importing"
_AT_ONCE, _AT_ONCE_BYTES = 256, 4 << 20  # trajectories in one transaction of the cache
_PROBLEMS = 200  # kinds of problems counted one by one
_BUFFER = 1 << 20

OnProgress = Callable[[int, int, int], None]
"""Called with (bytes read, bytes in all, conversations so far)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How to import."""

    format_name: str = AUTO
    namespace: str = ""
    """Whose tools these are; empty takes the format's own, else the name of the file."""
    split: Split = Split.TRAIN
    language: str = UNDETERMINED
    licence: str = ""
    """SPDX id; empty takes the format's own."""
    limit: int | None = None
    """Conversations."""
    cache: bool = True
    force: bool = False
    """Replace what is there: an import of another source, or tasks that no import wrote."""


class ImportSummary(Record, frozen=True, kw_only=True):
    """What an import brought. Kept beside it as `import.json`."""

    format: str
    source: str
    files: int
    namespace: str
    split: Split
    licence: str | None
    tasks: int
    trajectories: int
    renamed: int
    """Tasks whose id another task had already: `~2` and so on was added to theirs."""
    unanswered: int
    """Calls that the conversations have no result for."""
    calls: int
    """Calls whose answers are kept in the cache."""
    new: int
    """Of these, answers that were not kept before."""
    not_kept: int
    """Calls whose answer was not a tool's own, or a transient failure."""
    skipped: int
    """Rows, and parts of rows, that were left out; each is a line of `skipped.jsonl`."""
    problems: dict[str, int]
    """Of these, how many of what kind, most frequent first."""
    warning: str = ""


class ReplaySummary(Record, frozen=True, kw_only=True):
    """How much of the recorded conversations came back."""

    conversations: int
    results: int
    identical: int
    """Results equal to the recorded ones, byte for byte."""
    refused: int
    """Calls that the loop refuses before any tool, live or cached."""
    different: int
    unanswered: int = 0
    """Calls that have no recorded result, so that none can come back."""
    in_doubt: int = 0
    """Transient failures, which a cache never serves, and results after a call whose outcome nobody knows
    (unanswered, or such a failure): what it may have changed is not known, so they are kept apart."""
    tiers: dict[str, int]
    stops: dict[str, int]
    first_difference: str | None = None


# ---- reading -----------------------------------------------------------------------------------


def import_files(
    source: Path,
    folder: Path,
    options: ImportOptions,
    *,
    on_progress: OnProgress | None = None,
) -> ImportSummary:
    """Read a file, a folder of shards or a glob into `folder`, row by row.

    Written are tasks.jsonl, trajectories.jsonl, cache.sqlite, skipped.jsonl and import.json; they take the
    place of an earlier import's together, once all is read. A row that cannot be read is reported in
    skipped.jsonl and stops nothing. Two tasks of one id and different content get two ids; what
    repeats a task becomes another rollout of it. Memory grows by about 100 bytes a conversation.

    Raises:
        RecipeError: no such format.
        DataError: nothing can be read, every row is of another format, or the folder's tasks are not
            an import's of this source. Nothing in the folder has changed.
    """
    files = files_of(source)
    chosen = _chosen(files[0], options.format_name)
    root = DataFolder(folder)
    _refuse_foreign(root, source, options)
    namespace = options.namespace or chosen.namespace or _named_after(source)
    licence = options.licence or chosen.licence
    with _Stage(root, cache=options.cache) as stage:
        reading = Reading(
            namespace=namespace,
            split=options.split,
            language=options.language,
            on_skip=stage.skip,
        )
        reader = _Reader(chosen, reading, files, on_progress)
        for task, trajectory in reader.conversations():
            stage.add(task, _licensed(trajectory, licence), trials=chosen.trials)
            reader.found = stage.trajectories
            if stage.trajectories == options.limit:
                break
        if not stage.trajectories:
            raise _nothing(source, chosen, reader)
        return stage.publish(
            format=chosen.name,
            source=str(source),
            files=len(files),
            namespace=namespace,
            split=options.split,
            licence=licence,
            warning=chosen.warning,
        )


def _chosen(first: Path, name: str) -> Format:
    if name != AUTO:
        return format_named(name)
    found = guess(sample_of(first))
    if found is None:
        raise DataError(
            f"{first}: its first row is of no format that cacherl knows. "
            f"Name one with --format: {', '.join(sorted(FORMATS))}."
        )
    return found


def _refuse_foreign(root: DataFolder, source: Path, options: ImportOptions) -> None:
    """Refuse to write over what no import of this source wrote, and over what was made from an import.

    Raises:
        DataError: so it is.
    """
    if options.force:
        return
    if root.tasks.exists() and not (root.root / _MANIFEST).exists():
        raise DataError(
            f"{root.tasks}: was not written by an import, and importing would replace it. "
            "Choose another folder with --out, or say --force."
        )
    earlier = _earlier(root.root / _MANIFEST)
    if earlier is not None and Path(earlier.source).resolve() != source.resolve():
        raise DataError(
            f"{root.root}: holds an import of {earlier.source} (trajectories: {earlier.trajectories:,}, read "
            f"as {earlier.format}), and importing {source} would replace it. Choose another folder with "
            "--out, or say --force."
        )
    made = [path for path in (root.augmented, root.selected) if path.exists()]
    if made:
        raise DataError(
            f"{made[0]}: was made from what importing would replace. "
            "Choose another folder with --out, or say --force and make it anew."
        )


def _earlier(manifest: Path) -> ImportSummary | None:
    try:
        return next(read_jsonl(manifest, ImportSummary), None)
    except DataError:
        return None  # of another version: it may be replaced, as it always could


def _named_after(source: Path) -> str:
    name = bare_name(source.parent if any(mark in source.name for mark in "*?[") else source)
    return re.sub(r"-\d{5}-of-\d{5}$", "", name) or "imported"


def _licensed(trajectory: Trajectory, licence: str | None) -> Trajectory:
    if not licence or "licence" in trajectory.notes:
        return trajectory
    notes = {**trajectory.notes, "licence": licence}
    return msgspec.structs.replace(trajectory, notes=notes)


class _Reader:
    """The conversations of all files, in order; tells how far it is."""

    def __init__(
        self,
        chosen: Format,
        reading: Reading,
        files: list[Path],
        on_progress: OnProgress | None,
    ) -> None:
        self._format = chosen
        self._reading = reading
        self._files = files
        self._on_progress = on_progress
        self._total = sum(path.stat().st_size for path in files)
        self._before = 0
        self.found = 0
        self.rows = 0
        self.bad_rows = 0
        self.first_problem = ""

    def conversations(self) -> Iterator[Conversation]:
        for path in self._files:
            if self._format.read_file is not None:
                yield from self._format.read_file(path, self._reading)
            else:
                yield from self._by_row(path)
            self._before += path.stat().st_size
            self._tell(0)

    def _by_row(self, path: Path) -> Iterator[Conversation]:
        read_row = self._format.read_row
        if read_row is None:
            raise RecipeError(f"the format {self._format.name} cannot be read. It is for writing.")
        reading = self._reading
        rows = rows_of(
            path, under=self._format.under, on_skip=reading.on_skip, on_position=self._tell
        )
        for row in rows:
            self.rows += 1
            try:
                yield from read_row(row, reading)
            except Unreadable as problem:
                self.bad_rows += 1
                self.first_problem = self.first_problem or f"{row.where}: {problem}"
                reading.skip(row.where, problem.field, problem.problem)
                if self.bad_rows == self.rows == ALL_BAD:
                    return

    def _tell(self, position: int) -> None:
        if self._on_progress is not None:
            self._on_progress(self._before + position, self._total, self.found)


def _nothing(source: Path, chosen: Format, reader: _Reader) -> DataError:
    if not reader.rows:
        return DataError(f"{source}: holds no conversation. Check the file and the format.")
    looks = None
    with contextlib.suppress(DataError):
        looks = guess(sample_of(files_of(source)[0]))
    hint = "Check the file and --format."
    if looks is not None and looks.name != chosen.name:
        hint = f"It looks like {looks.name}: say --format {looks.name}."
    return DataError(
        f"{source}: none of its first {reader.rows} rows is {chosen.name}; "
        f"{reader.first_problem}. {hint}"
    )


# ---- writing -----------------------------------------------------------------------------------


class _Stage:
    """What is being imported, beside what is there; it takes its place when it is whole."""

    def __init__(self, root: DataFolder, *, cache: bool) -> None:
        self._root = root
        self._folder = root.root / _STAGE
        self._open = contextlib.ExitStack()
        self._wants_cache = cache
        self._cache: ToolCache | None = None
        self._files: dict[str, IO[bytes]] = {}
        self._waiting: list[Conversation] = []
        self._waiting_bytes = 0
        self._ids = _Ids()
        self._unanswered = 0
        self._calls = self._new = self._not_kept = 0
        self._problems: Counter[str] = Counter()
        self._skipped = 0
        self.tasks = self.trajectories = 0

    def __enter__(self) -> _Stage:
        if self._folder.exists():
            shutil.rmtree(self._folder)  # of an import that was killed
        self._folder.mkdir(parents=True)
        # The first to be left last: the files are closed by then.
        self._open.callback(shutil.rmtree, self._folder, ignore_errors=True)
        for name in (_TASKS, _TRAJECTORIES, _SKIPPED):
            file = (self._folder / name).open("wb", buffering=_BUFFER)
            self._files[name] = self._open.enter_context(file)
        if self._wants_cache:
            cache = ToolCache.open(self._folder / self._root.cache.name, mode="write")
            self._cache = self._open.enter_context(cache)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def skip(self, skipped: Skipped) -> None:
        """Report something left out."""
        self._skipped += 1
        kind = _kind(skipped)
        if kind not in self._problems and len(self._problems) >= _PROBLEMS:
            kind = "other problems"
        self._problems[kind] += 1
        self._files[_SKIPPED].write(encode_line(skipped))

    def add(self, task: Task, trajectory: Trajectory, *, trials: bool) -> None:
        """Write one conversation; its answers go into the cache some conversations later."""
        line = encode_line(task)
        name, is_new = self._ids.task(task.id, line, trials=trials)
        if name != task.id:
            scenario = name if task.scenario == task.id else task.scenario
            task = msgspec.structs.replace(task, id=name, scenario=scenario)
            trajectory = msgspec.structs.replace(trajectory, task_id=name)
            line = encode_line(task)
        rollout = self._ids.rollout(name, trajectory.rollout, first=is_new)
        if rollout != trajectory.rollout:
            trajectory = msgspec.structs.replace(trajectory, rollout=rollout)
        if is_new:
            self._files[_TASKS].write(line)
            self.tasks += 1
        written = self._files[_TRAJECTORIES].write(encode_line(trajectory))
        self.trajectories += 1
        self._unanswered += sum(result.tier is Tier.MISS for result in trajectory.results)
        if self._cache is not None:
            self._waiting.append((task, trajectory))
            self._waiting_bytes += written
            if len(self._waiting) >= _AT_ONCE or self._waiting_bytes >= _AT_ONCE_BYTES:
                self._record()

    def _record(self) -> None:
        """Put what waits into the cache, in one transaction where nothing is wrong with any of it."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if self._cache is None or not waiting:
            return
        try:
            with self._cache.store.batch():
                recorded = [self._cache.record_trajectory(*pair) for pair in waiting]
        except _UNKEEPABLE:
            recorded = [self._recorded_alone(self._cache, *pair) for pair in waiting]
        for each in recorded:
            self._calls += each.calls
            self._new += each.new
            self._not_kept += each.skipped

    def _recorded_alone(self, cache: ToolCache, task: Task, trajectory: Trajectory) -> Recorded:
        try:
            return cache.record_trajectory(task, trajectory)
        except _UNKEEPABLE as error:
            where = str(trajectory.notes.get("from", trajectory.task_id))
            self.skip(Skipped(where=where, field="", problem=f"not kept in the cache: {error}"))
            return Recorded(calls=0, new=0, skipped=len(trajectory.results))

    def publish(self, **facts: Any) -> ImportSummary:
        """Put everything in its place and return what there is.

        The manifest goes first and comes last: a folder between the two is nobody's import.
        """
        self._record()
        summary = ImportSummary(
            tasks=self.tasks,
            trajectories=self.trajectories,
            renamed=self._ids.renamed,
            unanswered=self._unanswered,
            calls=self._calls,
            new=self._new,
            not_kept=self._not_kept,
            skipped=self._skipped,
            problems=dict(self._problems.most_common()),
            **facts,
        )
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        if self._cache is not None:
            self._cache.close()
        root = self._root.root
        (root / _MANIFEST).unlink(missing_ok=True)
        for stale in root.glob(f"{self._root.cache.name}*"):
            stale.unlink()
        for name in (*self._files, *([self._root.cache.name] if self._cache else [])):
            (self._folder / name).replace(root / name)
        with atomic_writer(root / _MANIFEST) as manifest:
            manifest.write(encode_line(summary))
        return summary


_UNKEEPABLE = (DataError, RecursionError, ValueError)
"""What one conversation may do to the cache; a full disk or a damaged file is another matter."""


def _kind(skipped: Skipped) -> str:
    """Return the problem without what differs from row to row."""
    field = re.sub(r"\[\d+\]", "[]", skipped.field)
    problem = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`(?= at)|\d+", "…", skipped.problem)[:160]
    return f"{field}: {problem}" if field else problem


_CHECKSUM_ENDS = (
    25  # a line begins {"_sum":"<16 hex digits>": as good as the whole of it, and short
)


class _Ids:
    """Gives every task an id of its own and every conversation of a task a rollout of its own.

    Remembers hashes, not texts: some 100 bytes a task. Two ids of one 64-bit hash are taken for one
    id, which for a million tasks happens once in 30 million imports.
    """

    def __init__(self) -> None:
        self._content: dict[int, int] = {}
        """Id -> content of the first task of that id."""
        self._others: dict[tuple[int, int], int] = {}
        """(id, content) of a later task of that id -> its number, from 2."""
        self._numbers: dict[int, int] = {}
        """Id -> the number given last."""
        self._rollouts: dict[int, set[int]] = {}
        """Id -> rollouts taken, but for tasks that have rollout 0 alone."""
        self._next: dict[int, int] = {}

    @property
    def renamed(self) -> int:
        """Tasks that could not keep their id."""
        return len(self._others)

    def task(self, name: str, line: bytes, *, trials: bool) -> tuple[str, bool]:
        """Return the task's id, and whether it is a new task; `line` is the task as it is written."""
        number, content = hash(name), hash(line[:_CHECKSUM_ENDS])
        first = self._content.get(number)
        if first is None:
            self._content[number] = content
            return name, True
        if first == content or trials:
            return name, False
        again = self._others.get((number, content))
        if again is not None:
            return f"{name}~{again}", False
        again = self._numbers[number] = self._numbers.get(number, 1) + 1
        self._others[number, content] = again
        return f"{name}~{again}", True

    def rollout(self, name: str, wanted: int, *, first: bool) -> int:
        """Return `wanted`, or the next that no conversation of the task has."""
        if first and wanted == 0:
            return 0
        number = hash(name)
        taken = self._rollouts.setdefault(number, set() if first else {0})
        if wanted in taken:
            wanted = self._next.get(number, 1)
            while wanted in taken:
                wanted += 1
            self._next[number] = wanted + 1
        taken.add(wanted)
        return wanted


# ---- playing again -----------------------------------------------------------------------------


def _as_spoken(task: Task, trajectory: Trajectory) -> Task:
    """Return the task with the user turns of this trajectory: a simulated user words each trial anew."""
    said = tuple(m.content for m in trajectory.messages if isinstance(m, UserMessage))
    return msgspec.structs.replace(task, user_turns=said or task.user_turns)


async def replay_folder(folder: Path) -> ReplaySummary:
    """Play every trajectory of an imported folder through the loop, answered by its own recordings.

    Each conversation is answered from a cache of itself alone, so that what comes back is what this
    conversation saw and not what another trial of the same task saw.
    """
    tasks = {task.id: task for task in read_jsonl(folder / "tasks.jsonl", Task)}
    tiers: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    conversations = results = identical = refused = different = unanswered = in_doubt = 0
    first: str | None = None
    for trajectory in read_jsonl(folder / "trajectories.jsonl", Trajectory):
        task = tasks.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"{folder}/trajectories.jsonl: task {trajectory.task_id} is not in tasks.jsonl. "
                "Import the file again."
            )
        conversations += 1
        task = _as_spoken(task, trajectory)
        with ToolCache.open(":memory:") as cache:
            cache.record_trajectory(task, trajectory)
            tools = ReplayTools(cache, task, splits=frozenset(Split))
            played = await run_episode(
                RecordedModel(trajectory),
                tools,
                task,
                limits=Limits(max_turns=10_000, max_context_tokens=1 << 40),
            )
        stops[
            (played.stop if played.stop is not StopReason.MODEL_FAILED else trajectory.stop).value
        ] += 1
        doubtful = False
        for recorded, replayed in zip(trajectory.results, played.results, strict=False):
            if recorded.tier is Tier.MISS:
                unanswered += 1
                doubtful = True
                continue
            doubtful = doubtful or recorded.error_class is ErrorClass.TRANSIENT
            if doubtful and replayed.tier is Tier.MISS:
                in_doubt += 1
                continue
            results += 1
            if replayed.source is Source.LOOP:
                refused += 1
            elif replayed.text == recorded.text:
                identical += 1
                tiers[replayed.tier.value] += 1
            else:
                different += 1
                first = first or f"{trajectory.task_id} {recorded.name}: {replayed.text[:80]!r}"
        missing = len(trajectory.results) - len(played.results)
        if missing:
            different += missing
            results += missing
            first = first or f"{trajectory.task_id}: the conversation ended {missing} results early"
    return ReplaySummary(
        conversations=conversations,
        results=results,
        identical=identical,
        refused=refused,
        different=different,
        unanswered=unanswered,
        in_doubt=in_doubt,
        tiers=dict(tiers),
        stops=dict(stops),
        first_difference=first,
    )
