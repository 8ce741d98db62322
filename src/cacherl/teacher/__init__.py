"""A paid model, with what paying takes: journal, budget, pace, prices, batch."""
