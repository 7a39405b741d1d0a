"""Sharing of stores between teams: push and pull between directories, object stores and web servers."""

from softlabels.sharing.lock import LOCK_NAME, check_lock, read_lock, write_lock
from softlabels.sharing.transfer import Transfer, pull, push

__all__ = ["LOCK_NAME", "Transfer", "check_lock", "pull", "push", "read_lock", "write_lock"]
