"""A data folder augmented: augmented.jsonl, and augment.json, which says what was done and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from cacherl.augment.reasoners import Reasoner
from cacherl.augment.stage import AugmentSummary, OnProgress, augment
from cacherl.augment.turns import AugmentOptions
from cacherl.core.errors import DataError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import atomic_writer, read_jsonl
from cacherl.core.languages import Detect
from cacherl.core.made_from import MadeFrom, made_from, noted
from cacherl.core.records import Record
from cacherl.core.task_file import TaskFile
from cacherl.core.trajectories import Trajectory
from cacherl.teacher.ledger import Ledger, Row

PURPOSE = "augment"
"""What the teacher's requests are for, in journal and ledger."""


class Paid(Record, frozen=True, kw_only=True):
    """What the teacher was paid for reasons."""

    requests: int
    """Sent."""
    from_journal: int
    """Asked and answered for free: paid for before."""
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    dollars: float | None
    """None where no price is known."""


class FolderSummary(Record, frozen=True, kw_only=True):
    """What a run did, and what it cost."""

    run: AugmentSummary
    paid: Paid | None = None
    """In this run; None where nobody is paid."""
    paid_in_all: Paid | None = None
    """Over the whole history of the folder's journal."""
    prices: str | None = None
    """Where the price comes from, and of when it is."""
    made_from: MadeFrom | None = None
    """The trajectories that augmented.jsonl was made from."""


async def augment_folder(
    folder: DataFolder,
    reasoner: Reasoner,
    *,
    ledger: Callable[[], Ledger] | None = None,
    options: AugmentOptions = AugmentOptions(),  # noqa: B008 - immutable
    detect: Detect | None = None,
    concurrency: int = 8,
    turns_at_once: bool = False,
    limit: int | None = None,
    renew: Sequence[str] = (),
    on_progress: OnProgress = lambda done: None,
) -> FolderSummary:
    """Write the folder's trajectories with reasoning, and what was done; as `stage.augment`.

    Args:
        folder: one writer at a time; hold a lock on it.
        reasoner: who knows why.
        ledger: the account of a paid teacher.
        options: see `augment`, as the rest.
        detect: tells languages.
        concurrency: trajectories under way at once.
        turns_at_once: ask about all turns of a trajectory at once.
        limit: only the first so many trajectories.
        renew: the command line that does this again.
        on_progress: told of every trajectory done.

    Raises:
        DataError: a file of the folder is missing or damaged; nothing has changed.
    """
    before = None if ledger is None else ledger()
    for left_behind in folder.root.glob(f".{folder.augmented.name}.*.tmp"):
        left_behind.unlink()  # of a run that was killed
    with TaskFile(folder.tasks) as tasks:
        source = made_from(
            folder,
            folder.trajectories,
            renew or ("augment", str(folder.root), "--teacher", reasoner.name),
        )
        trajectories = read_jsonl(folder.trajectories, Trajectory, drop_torn_tail=True)
        run = await augment(
            tasks,
            islice(trajectories, limit),
            reasoner,
            folder.augmented,
            options=options,
            detect=detect,
            concurrency=concurrency,
            turns_at_once=turns_at_once,
            on_progress=on_progress,
        )
    made = source if run.published else noted(folder.augment_json)
    summary = FolderSummary(run=run, made_from=made)
    if ledger is not None and before is not None:
        after = ledger()
        prices = {source for source in after.prices.values() if source is not None}
        summary = FolderSummary(
            run=run,
            made_from=made,
            paid=paid_between(before, after),
            paid_in_all=paid_between(None, after),
            prices="; ".join(sorted(prices)) or None,
        )
    with atomic_writer(folder.augment_json) as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    return summary


def paid_between(before: Ledger | None, after: Ledger) -> Paid:
    """Return what was paid for reasons between two states of an account."""

    def total(ledger: Ledger | None, name: str) -> float | None:
        rows: tuple[Row, ...] = () if ledger is None else ledger.rows
        numbers = [getattr(row, name) for row in rows if row.purpose == PURPOSE]
        return None if None in numbers else sum(numbers)

    def grown(name: str) -> float | None:
        was, now = total(before, name), total(after, name)
        return None if was is None or now is None else now - was

    def count(name: str) -> int:
        return int(grown(name) or 0)

    return Paid(
        requests=count("requests"),
        from_journal=count("from_journal"),
        prompt_tokens=count("prompt_tokens"),
        cached_prompt_tokens=count("cached_prompt_tokens"),
        completion_tokens=count("completion_tokens"),
        dollars=grown("dollars"),
    )


def count_trajectories(folder: DataFolder) -> int:
    """Return how many trajectories there are to be augmented.

    Raises:
        DataError: there is no such file.
    """
    try:
        with folder.trajectories.open("rb") as handle:
            return sum(1 for line in handle if line.strip())
    except OSError as error:
        raise DataError(
            f"{folder.trajectories}: cannot be read ({error.strerror}). Make it with `cacherl record` or "
            "`cacherl import`."
        ) from error
