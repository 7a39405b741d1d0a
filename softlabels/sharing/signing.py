"""Signing a snapshot, and checking a store against a public key.

One signature covers the descriptor, the snapshot, and the description if there is one. The digest of the snapshot
covers everything else. It is stored in the store under a name that follows from snapshot and key, so that it is found
without listing files, and several keys may sign. It is in the format of OpenSSF model signing
(`softlabels.sharing.bundle`):

    model_signing verify key STORE --public_key key.pub --signature STORE/signatures/... --ignore_unsigned_files
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softlabels.errors import SignatureInvalid, StorageFailed, StoreCorrupt
from softlabels.sharing.bundle import MAX_BUNDLE_BYTES, PublicKey, read_private_key, sign_files, signed_files
from softlabels.sharing.croissant import sha256_of
from softlabels.sharing.receivers import Receiver, replace_file
from softlabels.store import Store, open_store
from softlabels.store.format import paths
from softlabels.store.format.description import last_description
from softlabels.store.storage.read_errors import FETCH, read_errors
from softlabels.store.storage.storage import Location, Storage

SIGNATURES = "signatures"
SIGNATURE = re.compile(r"[0-9]{8,12}-[0-9a-f]{16}\.json")
SAFE_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[^/\x00\\][^\x00\\]*")
"""A relative name that stays in the store."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature of a snapshot.

    Attributes:
        store: Location of the store.
        digest: Digest of the snapshot.
        key: SHA-256 of the public key in PEM, hexadecimal.
        path: Location of the signature.
    """

    store: str
    digest: str
    key: str
    path: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as ``sign --json`` prints them."""
        return asdict(self)


def sign(location: Location, key: str | os.PathLike[str]) -> Signature:
    """Sign the last snapshot of a store; a signature by the same key is replaced.

    Args:
        location: Location of the store.
        key: Path of a private key on the curve P-256, P-384 or P-521, in PEM. The password of an encrypted key is read
            from ``SOFTLABELS_KEY_PASSWORD``.

    Raises:
        StoreNotFound: There is no sealed store.
        InvalidArgument: The file holds no such key.
        StorageFailed: The signature cannot be stored.

    Example:
        >>> sign("labels", "key.pem").digest == open_store("labels").snapshot.digest  # doctest: +SKIP
        True
    """
    private, public = read_private_key(key)
    store = open_store(location)
    storage = store.storage
    files = {name: bytes.fromhex(sha256_of(storage, name)) for name in signed_names(store)}
    name = signature_name(store.snapshot.number, public)
    title = re.sub(r"[^\w.-]", "_", storage.location.rstrip("/").rpartition("/")[2]) or "store"
    replace_file(storage, name, sign_files(private, title, files))
    return Signature(store=str(storage), digest=store.snapshot.digest, key=public.hint, path=storage.locate(name))


def verify_signature(
    location: Location, key: str | os.PathLike[str], *, signature: str | os.PathLike[str] | None = None
) -> Store:
    """Return a store whose last snapshot a key has signed.

    Every byte that is read from it is covered by the signature: records and shards are compared with the digests that
    the snapshot names.

    Args:
        location: Location of the store.
        key: Path of a public key in PEM.
        signature: Path of a signature by model signing; by default the one in the store.

    Raises:
        StoreNotFound: There is no sealed store.
        SignatureInvalid: There is no signature by this key, or it is damaged, or a file is not what was signed.
        InvalidArgument: The file holds no such key.

    Example:
        >>> verify_signature("labels", "key.pub").rows  # doctest: +SKIP
        1797
    """
    public = PublicKey.read(key)
    store = open_store(location)
    storage = store.storage
    name = signature_name(store.snapshot.number, public)
    place = storage.locate(name) if signature is None else str(signature)
    data = _bundle(storage, name, public) if signature is None else _read(signature)
    files = signed_files(data, public, place, is_foreign=signature is not None)
    for required in signed_names(store):
        if required not in files:
            raise SignatureInvalid(
                f"{place}: the signature does not cover {required}, got {len(files):,} other files; expected the last "
                f"snapshot of {storage} and its description. Ask for a new signature"
            )
    for file, expected in files.items():
        if not SAFE_NAME.fullmatch(file):
            raise SignatureInvalid(f"{place}: signs a name that leaves the store, got {file!r:.100}. Do not use it")
        try:
            is_equal = sha256_of(storage, file) == expected.hex()
        except StoreCorrupt:
            is_equal = False
        if not is_equal:
            raise SignatureInvalid(f"{storage.locate(file)}: is not the file that was signed. Fetch the store again")
    return open_store(storage, digest=store.snapshot.digest)


def copy_signatures(source: Store, receiver: Receiver) -> None:
    """Copy the signatures of the snapshot that a store reads; from a place that lists no files, none.

    Args:
        source: Store to copy from.
        receiver: Place to copy to.
    """
    prefix = f"{source.snapshot.number:08d}-"
    for name in source.storage.list_names(SIGNATURES) if source.storage.lists else ():
        if name.startswith(prefix) and SIGNATURE.fullmatch(name):
            path = f"{SIGNATURES}/{name}"
            with read_errors(source.storage.locate(path), FETCH):
                receiver.replace(path, source.storage.read(path, MAX_BUNDLE_BYTES))


def signed_names(store: Store) -> list[str]:
    """Return the names of the files that a signature has to cover.

    Args:
        store: The store.
    """
    names = [paths.DESCRIPTOR, paths.snapshot_path(store.snapshot.number)]
    description = last_description(store.storage)
    return names if description is None else [*names, description[0]]


def signature_name(snapshot: int, key: PublicKey) -> str:
    """Return the name of the signature of a snapshot by a key.

    Args:
        snapshot: Number of the snapshot.
        key: The public key.
    """
    return f"{SIGNATURES}/{snapshot:08d}-{key.hint[:16]}.json"


def _bundle(storage: Storage, name: str, key: PublicKey) -> bytes:
    try:
        return storage.read(name, MAX_BUNDLE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise SignatureInvalid(
            f"{storage}: the last snapshot has no signature by the key {key.hint}, got no {name}; expected one. Do not "
            "use the store, or check the key"
        ) from None
    except StorageFailed:
        raise
    except (OSError, ValueError) as error:
        raise SignatureInvalid(f"{storage.locate(name)}: cannot be read, got {error}. Fetch the store again") from None


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise SignatureInvalid(f"{path}: cannot be read, got {error.strerror}; expected a signature") from None
