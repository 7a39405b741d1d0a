"""Datasets for the data loaders and trainers of other libraries."""
