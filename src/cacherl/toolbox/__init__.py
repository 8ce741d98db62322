"""Live tools from several places as one set: whose call goes where, limits, retries, restarts."""
