"""Tampering with pinned and signed stores; short version of the layer ``tampering`` of ``make reliability``."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import SignatureInvalid, SoftLabelsError, StoreCorrupt
from softlabels.sharing import sign, verify_signature
from softlabels.store.format import canonical_json
from tests.reliability import tampering

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    return tampering.Signed(tmp_path_factory.mktemp("signed"))


def test_every_mutant_of_a_file_is_refused(signed):
    counts, rng = tampering.Tampered(), random.Random(3)
    while counts.tried < 150:
        signed.try_mutant(rng, counts)
    assert (counts.refused, counts.accepted, counts.untyped) == (150, [], [])


@pytest.mark.parametrize("name", ["records/00/00000001.json", "snapshots/00000001.json"])
@pytest.mark.parametrize("version", [[], {}, None, True, "1", 3])
def test_a_version_of_another_type_is_a_typed_error(signed, name, version):
    """Forged with the digest that goes with it."""
    value = canonical_json.parse(signed.good[name], 2**20) | {"version": version}
    value = canonical_json.sign({key: item for key, item in value.items() if key != "digest"})
    path = signed.root / name
    path.write_bytes(canonical_json.to_bytes(value))
    try:
        assert not signed.passes_digest()
        assert not signed.passes_key()
    finally:
        path.write_bytes(signed.good[name])


def test_a_signature_spelled_in_another_way_is_refused(signed):
    """Fields that the key does not cover cannot be changed either."""
    (path,) = (signed.root / "signatures").iterdir()
    data = path.read_bytes()
    try:
        for other in (data + b"\n", data.replace(b'"keyid":""', b'"keyid":"x"'), data.replace(b"[]", b"[1]")):
            path.write_bytes(other)
            assert not signed.passes_key()
    finally:
        path.write_bytes(data)


def test_another_store_in_its_place_is_refused(signed, tmp_path):
    """Signed by the same key, but with another digest; and signed by another key."""
    with pytest.raises(StoreCorrupt, match="no snapshot has the digest"):
        sl.open(signed.other, digest=signed.digest)
    stranger = tampering.Signed(tmp_path)
    with pytest.raises(SignatureInvalid, match="no signature by the key"):
        verify_signature(stranger.root, signed.public)


def test_a_rolled_back_snapshot_is_refused_by_a_pinned_digest(tmp_path):
    heads = {"logits": sl.Head(classes=3, encoding="dense:f32")}
    for stop in (4, 8):
        with sl.create(tmp_path / "grows", heads=heads, unit_rows=4) as writer:
            writer.append(list(range(stop)), {"logits": np.zeros((stop, 3), np.float32)})
    digest = sl.open(tmp_path / "grows").snapshot.digest
    for path in (tmp_path / "grows" / "snapshots").glob("00000002*"):
        path.unlink()
    with pytest.raises(StoreCorrupt, match="no snapshot has the digest"):
        sl.open(tmp_path / "grows", digest=digest)


def test_a_stripped_or_foreign_signature_is_refused(signed, tmp_path):
    """Removed, replaced by that of another store, or by one of another key under the name of ours."""
    shutil.copytree(signed.root, tmp_path / "store")
    (path,) = (tmp_path / "store" / "signatures").iterdir()
    for data in (next((signed.other / "signatures").iterdir()).read_bytes(), b"{}"):
        path.write_bytes(data)
        with pytest.raises(SignatureInvalid):
            verify_signature(tmp_path / "store", signed.public)
    (tmp_path / "stranger").mkdir()
    stranger = tampering.Signed(tmp_path / "stranger")
    path.write_bytes(Path(sign(tmp_path / "store", stranger.key).path).read_bytes())
    with pytest.raises(SoftLabelsError):
        verify_signature(tmp_path / "store", signed.public)
    shutil.rmtree(path.parent)
    with pytest.raises(SignatureInvalid, match="no signature"):
        verify_signature(tmp_path / "store", signed.public)
