"""`DeskWorld`: the support desk behind the world seam."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cacherl.core.errors import RecipeError, ToolError
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.core.worlds import WorldTools
from cacherl.worlds.desk.crowd import CROWD, CrowdedDesk, check_size, crowded
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
        tools: how many tools a prompt has, 1 to 100, or as many as the task takes where that is more;
            None for the four to six of the desk's own lists.
    """

    namespace = NAMESPACE
    resets = True

    def __init__(self, families: Sequence[str] = (), *, tools: int | None = None) -> None:
        unknown = [name for name in families if name not in FAMILIES]
        if unknown:
            raise RecipeError(
                f"the support desk has no task family {unknown[0]!r}. "
                f"There are: {', '.join(FAMILIES)}."
            )
        self.families = tuple(families) or tuple(FAMILIES)
        self.tools = None if tools is None else check_size(tools)

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return SPECS if self.tools is None else (*SPECS, *CROWD)

    def open(self, scenario: str) -> WorldTools:
        desk = DeskTools(scenario_named(scenario))
        return desk if self.tools is None else CrowdedDesk(desk, scenario)

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        tasks = make_tasks(split, count=count, seed=seed, families=self.families)
        return tasks if self.tools is None else [crowded(task, self.tools) for task in tasks]
