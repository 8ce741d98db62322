"""Between an MCP client and an MCP server: record what passes, or answer from a cache."""
