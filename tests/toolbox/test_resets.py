"""`resets = true` is a promise: each source must be able to keep it, or somebody says that it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.core.errors import RecipeError
from cacherl.core.messages import ToolCall
from cacherl.wiring import toolbox_world

PLAIN = """
from cacherl.toolbox.functions import tool
NOTES = []

@tool(reads=["notes"], writes={writes})
def add(text: str) -> int:
    NOTES.append(text)
    return len(NOTES)
"""
OPENED = """
class Notes:
    def __init__(self):
        self.kept = []

    def add(self, text: str) -> int:
        self.kept.append(text)
        return len(self.kept)

def open_tools(scenario):
    return Notes()
"""
SERVICE = """{"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {
"/orders": {"post": {"operationId": "place_order", "responses": {"200": {"description": "d"}}}},
"/order": {"get": {"operationId": "get_order", "responses": {"200": {"description": "d"}}}}}}"""


def written(folder: Path, tools: str, *, module: str = PLAIN.format(writes='["notes"]')) -> Path:
    (folder / "notes.py").write_text(module)
    (folder / "service.json").write_text(SERVICE)
    path = folder / "tools.toml"
    path.write_text(f'namespace = "n"\nresets = true\n{tools}\n')
    return path


PYTHON = '[python.notes]\nmodule = "notes.py"\n'
DESK = '[mcp.desk]\ncommand = "{python}"\nargs = ["-m", "cacherl.worlds.desk", "--scenario", "{which}"]\n'
HTTP = '[openapi.shop]\nspec = "service.json"\nserver = "http://127.0.0.1:1"\n'


def desk(which: str) -> str:
    import sys

    return DESK.replace("{python}", sys.executable).replace("{which}", which)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        (PYTHON, ("what notes writes (add)", "open_tools(scenario)", "under [python.notes]")),
        (desk("desk-1"), ("what desk writes", "{scenario}", "`resets = true` under [mcp.desk]")),
        (HTTP, ("what shop writes (place_order)", "under [openapi.shop]")),
        (PYTHON + "resets = false\n", ("`resets = false` is said of it",)),
    ],
)
def test_a_source_that_keeps_its_state_is_refused_with_its_cures(
    tmp_path: Path, tools: str, said: tuple[str, ...]
) -> None:
    """State would pile up over episodes, and the cache would be full of contradictions."""
    world = toolbox_world(written(tmp_path, tools))

    with pytest.raises(RecipeError) as refused:
        _ = world.specs

    assert "\n" not in str(refused.value)
    for words in said:
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("tools", "module"),
    [
        (PYTHON, OPENED),
        (PYTHON, PLAIN.format(writes="[]")),
        (PYTHON + "resets = true\n", PLAIN.format(writes='["notes"]')),
        (PYTHON + "[tools.add]\nwrites = []\n", PLAIN.format(writes='["notes"]')),
        (PYTHON + "[tools.add]\nhide = true\n" + HTTP + "resets = true\n", PLAIN),
        (desk("{scenario}"), ""),
        (desk("desk-1") + "resets = true\n", ""),
        (HTTP + 'only = ["get_order"]\n', ""),
    ],
)
def test_one_that_starts_afresh_or_writes_nothing_is_taken(
    tmp_path: Path, tools: str, module: str
) -> None:
    """Who reads only, or keeps a state for each episode, has nothing to explain."""
    if module == PLAIN:
        module = PLAIN.format(writes='["notes"]')
    path = written(tmp_path, f'scenario = "desk-1"\n{tools}', module=module)

    assert toolbox_world(path).specs


async def test_episodes_of_such_a_module_start_afresh(tmp_path: Path) -> None:
    """What is accepted also holds."""
    world = toolbox_world(written(tmp_path, PYTHON, module=OPENED))
    call = ToolCall(id="1", name="add", arguments={"text": "a"})
    answers = []
    for _ in range(2):
        tools = world.open("s")
        answers.append((await tools.call(call)).text)
        await tools.aclose()

    assert answers == ["1", "1"]
    await world.aclose()


def test_without_the_promise_nothing_is_asked(tmp_path: Path) -> None:
    """Most tools act on something outside; that is what `resets = false` says."""
    path = written(tmp_path, PYTHON)
    path.write_text(path.read_text().replace("resets = true", "resets = false"))

    assert [spec.name for spec in toolbox_world(path).specs] == ["add"]
