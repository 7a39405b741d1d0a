"""Storage: the only door to input and output."""
