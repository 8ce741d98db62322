"""`python -m cacherl.worlds.desk`: one scenario of the support desk as an MCP server over stdio.

The official SDK's low-level server is used, so that the JSON Schemas are ours word for word.
"""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from cacherl.core.errors import CacheRLError, MissingExtraError
from cacherl.core.messages import ToolCall
from cacherl.core.tools import ToolSpec
from cacherl.toolbox.mcp_results import EFFECTS_META
from cacherl.worlds.desk.tools import SPECS, DeskTools
from cacherl.worlds.desk.world import scenario_named

_DESTRUCTIVE = frozenset({"cancel_order", "refund_order", "close_ticket", "cancel_slot"})
_SAME_TWICE = frozenset({"change_address"})


async def _serve(tools: DeskTools) -> None:
    import mcp.types as types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server

    def described(spec: ToolSpec) -> types.Tool:
        reads_only = not spec.effects.writes
        return types.Tool(
            name=spec.name,
            description=spec.description,
            input_schema=spec.parameters,
            annotations=types.ToolAnnotations(
                read_only_hint=reads_only,
                destructive_hint=spec.name in _DESTRUCTIVE,
                idempotent_hint=reads_only or spec.name in _SAME_TWICE,
                open_world_hint=False,
            ),
            _meta={EFFECTS_META: msgspec.to_builtins(spec.effects)},
        )

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[described(spec) for spec in SPECS])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        result = await tools.call(
            ToolCall(id="mcp", name=params.name, arguments=dict(params.arguments or {}))
        )
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=result.text)], is_error=result.is_error
        )

    server: Server[Any] = Server("cacherl-desk", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


@click.command()
@click.option("--scenario", default="desk-1", show_default=True, help="Which database to serve.")
def main(scenario: str) -> None:
    """Serve one scenario of the support desk as an MCP server over stdio."""
    try:
        tools = DeskTools(scenario_named(scenario))
        try:
            import mcp  # noqa: F401 - asked for here to say which extra it comes with
        except ImportError as error:
            raise MissingExtraError("mcp", "mcp") from error
    except CacheRLError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    asyncio.run(_serve(tools))


if __name__ == "__main__":
    main()
