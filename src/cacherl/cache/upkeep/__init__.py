"""Recordings after they were made: merged, compared, dropped, moved."""
