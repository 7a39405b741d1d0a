"""Columns of rows to batches: decode, concatenate, check alignment."""
