"""What is kept: thresholds, floors and ceilings."""

from __future__ import annotations

from dataclasses import dataclass

from cacherl.core.errors import RecipeError
from cacherl.core.tasks import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectOptions:
    """What is kept. Whatever is 0 by default does nothing."""

    splits: frozenset[Split] = frozenset({Split.TRAIN})
    """Whose tasks may be learnt from."""
    per_task: int = 1
    """Different solutions kept of one task, best and shortest first."""
    min_judged: float = 0.8
    """Where a judge scored the answer, the mean from here on counts as right (4 of 5), in [0, 1]."""
    max_spread: int = 2
    """Samples of a judge further apart than this, in points of 5, are contested: the judge guesses."""
    drop_contested: bool = False
    """Contested trajectories are left out, whatever their mean."""
    min_noted: float = 1.0
    """Where the data set's own score decides, from here on it counts as right, in [0, 1]."""
    keep_unscored: bool = False
    """Keep what nothing speaks for or against."""
    near_duplicates: float = 0.0
    """Two conversations at least this alike (Jaccard, in [0, 1]) that use the same tools are one lesson."""
    combine: bool = True
    """Let the best of the rejected come back where a tool, a family or a length is rare."""
    tool_floor: int = 8
    """Below this many trajectories a tool is rare."""
    family_floor: int = 8
    """The same for a task family."""
    length_floor: int = 0
    """The same for a length, in calls."""
    min_returned: float = 0.5
    """Nothing below this score comes back, in [0, 1]."""
    family_ceiling: float = 3.0
    """A family is cut to this many times the median family."""
    tool_ceiling: float = 0.0
    """Where all of a trajectory's tools are in more than this many times the median tool's trajectories,
    it goes."""
    length_ceiling: float = 0.0
    """A length is cut to this many times the median length."""
    seed: int = 0
    """Draws what a ceiling cuts."""

    def __post_init__(self) -> None:
        shares = ("min_judged", "min_noted", "near_duplicates", "min_returned")
        counts = ("per_task", "max_spread", "tool_floor", "family_floor", "length_floor", "seed")
        ceilings = ("family_ceiling", "tool_ceiling", "length_ceiling")
        for name in shares:
            self._check(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in (*counts, *ceilings):
            self._check(name, getattr(self, name) >= (name == "per_task"), "not that small")

    def _check(self, name: str, holds: bool, bounds: str) -> None:
        if not holds:
            raise RecipeError(
                f"select: {name} = {getattr(self, name)!r} is out of range: {bounds}."
            )
