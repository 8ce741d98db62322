"""Other people's benchmarks: their tasks, their environments, their verdicts."""
