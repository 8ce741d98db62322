"""`cacherl tools`: see and try live tools before anything is recorded with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cacherl import wiring
from cacherl.agent import run_episode
from cacherl.cli import main
from cacherl.cli.tools import effects_in_words
from cacherl.core.errors import RecipeError
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.tools import UNDECLARED, Effects
from tests.fakes import ScriptedModel

pytest.importorskip("httpx")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "shop_tools"
PYTHON = sys.executable


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The worked example, with its service running on a free port."""
    folder = tmp_path_factory.mktemp("shop")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    service = subprocess.Popen(
        [PYTHON, folder / "billing_service.py", "0"], stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    url = service.stdout.readline().split()[-1]
    tools = folder / "tools.toml"
    tools.write_text(tools.read_text().replace("http://127.0.0.1:8765", url))
    yield tools
    service.terminate()
    service.wait()
    service.stdout.close()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["tools", *map(str, arguments)])


def test_list_says_where_tools_come_from_and_what_they_touch(shop: Path) -> None:
    """The first thing to look at: an undeclared tool makes a cache nearly useless."""
    shown = run("list", shop)
    told = json.loads(run("list", shop, "--json").stdout)["tools"]

    assert shown.exit_code == 0
    assert "6 tools of 2 sources." in shown.stdout
    assert re.search(
        r"get_order +│ shop +│ reads order:\{order_id\} +│ Read one order", shown.stdout
    )
    by_name = {tool["name"]: tool for tool in told}
    assert by_name["cancel_order"]["source"] == "shop"
    assert by_name["cancel_order"]["effects"]["writes"] == ["order:{order_id}"]
    assert by_name["get_invoice"]["source"] == "billing"
    assert by_name["get_invoice"]["effects"] == {"reads": ["invoice:{order_id}"]}


def test_a_parameter_without_a_type_is_pointed_out(tmp_path: Path) -> None:
    """A forgotten hint becomes a schema that takes anything, and a model then sends anything."""
    (tmp_path / "mine.py").write_text(
        'def look(a, b: int, c=3):\n    """Look.\n\n    Args:\n        a: what\n    """\n    return a\n'
    )
    tools = tmp_path / "tools.toml"
    tools.write_text('namespace = "n"\n[python.mine]\nmodule = "mine.py"\n')

    listed, shown = run("list", tools), run("show", tools, "look")

    said = "look: no type hint for a, c: anything is accepted"
    assert said in listed.stderr
    assert said in shown.stdout
    assert "1 tool of 1 source." in listed.stdout
    assert json.loads(run("list", tools, "--json").stdout)["notes"] == [said]


def test_a_file_and_a_command_at_once_are_refused_by_name() -> None:
    """Whichever of the two was taken, it could be the other that was meant."""
    for arguments in (
        ["list", "--json", "t.toml", "--", "npx", "x"],
        ["call", "t.toml", "get_order", "--", "npx", "x"],
    ):
        refused = run(*arguments)

        assert refused.exit_code == 2
        assert "either a file (t.toml) or a server's command after --" in refused.stderr


def test_list_warns_of_tools_that_declare_nothing(tmp_path: Path) -> None:
    """And says what to write."""
    (tmp_path / "mine.py").write_text('def look() -> str:\n    """Look [red]up[/red]."""\n')
    (tmp_path / "tools.toml").write_text('namespace = "n"\n[python.mine]\nmodule = "mine.py"\n')

    shown = run("list", tmp_path / "tools.toml")

    assert "writes everything, because nothing is declared" in shown.stdout
    assert "Look [red]up[/red]." in shown.stdout
    assert "[tools.look] reads = [...] writes = [...]" in shown.stdout


@pytest.mark.parametrize(
    ("effects", "words"),
    [
        (UNDECLARED, "writes everything, because nothing is declared"),
        (Effects(reads=("*",)), "reads everything"),
        (Effects(), "touches nothing"),
        (Effects(reads=("a:{b}", "c:*"), open_world=True), "reads a:{b}, c:*; changes by itself"),
        (Effects(writes=("*",), idempotent=True), "writes everything, twice as once"),
    ],
)
def test_effects_are_said_in_words(effects: Effects, words: str) -> None:
    """Not everybody knows what `*` stands for."""
    assert effects_in_words(effects) == words


def test_show_tells_all_of_one_tool_and_a_call_to_copy(shop: Path) -> None:
    """What a model is told, and the next thing to type."""
    shown = run("show", shop, "get_order")
    told = json.loads(run("show", shop, "get_order", "--json").stdout)

    assert shown.exit_code == 0
    assert "as printed on the bill" in shown.stdout
    assert f"""cacherl tools call {shop} get_order '{{"order_id":"..."}}'""" in shown.stdout
    assert told["parameters"]["required"] == ["order_id"]


def test_call_prints_the_answer_and_its_latency(shop: Path) -> None:
    """The text on stdout, so that it can be piped; the rest on stderr."""
    called = run("call", shop, "get_order", '{"order_id": "A-1"}')
    invoice = run("call", shop, "get_invoice", '{"order_id": "A-3", "currency": "USD"}', "--json")

    assert called.exit_code == 0
    assert json.loads(called.stdout)["article"] == "kettle"
    assert re.fullmatch(r"answered in [\d.e-]+ ms\n", called.stderr)
    assert json.loads(json.loads(invoice.stdout)["text"])["amount"] == 264.0


def test_an_error_answer_is_exit_code_one(shop: Path) -> None:
    """So that a script notices."""
    called = run("call", shop, "get_order", '{"order_id": "A-9"}')

    assert called.exit_code == 1
    assert json.loads(called.stdout) == {"error": "not_found", "message": "there is no order A-9"}
    assert called.stderr.startswith("error (not_found) in")


def test_a_tool_that_writes_is_called_with_yes_only(shop: Path) -> None:
    """A real account is behind it."""
    arguments = ("call", shop, "cancel_order", '{"order_id": "A-1"}')
    refused, called = run(*arguments), run(*arguments, "--yes")
    late = run(*arguments, "--yes", "--scenario", "friday")

    assert refused.exit_code == 2
    assert "writes order:{order_id}: it was not called. Add --yes" in refused.stderr
    assert called.exit_code == 0
    assert json.loads(called.stdout)["status"] == "cancelled"
    assert late.exit_code == 1
    assert json.loads(late.stdout)["error"] == "permission"


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (("get_ordr", "{}"), "no tool 'get_ordr' (did you mean `get_order`?)"),
        (("get_order", "{}"), "'order_id' is a required property"),
        (("get_order", '{"order_id": 3}'), "order_id: 3 is not of type 'string'"),
        (("get_order", "{order_id: 3}"), "ARGS_JSON is not JSON"),
        (("get_order", "[1]"), "not an object"),
    ],
)
def test_a_wrong_call_is_not_made(shop: Path, arguments: tuple[str, str], seen: str) -> None:
    """One line, and nothing has run."""
    called = run("call", shop, *arguments)

    assert called.exit_code == 2
    assert called.stderr.startswith("Error: ")
    assert called.stderr.count("\n") == 1
    assert seen in called.stderr


@pytest.mark.parametrize(
    ("text", "code", "seen"),
    [
        ("namespace = 'n'", 2, "no tools come from anywhere"),
        ("namespace='n'\n[python.a]\nmodule='none.py'", 1, "none.py: no such module file"),
        ("namespace='n'\n[mcp.a]\nurl='http://x/${NOT_SET_ANYWHERE}'", 2, "NOT_SET_ANYWHERE"),
        ("namespace='n'\n[mcp.a]\ncommand='no-such-program-here'", 1, "no-such-program-here"),
        ("namespace='n'\n[openapi.a]\nspec='none.json'", 1, "none.json: cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, text: str, code: int, seen: str
) -> None:
    """Whatever kind of source it is."""
    (tmp_path / "tools.toml").write_text(text)

    shown = run("list", tmp_path / "tools.toml")

    assert shown.exit_code == code
    assert shown.stderr.startswith("Error: ")
    assert seen in shown.stderr


def test_text_of_a_tool_cannot_rewrite_the_terminal(tmp_path: Path) -> None:
    """What tools say is data."""
    (tmp_path / "mine.py").write_text(
        "from cacherl.toolbox.functions import tool\n"
        "@tool(reads=[], writes=[])\n"
        'def look() -> str:\n    """Look\\x1b[2Jup."""\n    return "a\\x1b[31mb\\rc"\n'
    )
    (tmp_path / "tools.toml").write_text('namespace = "n"\n[python.mine]\nmodule = "mine.py"\n')

    called = run("call", tmp_path / "tools.toml", "look")
    listed = run("list", tmp_path / "tools.toml")

    assert called.stdout == "a\\x1b[31mb\\x0dc\n"
    assert "\x1b" not in listed.stdout


def test_one_mcp_server_can_be_tried_without_a_file() -> None:
    """What a newcomer types first, in a process of its own as they would."""
    pytest.importorskip("mcp")
    server = ["--", PYTHON, "-m", "cacherl.worlds.desk", "--scenario", "desk-3"]

    listed = subprocess.run(
        [PYTHON, "-m", "cacherl.cli", "tools", "list", "--json", *server],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    called = run("call", "get_order", '{"order_id": "none"}', *server)

    assert listed.returncode == 0, listed.stderr
    assert {"get_order", "cancel_order"} <= {t["name"] for t in json.loads(listed.stdout)["tools"]}
    assert called.exit_code == 1
    assert json.loads(called.stdout)["error"] == "not_found"


def test_no_file_and_no_command_says_what_to_give() -> None:
    """`cacherl tools list -`, or a `--` with nothing after it."""
    assert "cacherl tools list -- npx" in run("list", "--").stderr


# ---- the example as a world


async def test_the_example_can_be_solved_with_its_own_tools(shop: Path) -> None:
    """Every gold call of `tasks.jsonl` is one that the tools accept, in a shop of its own."""
    world = wiring.toolbox_world(shop, shop.with_name("tasks.jsonl"))
    tasks = wiring.written_tasks(shop.with_name("tasks.jsonl"), world)

    assert world.resets
    assert len(tasks) == 12
    assert {task.scenario for task in tasks} == {"monday", "friday"}
    for task in tasks:
        tools = world.open(task.scenario)
        answers = []
        for gold in () if task.gold is None else task.gold.listed:
            call = ToolCall(id="1", name=gold.name, arguments=gold.arguments)
            answers.append(await tools.call(call))
        await tools.aclose()
        expects_failure = "A-9" in task.user_turns[0]
        assert all(answer.is_error == expects_failure for answer in answers), (task, answers)
    await world.aclose()


async def test_a_model_can_play_an_episode_with_them(shop: Path) -> None:
    """The loop, the toolbox and the written task fit together."""
    world = wiring.toolbox_world(shop)
    task = wiring.written_tasks(shop.with_name("tasks.jsonl"), world)[0]
    turns = [
        AssistantMessage(
            calls=(ToolCall(id="1", name="get_order", arguments={"order_id": "A-2"}),)
        ),
        AssistantMessage(content="It is shipped."),
    ]
    played = await run_episode(
        ScriptedModel(turns), world.open(task.scenario), task, limits=Limits()
    )

    assert [result.is_error for result in played.results] == [False]
    assert json.loads(played.results[0].text)["status"] == "shipped"


def test_variables_are_asked_for_before_anything_starts(tmp_path: Path) -> None:
    """A missing key is one line, not a failed episode."""
    (tmp_path / "tools.toml").write_text(
        'namespace="n"\n[openapi.a]\nspec="a.json"\nheaders={Authorization="${NO_SUCH_KEY}"}\n'
    )

    with pytest.raises(RecipeError, match=r"openapi\.a\.headers\.Authorization: .*NO_SUCH_KEY"):
        wiring.toolbox_world(tmp_path / "tools.toml")
