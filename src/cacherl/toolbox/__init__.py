"""Live tools from several places as one set: whose call goes where, limits, retries, restarts.

toolbox          the sources of one episode as its tools: names, routes, attempts, counts
world            the same for all episodes of a namespace, with tasks that a person wrote
policy           may this call be made again, and when: decisions only
mcp_results      what MCP's JSON says of tools and results, for the live adapter and the proxy alike
functions        Python functions as a source
openapi          what an OpenAPI document says of tools and calls
failures         what an exception or an HTTP status says of a call
config           `tools.toml`, read strictly
written_tasks    a person's file of tasks

Sources are `core.sources.ToolSource`s. Those that need a package of their own are adapters:
`adapters.mcp_tools` (MCP over stdio and streamable HTTP), `adapters.openapi_tools`.
"""
