"""One rollout on a cache: its state, its draws, its ledger, its misses."""
