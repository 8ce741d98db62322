"""A folder's conversations or tasks into a file that other people's trainers read, and a card of what it is."""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from cacherl.core.errors import DataError, MissingExtraError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import atomic_writer, read_jsonl
from cacherl.core.messages import AssistantMessage
from cacherl.core.records import JsonObject, Record
from cacherl.core.task_file import TaskFile
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.formats.format import MAX_TOOL_COLUMNS, Target, Unwritable
from cacherl.formats.table import TARGETS

OnProgress = Callable[[int], None]
"""Called with the rows written so far."""

_HELD_OUT = "held out: not of split {}"
_BATCH_BYTES = 4 << 20  # of a Parquet file's rows held before they are written
_PARQUET = ".parquet"
_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class Origin(enum.StrEnum):
    """Which of a folder's files of conversations."""

    SELECTED = "selected"
    AUGMENTED = "augmented"
    TRAJECTORIES = "trajectories"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to export and as what."""

    format_name: str
    origin: Origin | None = None
    """None takes the furthest file of conversations there is; for prompts, all tasks."""
    split: Split = Split.TRAIN
    limit: int | None = None
    """Rows."""


class ExportCard(Record, frozen=True, kw_only=True):
    """What an exported file holds. Kept beside it as `<file>.card.json`."""

    format: str
    title: str
    file: str
    source: str
    split: Split
    rows: int
    bytes: int
    tasks: int
    """Different tasks."""
    tools: int
    """Different tools on offer."""
    calls: dict[str, int]
    """Calls by tool, most called first; empty for prompts."""
    turns: int
    """Turns of the model."""
    thinking: int
    """Of these, with thinking."""
    languages: dict[str, int]
    policies: dict[str, int]
    licences: dict[str, int]
    """Rows by the licence their source is under; `unknown` where nobody said."""
    left_out: dict[str, int]
    """Conversations or tasks that were not written, by reason."""
    with_ground_truth: int = 0
    """Rows whose gold stands beside the prompt, for a reward function; never in it."""
    advice: str = ""


def export_folder(
    folder: Path, out: Path, options: ExportOptions, *, on_progress: OnProgress | None = None
) -> ExportCard:
    """Write the folder's conversations (or its tasks, for a format of prompts) to `out`, row by row.

    Only tasks of the asked split are written: held-out ones get into no training file unless
    `split` says so. `out` appears whole or not at all. Memory holds a row, a batch of a table, and
    an id and a place of each task.

    Raises:
        RecipeError: no such format, or a file name that does not fit it.
        DataError: there is nothing to export, a conversation's task is missing, or `out` is one of
            the folder's own files.
    """
    target = target_named(options.format_name)
    _check_name(out, target)
    root = DataFolder(folder)
    if out.resolve().parent == root.root.resolve() and out.name in _OWN:
        raise DataError(f"{out}: is one of the folder's own files. Name another with --out.")
    source = source_of(folder, options)
    tally = _Tally()
    with TaskFile(root.tasks) as tasks:
        if target.prompt is not None:
            names = _tool_names(tasks, options.split)
            rows = _prompt_rows(target, tasks, source, options.split, names, tally)
        else:
            names = ()
            rows = _conversation_rows(target, tasks, source, options.split, tally)
        with _writer(out, target, names) as writer:
            for row in rows:
                writer.write(row)
                tally.rows += 1
                if on_progress is not None:
                    on_progress(tally.rows)
                if tally.rows == options.limit:
                    break
            if not tally.rows:
                raise _nothing(source, options.split, tally)
    card = tally.card(
        format=target.name,
        title=target.title,
        file=out.name,
        source=str(source),
        split=options.split,
        bytes=out.stat().st_size,
        advice=target.advice,
    )
    with atomic_writer(out.with_name(f"{out.name}.card.json")) as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    return card


_OWN = frozenset(
    path.name
    for root in (DataFolder(Path()),)
    for path in (root.tasks, root.trajectories, root.augmented, root.selected, root.cache)
)


def target_named(name: str) -> Target:
    """Return what can be written under this name.

    Raises:
        RecipeError: nothing can.
    """
    if name not in TARGETS:
        raise RecipeError(f"no format {name!r} to write. There are: {', '.join(TARGETS)}.")
    return TARGETS[name]


def _check_name(out: Path, target: Target) -> None:
    wanted = [_PARQUET] if target.schema is not None else []
    wanted += _LINES if target.lines else ()
    if not out.name.endswith(tuple(wanted)):
        raise RecipeError(
            f"{out}: {target.name} is written as {' or '.join(wanted)}. Name the file so."
        )


def source_of(folder: Path, options: ExportOptions) -> Path:
    """Return the file that is exported.

    Raises:
        RecipeError: no such format.
        DataError: there is no such file.
    """
    root = DataFolder(folder)
    if options.origin is None:
        prompts = target_named(options.format_name).prompt is not None
        return root.tasks if prompts else root.best()
    path: Path = getattr(root, options.origin.value)
    if not path.exists():
        raise DataError(f"{path}: no such file. Make it first, or choose another with --from.")
    return path


def _nothing(source: Path, split: Split, tally: _Tally) -> DataError:
    reasons = "; ".join(f"{count} {reason}" for reason, count in tally.left_out.most_common(3))
    return DataError(
        f"{source}: nothing of split {split} can be written ({reasons or 'it is empty'}). "
        "Choose another --split or --from."
    )


# ---- the rows --------------------------------------------------------------------------------


def _conversation_rows(
    target: Target, tasks: TaskFile, source: Path, split: Split, tally: _Tally
) -> Iterator[JsonObject]:
    if target.row is None:
        raise RecipeError(f"{target.name} has no conversations. Choose another --format.")
    for trajectory in read_jsonl(source, Trajectory):
        task = tasks.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"{source}: a conversation is of task {trajectory.task_id!r}, which is not in "
                f"{tasks.path}. Import or record again."
            )
        if task.split is not split:
            tally.left_out[_HELD_OUT.format(split.value)] += 1
            continue
        try:
            row = target.row(task, trajectory)
        except Unwritable as problem:
            tally.left_out[str(problem)] += 1
            continue
        tally.count(task, trajectory)
        yield row


def _prompt_rows(
    target: Target,
    tasks: TaskFile,
    source: Path,
    split: Split,
    names: Sequence[str],
    tally: _Tally,
) -> Iterator[JsonObject]:
    if target.prompt is None:
        raise RecipeError(f"{target.name} has no prompts. Choose another --format.")
    wanted = None
    if source != tasks.path:
        wanted = {hash(trajectory.task_id) for trajectory in read_jsonl(source, Trajectory)}
    place = 0
    for task in read_jsonl(tasks.path, Task):
        if task.split is not split:
            tally.left_out[_HELD_OUT.format(split.value)] += 1
        elif wanted is not None and hash(task.id) not in wanted:
            tally.left_out[f"not in {source.name}"] += 1
        else:
            tally.count(task, None)
            yield target.prompt(task, place, names)
            place += 1


def _tool_names(tasks: TaskFile, split: Split) -> tuple[str, ...]:
    """Return the names of all tools of a split, sorted; none where they are too many for columns."""
    names: set[str] = set()
    for task in read_jsonl(tasks.path, Task):
        if task.split is split:
            names.update(spec.name for spec in task.tools)
            if len(names) > MAX_TOOL_COLUMNS:
                return ()
    return tuple(sorted(names))


class _Tally:
    """What went into the file."""

    def __init__(self) -> None:
        self.rows = 0
        self.left_out: Counter[str] = Counter()
        self._tasks: set[int] = set()
        self._tools: set[tuple[str, str]] = set()
        self._calls: Counter[str] = Counter()
        self._turns = self._thinking = self._gold = 0
        self._languages: Counter[str] = Counter()
        self._policies: Counter[str] = Counter()
        self._licences: Counter[str] = Counter()

    def count(self, task: Task, trajectory: Trajectory | None) -> None:
        self._tasks.add(hash(task.id))
        self._tools.update((task.namespace, spec.name) for spec in task.tools)
        self._languages[task.language] += 1
        if trajectory is None:
            self._gold += task.gold is not None
            return
        self._policies[trajectory.policy] += 1
        self._licences[str(trajectory.notes.get("licence") or "unknown")] += 1
        for message in trajectory.messages:
            if isinstance(message, AssistantMessage):
                self._turns += 1
                self._thinking += message.thinking is not None
                self._calls.update(getattr(call, "name", "") for call in message.calls)

    def card(self, **facts: Any) -> ExportCard:
        return ExportCard(
            rows=self.rows,
            tasks=len(self._tasks),
            tools=len(self._tools),
            calls=dict(self._calls.most_common()),
            turns=self._turns,
            thinking=self._thinking,
            languages=dict(self._languages.most_common()),
            policies=dict(self._policies.most_common()),
            licences=dict(self._licences.most_common()),
            left_out=dict(self.left_out.most_common()),
            with_ground_truth=self._gold,
            **facts,
        )


# ---- the file --------------------------------------------------------------------------------


class _Lines:
    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._encoder = msgspec.json.Encoder()

    def write(self, row: JsonObject) -> None:
        self._handle.write(self._encoder.encode(row) + b"\n")


class _Table:
    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[JsonObject] = []
        self._bytes = 0

    def write(self, row: JsonObject) -> None:
        self._rows.append(row)
        self._bytes += len(msgspec.json.encode(row))
        if self._bytes > _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


@contextlib.contextmanager
def _writer(out: Path, target: Target, names: Sequence[str]) -> Iterator[_Lines | _Table]:
    with atomic_writer(out) as handle:
        if out.name.endswith(_PARQUET) and target.schema is not None:
            try:
                import pyarrow.parquet as pq
            except ImportError as error:
                raise MissingExtraError("pyarrow", "parquet") from error
            schema = target.schema(names)
            with pq.ParquetWriter(handle, schema, compression="zstd") as writer:
                table = _Table(writer, schema)
                yield table
                table.flush()
        else:
            with _packed(out, handle) as lines:
                yield _Lines(lines)


@contextlib.contextmanager
def _packed(out: Path, handle: IO[bytes]) -> Iterator[IO[bytes]]:
    if out.suffix == ".gz":
        import gzip

        # No time and no name inside: the same rows make the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packed:
            yield cast(IO[bytes], packed)
    elif out.suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=6).stream_writer(handle, closefd=False) as packed:
            yield packed
    else:
        yield handle
