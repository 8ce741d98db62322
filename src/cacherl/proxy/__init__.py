"""Between an MCP client and an MCP server: record what passes, or answer from a cache.

messages    JSON-RPC messages as values
routing     which message answers which, in both directions (pure)
order       in which order calls that overlap are written down (pure)
results     results of tools, read and built again
server_note what a server says of itself, kept so that it can be replayed without it
recorder    calls that pass, into a cache
offline     a server played from a cache
session     one client's messages, whatever carries them
summary     what came of it, counted

The transports are `cacherl.adapters.mcp_proxy`.
"""
