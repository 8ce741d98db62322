"""What is wrong with ACEBench's own answers: golds nobody can reach, and golds nobody looks at."""

from __future__ import annotations

from pathlib import Path

from cacherl.core.records import Record
from cacherl.suites.acebench.checkout import AGENT, Language, Row
from cacherl.suites.acebench.suite import AceBench, ways_of
from cacherl.suites.acebench.written import calls_in


class Flaw(Record, frozen=True, kw_only=True):
    """One thing that is wrong with a row."""

    id: str
    kind: str
    """`unreachable`: no alternative's milestones lead to the gold state. `unchecked`: a gold class has a
    name that no class of the task has, so ACEBench passes it unseen. `not-python`: a milestone that
    no parser reads, so a model that writes valid Python misses it."""
    said: str


def report_flaws(checkout: Path, *, language: Language = "en") -> list[Flaw]:
    """Return the flaws of the agent categories, row by row.

    Raises:
        DataError: the checkout cannot be read.
    """
    # Scripted: only golds are replayed, and nobody speaks.
    suite = AceBench(checkout, categories=AGENT, language=language, scripted=True)
    return [flaw for row in suite.rows() for flaw in _of(suite, row)]


def _of(suite: AceBench, row: Row) -> list[Flaw]:
    flaws = []
    for gold in row.answers:
        for name in gold:
            if name not in row.classes:
                flaws.append(
                    Flaw(
                        id=row.id,
                        kind="unchecked",
                        said=f"gold class {name!r} is none of {', '.join(row.classes)}",
                    )
                )
    problems = [suite.replay_problem(row, way) for way in ways_of(row)]
    if None not in problems:
        flaws.append(Flaw(id=row.id, kind="unreachable", said=problems[0] or ""))
    for written in dict.fromkeys(each for way in row.milestones for each in way):
        try:
            calls_in(written)
        except ValueError:
            flaws.append(Flaw(id=row.id, kind="not-python", said=written.strip()))
    return flaws
