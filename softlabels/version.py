"""Versions of this package, written into records and runs, and of its JSON documents."""

__version__ = "0.1.0"

SCHEMA_VERSION = 1
"""Version of every JSON document; it changes if a key is removed or changes its meaning."""
