"""Other people's trajectory files, read into tasks and trajectories: one module a format."""
