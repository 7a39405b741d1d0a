"""Storages by the scheme of their URL: one module each, named for the scheme."""
