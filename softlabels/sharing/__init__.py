"""Sharing of stores between teams: push and pull between directories, object stores and web servers."""

from softlabels.sharing.transfer import Transfer, pull, push

__all__ = ["Transfer", "pull", "push"]
