"""The desk as a real MCP server, spoken to by the official client over stdio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cacherl.worlds.desk.tools import SPEC, SPECS
from cacherl.worlds.desk.universe import scenario

pytest.importorskip("mcp")

SRC = Path(__file__).parents[2] / "src"
COMMAND = ["-m", "cacherl.worlds.desk", "--scenario", "desk-3"]


async def test_an_mcp_client_can_list_read_write_and_fail() -> None:
    """Other people's agents and other people's recorders can use the built-in world."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.types import TextContent

    order = next(o for o in scenario(3).orders if o.status == "processing")
    parameters = StdioServerParameters(
        command=sys.executable, args=COMMAND, env={**os.environ, "PYTHONPATH": str(SRC)}
    )
    async with (
        stdio_client(parameters) as (reader, writer),
        ClientSession(reader, writer) as client,
    ):
        await client.initialize()

        async def call(name: str, **arguments: object) -> tuple[dict[str, object], bool]:
            result = await client.call_tool(name, arguments)
            block = result.content[0]
            assert isinstance(block, TextContent)
            return json.loads(block.text), bool(result.is_error)

        listed = (await client.list_tools()).tools
        read, _ = await call("get_order", order_id=order.id)
        wrote, _ = await call("cancel_order", order_id=order.id)
        after, _ = await call("get_order", order_id=order.id)
        refused, is_error = await call("cancel_order", order_id=order.id)
        invalid, is_invalid = await call("get_order", order_id=5)

    assert [tool.name for tool in listed] == [spec.name for spec in SPECS]
    for tool in listed:
        assert tool.input_schema == SPEC[tool.name].parameters
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (not SPEC[tool.name].effects.writes)
    assert read["total"] == order.total
    assert wrote == {"order_id": order.id, "status": "cancelled"}
    assert after["status"] == "cancelled"
    assert (is_error, refused["error"]) == (True, "permission")
    assert (is_invalid, invalid["error"]) == (True, "validation")


def test_a_wrong_scenario_is_one_line_and_exit_code_one() -> None:
    """What a person sees who mistypes."""
    ran = subprocess.run(
        [sys.executable, "-m", "cacherl.worlds.desk", "--scenario", "x"],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: the support desk has no scenario 'x'")
    assert ran.stderr.count("\n") == 1
