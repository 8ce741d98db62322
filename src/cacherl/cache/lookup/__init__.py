"""The most trustworthy recorded answer, and what a cache says of itself."""
