"""Version of this package, written into records and runs."""

__version__ = "0.1.0"
