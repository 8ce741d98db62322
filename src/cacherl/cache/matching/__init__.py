"""Which other recording may stand in for a call that was not recorded."""
