"""Scores in [0, 1]: how an episode went (`process`), what it answered (`answer`), and both (`hybrid`)."""
