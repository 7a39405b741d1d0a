"""Reading of chunks: memory, cache, windows and threads."""
