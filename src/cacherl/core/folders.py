"""Where the parts of a data folder are: what `record` and `import` write and later stages go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cacherl.core.errors import DataError


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A folder of tasks, trajectories and a cache, and what was made of them."""

    root: Path

    @property
    def tasks(self) -> Path:
        """`Task` records."""
        return self.root / "tasks.jsonl"

    @property
    def trajectories(self) -> Path:
        """`Trajectory` records as they were recorded or read."""
        return self.root / "trajectories.jsonl"

    @property
    def augmented(self) -> Path:
        """The same with reasoning."""
        return self.root / "augmented.jsonl"

    @property
    def augment_json(self) -> Path:
        """What the last augmenting did, and what the teacher was paid for it."""
        return self.root / "augment.json"

    @property
    def selected(self) -> Path:
        """Those worth learning from."""
        return self.root / "selected.jsonl"

    @property
    def select_json(self) -> Path:
        """What the last selecting did, and what the judge was paid for it."""
        return self.root / "select.json"

    @property
    def cache(self) -> Path:
        """The recorded tool results."""
        return self.root / "cache.sqlite"

    @property
    def journal(self) -> Path:
        """A folder: every paid reply and every live tool result, append-only."""
        return self.root / "journal"

    @property
    def live_calls(self) -> Path:
        """Every call to tools that act on something outside, before and after it was made."""
        return self.journal / "live_calls.jsonl"

    @property
    def manifest(self) -> Path:
        """What the recording is of: tools, teacher, limits, versions."""
        return self.root / "record.json"

    @property
    def ledger(self) -> Path:
        """What the teacher cost."""
        return self.root / "ledger.json"

    @property
    def summary(self) -> Path:
        """What the last run did, and what the folder holds."""
        return self.root / "summary.json"

    @property
    def card_json(self) -> Path:
        """The data card for machines."""
        return self.root / "card.json"

    @property
    def card_html(self) -> Path:
        """The data card for people."""
        return self.root / "card.html"

    def best(self) -> Path:
        """Return the furthest file of trajectories there is.

        Raises:
            DataError: there is none.
        """
        for path in (self.selected, self.augmented, self.trajectories):
            if path.exists():
                return path
        raise DataError(
            f"{self.root}: holds no trajectories. Make some with `cacherl record` or `cacherl import`."
        )
