"""Tampering with a store that a reader has pinned by digest or checks with a public key: everything is refused.

A mutant changes, swaps, cuts, deletes or forges any file that readers use, also with all hashes in the file computed
again, or takes it from another store. README.md and croissant.json are for people, and readers never look at them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import softlabels as sl
from softlabels.errors import SoftLabelsError
from softlabels.sharing import sign, verify_signature
from softlabels.store.format import canonical_json
from tests.reliability import world
from tests.reliability.mutants import mutate, mutate_json

UNITS = 2
FOR_PEOPLE = {"README.md", "croissant.json"}
SIGNED_ONLY = ("description/", "signatures/")
"""Files that a signature covers, or is, and the digest does not."""


@dataclass
class Tampered:
    """Counts of mutants.

    Attributes:
        tried: Mutants that differ from the store.
        refused: Mutants that were refused by digest, where it covers the file, and by key.
        accepted: Descriptions of the others.
        untyped: Exceptions without a type of ours.
    """

    tried: int = 0
    refused: int = 0
    accepted: list[str] = field(default_factory=list)
    untyped: list[str] = field(default_factory=list)


class Signed:
    """A sealed, described and signed store, a second one by another teacher, and a key.

    Args:
        folder: Directory to make them in.
        labels: Kind of labels, as `world` has them.
    """

    def __init__(self, folder: Path, labels: str = "topk") -> None:
        self.root, self.other = folder / "store", folder / "other"
        key = ec.generate_private_key(ec.SECP256R1())
        self.key, self.public = folder / "key.pem", folder / "key.pub"
        plain = serialization.NoEncryption()
        self.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))
        for root, units in ((self.root, UNITS), (self.other, UNITS + 1)):
            store = world.open_store(root, units, "zarr", labels)
            for unit in range(units):
                world.commit(store, unit, extras=True)
            sl.seal(root)
            sl.describe(root, license="CC-BY-4.0", contact="labels@example.org")
            sign(root, self.key)
        self.digest = sl.open(self.root).snapshot.digest
        self.good = self._content(self.root)
        self.foreign = self._content(self.other)
        self.truth = self._labels()

    @staticmethod
    def _content(root: Path) -> dict[str, bytes]:
        names = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        return {
            name: (root / name).read_bytes()
            for name in sorted(names)
            if name not in FOR_PEOPLE and not name.startswith("tmp/")
        }

    def _labels(self) -> dict[str, Any]:
        labels = sl.open(self.root, digest=self.digest).read(np.arange(UNITS * world.UNIT_ROWS))
        return {"ids": labels.ids, "values": labels.values, "keys": sl.open(self.root).keys()}

    def passes_digest(self) -> bool:
        """Return True if a reader with the pinned digest gets labels and verification finds nothing."""
        try:
            store = sl.open(self.root, digest=self.digest)
            store.read(np.arange(len(store)))
            store.probe("logits"), store.prior("logits")
            return sl.verify(self.root, deep=True).ok
        except SoftLabelsError:
            return False

    def passes_key(self) -> bool:
        """Return True if a reader with the public key accepts the store."""
        try:
            verify_signature(self.root, self.public)
            return sl.verify(self.root).ok
        except SoftLabelsError:
            return False

    def mutate(self, rng: random.Random) -> tuple[str, bytes | None]:
        """Return a file and its new content, None for a deleted one."""
        name = rng.choice(list(self.good))
        data, kind = self.good[name], rng.randrange(10)
        if kind == 0:
            return name, None
        if kind == 1:
            return name, self.good[rng.choice(list(self.good))]
        if kind == 2:
            return name, self.foreign.get(name, rng.choice(list(self.foreign.values())))
        if kind < 5 and name.endswith(".json") and not name.startswith("signatures/"):
            value = mutate_json(canonical_json.parse(data, 2**22), rng)
            if "digest" in value:
                value = canonical_json.sign({key: item for key, item in value.items() if key != "digest"})
            return name, canonical_json.to_bytes(value)
        return name, mutate(data, rng)

    def try_mutant(self, rng: random.Random, counts: Tampered) -> None:
        """Apply a mutant, ask both readers, and restore the store."""
        name, data = self.mutate(rng)
        if data == self.good[name]:
            return
        path = self.root / name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        counts.tried += 1
        try:
            by_digest = not name.startswith(SIGNED_ONLY) and self.passes_digest()
            by_key = self.passes_key()
        except Exception as error:  # noqa: BLE001  to be counted
            counts.untyped.append(f"{name}: {type(error).__name__}: {error}"[:200])
        else:
            if by_digest or by_key:
                counts.accepted.append(f"{name} by {'digest' if by_digest else 'key'}")
            else:
                counts.refused += 1
        finally:
            path.write_bytes(self.good[name])


def run(count: int, folder: Path, *, seed: int = 0, progress: Callable[[int], Any] = int) -> Tampered:
    """Try mutants of two stores.

    Args:
        count: Number of mutants.
        folder: Directory to work in.
        seed: Seed of the mutants.
        progress: Called with the number of mutants tried.
    """
    counts, rng = Tampered(), random.Random(seed)
    for index, labels in enumerate(("topk", "adaptive")):
        (folder / labels).mkdir(parents=True)
        signed = Signed(folder / labels, labels)
        assert signed.passes_digest()
        assert signed.passes_key()
        while counts.tried < count * (index + 1) // 2:
            signed.try_mutant(rng, counts)
            progress(counts.tried)
        shutil.rmtree(folder / labels)
    return counts
