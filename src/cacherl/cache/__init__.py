"""What a tool call would have answered, from recordings, and how far to trust that.

`normalise` and `key` say when two calls are the same call, `state` when they stand in the same
state, `match` and `nearest` which other recording comes closest, `store` and `sqlite` keep the
recordings, `tool_cache` puts them together, `replay` plays one episode on them, `queries` answers
the `cacherl cache` commands.
"""
