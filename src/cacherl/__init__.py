"""CacheRL: train small models that call tools, from cached tool results."""

__version__ = "0.1.0"
