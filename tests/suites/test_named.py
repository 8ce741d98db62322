"""Suites of a user's own files, by name, as `--suite` and a stored evaluation open them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.messages import AssistantMessage
from cacherl.core.models import ChatModel
from cacherl.core.tasks import Split
from cacherl.reward.judge import ChatJudge
from cacherl.suites.named import acebench, add_checkout, checkout_of, own, tau
from cacherl.suites.own import OpenJudge
from cacherl.wiring import toolbox_world
from tests.fakes import ScriptedModel
from tests.suites.acebench_checkout import build
from tests.suites.tau_checkout import build_v1, build_v2

PYTHON = Path(sys.executable)


def nobody(name: str, temperature: float) -> ChatModel:
    raise AssertionError("no model is opened before somebody has to speak")


def judge(name: str) -> OpenJudge:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[ChatJudge]:
        yield ChatJudge(ScriptedModel([AssistantMessage(content='{"score": 5}')]))

    return opened


@pytest.mark.parametrize(
    "words",
    [
        "",
        "normal,special",
        "multi_step",
        "agent_multi_step,zh",
        "multi_step,text",
        "user=openai:gpt-4o",
        "multi_turn,multi_step,user=openai:gpt-4o@http://127.0.0.1:1/v1",
    ],
)
def test_the_name_of_an_acebench_opens_it_again(tmp_path: Path, words: str) -> None:
    """Scoring again must meet the same tasks under the same rules."""
    folder = build(tmp_path)
    build_zh = build(tmp_path / "zh", language="zh")
    (build_zh / "data_all" / "data_zh").rename(folder / "data_all" / "data_zh")
    for kind in ("multi_step", "multi_turn"):
        source = build_zh / "model_inference" / kind / "scenarioszh"
        source.rename(folder / "model_inference" / kind / "scenarioszh")
    add_checkout("acebench", folder)
    info = acebench(words, nobody).info

    kind, _, again = info.name.partition(":")
    assert kind == "acebench"
    assert acebench(again, nobody).info == info
    scripted = acebench("", nobody, scripted=True).info
    assert scripted.name == "acebench-scripted"


def test_the_name_of_a_tau_opens_it_again(tmp_path: Path) -> None:
    """With the interpreter that was named when it was added."""
    add_checkout("tau", build_v1(tmp_path / "v1"), PYTHON)
    add_checkout("tau2", build_v2(tmp_path / "v2"), PYTHON)
    for kind, words in (
        ("tau", "library,scripted"),
        ("tau", "library,user=gpt-4o,provider=openai,strategy=react"),
        ("tau2", "library,solo"),
    ):
        suite = tau(kind, words)
        name = suite.info.name
        suite.close()
        assert name == f"{kind}:{words}"
        again = tau(*name.split(":", 1))
        assert again.info.name == name
        again.close()


def test_own_takes_a_file_beside_the_tools_and_the_whole_of_it(tmp_path: Path) -> None:
    """The shortest name is the path that one has anyway."""
    (tmp_path / "t.py").write_text("def add(a: int, b: int) -> int:\n    return a + b\n")
    tools = tmp_path / "tools.toml"
    tools.write_text(
        'namespace = "sums"\nresets = true\n[python.t]\nmodule = "t.py"\nresets = true\n'
    )
    (tmp_path / "tasks.jsonl").write_text(
        '{"task": "2 and 2?", "expect": {"answer": "4", "judge": true}}'
    )
    world = toolbox_world
    suite = own(f"{tools},all,judge=openai:gpt-5", world, judge)

    assert suite.info.name == f"own:{tools},all,judge=openai:gpt-5"
    assert len(suite.tasks(Split.TEST)) == 1
    with pytest.raises(RecipeError, match="judge=openai:gpt-5"):
        own(str(tools), world, judge).tasks(Split.TEST)
    with pytest.raises(RecipeError, match=r"own:tools\.toml,tasks\.jsonl"):
        own("tasks.jsonl", world, judge)


def test_what_was_not_added_says_what_to_type(tmp_path: Path) -> None:
    """The first thing that everybody meets."""
    with pytest.raises(DataError, match="cacherl suites add acebench --path DIR`"):
        acebench("", nobody)
    with pytest.raises(DataError, match="cacherl suites add tau2 --path DIR --python PYTHON"):
        tau("tau2", "telecom,solo")
    with pytest.raises(RecipeError, match="--python PYTHON"):
        add_checkout("tau", build_v1(tmp_path))
    with pytest.raises(DataError, match="no such interpreter"):
        add_checkout("tau", tmp_path, tmp_path / "python")
    with pytest.raises(DataError, match="git clone"):
        add_checkout("acebench", tmp_path / "nowhere")


def test_a_virtual_environment_is_kept_by_its_link(tmp_path: Path) -> None:
    """Resolved, it would be the system's Python, without a single package of the benchmark."""
    folder = build_v1(tmp_path)
    (folder / ".venv" / "bin").mkdir(parents=True)
    link = folder / ".venv" / "bin" / "python"
    link.symlink_to(PYTHON)

    assert add_checkout("tau", folder).python == str(link)
    assert checkout_of("tau").python == str(link)


def test_words_that_mean_nothing_are_told(tmp_path: Path) -> None:
    """With what there is."""
    add_checkout("acebench", build(tmp_path / "a"))
    add_checkout("tau", build_v1(tmp_path / "t"), PYTHON)

    with pytest.raises(RecipeError, match="'multistep' means nothing there"):
        acebench("multistep", nobody)
    with pytest.raises(RecipeError, match="'usr=' means nothing there"):
        acebench("usr=x", nobody)
    with pytest.raises(RecipeError, match="name one domain"):
        tau("tau", "scripted")
