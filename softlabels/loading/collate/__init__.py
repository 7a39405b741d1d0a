"""Collation: columns of rows become batches."""
