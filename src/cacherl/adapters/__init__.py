"""Where heavy packages live: one module for each kind of outside world, none of which knows another."""
