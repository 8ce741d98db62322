"""Record: a policy on live tools, every episode kept, nothing lost and nothing paid or done twice.

stage        the stage: tasks and a world in, a file of trajectories out
live_calls   what was called and answered inside an episode, for worlds that do not reset
into_cache   the cache that holds what the file of trajectories holds
folder       a whole data folder: manifest, tasks, stage, cache, ledger, summary
"""

from cacherl.record.stage import (
    INFRASTRUCTURE,
    OnProgress,
    OnTrajectory,
    RecordSummary,
    episode_seed,
    is_failure,
    record,
)

__all__ = [
    "INFRASTRUCTURE",
    "OnProgress",
    "OnTrajectory",
    "RecordSummary",
    "episode_seed",
    "is_failure",
    "record",
]
