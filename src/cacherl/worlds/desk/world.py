"""`DeskWorld`: the support desk behind the world seam."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cacherl.core.errors import RecipeError, ToolError
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.worlds.desk.tasks import FAMILIES, NAMESPACE, make_tasks
from cacherl.worlds.desk.tools import SPECS, DeskTools
from cacherl.worlds.desk.universe import Scenario, scenario

_NAME = re.compile(r"desk-(\d{1,9})\Z")


def scenario_named(name: str) -> Scenario:
    """Return the scenario `desk-<seed>`.

    Raises:
        ToolError: the name has another form.
    """
    match = _NAME.match(name)
    if match is None:
        raise ToolError(
            f"the support desk has no scenario {name!r}. "
            "Scenarios are called desk-<number>, such as desk-1."
        )
    return scenario(int(match[1]))


class DeskWorld:
    """The support desk (`World`).

    Args:
        families: the families that tasks are drawn from; all of them unless told.
    """

    namespace = NAMESPACE
    resets = True

    def __init__(self, families: Sequence[str] = ()) -> None:
        unknown = [name for name in families if name not in FAMILIES]
        if unknown:
            raise RecipeError(
                f"the support desk has no task family {unknown[0]!r}. "
                f"There are: {', '.join(FAMILIES)}."
            )
        self.families = tuple(families) or tuple(FAMILIES)

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return SPECS

    def open(self, scenario: str) -> DeskTools:
        return DeskTools(scenario_named(scenario))

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        return make_tasks(split, count=count, seed=seed, families=self.families)
