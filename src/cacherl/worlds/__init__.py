"""Built-in worlds: real tools over real state, and tasks with a known right outcome."""
