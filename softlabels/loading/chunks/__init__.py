"""Decoded chunks: memory for them, threads that read ahead, and rows taken from them."""
