"""Which calls are the same call, and in which state they stand."""
