"""Shards: the immutable file that holds the rows of one unit, in Zarr or Parquet."""
