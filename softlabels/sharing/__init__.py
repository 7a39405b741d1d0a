"""Sharing of stores between teams: push and pull, lock files, signatures, and the card that describes a store."""

from softlabels.sharing.describing import describe
from softlabels.sharing.lock import LOCK_NAME, check_lock, read_lock, write_lock
from softlabels.sharing.signing import Signature, sign, verify_signature
from softlabels.sharing.transfer import Transfer, pull, push

__all__ = [
    "LOCK_NAME",
    "Signature",
    "Transfer",
    "check_lock",
    "describe",
    "pull",
    "push",
    "read_lock",
    "sign",
    "verify_signature",
    "write_lock",
]
