"""`tools.toml`: strict, with errors that name the key and what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.core.errors import RecipeError
from cacherl.core.records import JsonObject
from cacherl.core.tools import Effects, ToolSpec
from cacherl.toolbox.config import effects_problem, filled, read_tools, secrets_in

WHOLE = """
namespace = "office"
resets = true
[policy]
timeout_s = 5
[mcp.files]
command = "npx"
args = ["-y", "server-filesystem", "{scenario}"]
[mcp.search]
url = "http://127.0.0.1:9000/mcp"
headers = { Authorization = "Bearer ${SEARCH_TOKEN}" }
[python.shop]
module = "shop.py"
[openapi.billing]
spec = "billing.json"
server = "http://127.0.0.1:8080"
[tools.get_order]
reads = ["order:{order_id}"]
writes = []
timeout_s = 1.5
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "tools.toml"
    path.write_text(text)
    return path


def test_a_file_says_where_tools_come_from_and_what_they_touch(tmp_path: Path) -> None:
    """The shape that every other command relies on."""
    tools = read_tools(written(tmp_path, WHOLE))

    assert (tools.namespace, tools.resets) == ("office", True)
    assert tools.sources() == ("files", "search", "shop", "billing")
    assert (tools.policy.timeout_s, tools.policy.retries) == (5.0, 2)
    assert tools.mcp["files"].args == ("-y", "server-filesystem", "{scenario}")
    assert tools.mcp["search"].headers == {"Authorization": "Bearer ${SEARCH_TOKEN}"}
    assert tools.tools["get_order"].writes == ()
    assert tools.tools["get_order"].idempotent is None


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", "`namespace` is missing"),
        ("namespace = 1", "namespace"),
        ('namespace = ""\n[python.x]\nmodule="x"', "namespace"),
        ('namespace = "n"', "no tools come from anywhere"),
        ('namespace = "n"\nresest = true', "no key `resest` (did you mean `resets`?"),
        ('namespace = "n"\n[policy]\ntimeout = 3', "[policy] has no key `timeout`"),
        ('namespace = "n"\n[policy]\ntimeout_s = -3', "[policy]"),
        ('namespace = "n"\n[mcp.files]\ncomand = "npx"', "did you mean `command`?"),
        ('namespace = "n"\n[mcp.files]\nargs = ["x"]', "either `command`"),
        ('namespace = "n"\n[mcp.files]\ncommand = "x"\nurl = "y"', "either `command`"),
        ('namespace = "n"\n[mcp.files]\nurl = "y"\nargs = ["x"]', "`args` means nothing"),
        ('namespace = "n"\n[mcp.files]\ncommand = "x"\nargs = [1]', "`args[0]`"),
        ('namespace = "n"\n[mcp]\ncommand = "x"', "[mcp.command]"),
        ('namespace = "n"\n[python.a__b]\nmodule = "x"', "'a__b' is no name of a source"),
        ('namespace = "n"\n[python.a]\nmodule = "x"\n[mcp.a]\nurl = "y"', "two sources"),
        ('namespace = "n"\n[tools.a]\nread = ["*"]', "did you mean `reads`?"),
        ("namespace = ", "not TOML"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_there_is(
    tmp_path: Path, text: str, seen: str
) -> None:
    """A key that nobody reads is a limit that nobody keeps."""
    path = written(tmp_path, text)

    with pytest.raises(RecipeError) as wrong:
        read_tools(path)

    assert str(wrong.value).startswith(str(path))
    assert seen in str(wrong.value)


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    """The first thing that a newcomer types."""
    with pytest.raises(RecipeError, match=r"no such file.*namespace"):
        read_tools(tmp_path / "tools.toml")


def test_a_parameter_that_a_tool_lacks_is_told() -> None:
    """`order:{id}` of a tool that takes `order_id` would stand for every order there is."""
    takes: JsonObject = {"type": "object", "properties": {"order_id": {"type": "string"}}}

    def problem(template: str, parameters: JsonObject = takes) -> str | None:
        effects = Effects(reads=(template,))
        return effects_problem(
            ToolSpec(name="t", description="", parameters=parameters, effects=effects)
        )

    assert "no parameter 'orderid' (did you mean `order_id`" in str(problem("order:{orderid}"))
    assert problem("order:{order_id}") is problem("o:{result.id}") is problem("*") is None
    assert problem("o:{x}", {"type": "object", "additionalProperties": True}) is None


def test_variables_are_filled_in_from_the_environment() -> None:
    """Keys live in the environment, and an error about one does not tell another."""
    environ = {"TOKEN": "sk-12345", "USER": "${TOKEN}", "PORT": "80"}

    assert filled("Bearer ${TOKEN} $${X} $TOKEN ${USER}", environ, "f") == (
        "Bearer sk-12345 ${X} $TOKEN ${TOKEN}"
    )
    assert secrets_in(["Bearer ${TOKEN}", "$${USER} ${PORT}"], environ) == {"sk-12345"}
    with pytest.raises(RecipeError) as unset:
        filled("${TOKEN}${KEY}", environ, "tools.toml: mcp.search.headers")
    assert "KEY" in str(unset.value)
    assert "sk-1234" not in str(unset.value)
