"""Sealing reads every record, and parses again only those that no snapshot has named."""

import json
import shutil

import numpy as np
import pytest

from softlabels.errors import StoreCorrupt
from softlabels.store import open_storage, open_store, seal
from softlabels.store.committed import read_committed
from softlabels.store.format import canonical_json, paths
from softlabels.store.format.descriptor_file import read_descriptor
from softlabels.store.format.snapshot import read_snapshot, read_table
from softlabels.store.storage.posix import PosixStorage
from tests.reliability import world

UNITS = 5


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    root = tmp_path_factory.mktemp("committed") / "store"
    store = world.open_store(root, UNITS)
    for unit in range(UNITS):
        world.commit(store, unit, extras=unit == 2)
    seal(root)
    return root


@pytest.fixture
def root(sealed, tmp_path):
    shutil.copytree(sealed, tmp_path / "store")
    return tmp_path / "store"


def columns_of(root, last):
    storage = open_storage(root)
    snapshot = read_snapshot(storage, 1) if last else None
    committed = read_committed(storage, read_descriptor(storage), UNITS, snapshot)
    assert (committed.with_extras, committed.skipped) == ([2], 0)
    return {name: column.tolist() for name, column in committed.columns.items() if name != "first_row"}


def test_figures_are_the_same_whether_records_are_known_or_not(root):
    assert columns_of(root, last=True) == columns_of(root, last=False)


@pytest.mark.parametrize("sealed_here", [True, False])
def test_a_record_that_changed_since_the_last_snapshot_is_parsed(root, sealed_here):
    if sealed_here:
        assert seal(root).number == 1
    path = root / paths.record_path(3)
    value = json.loads(path.read_bytes())
    path.write_bytes(canonical_json.to_bytes(value | {"rows": 1}))
    with pytest.raises(StoreCorrupt, match="its digest does not match"):
        seal(root)
    del value["digest"]
    path.write_bytes(canonical_json.to_bytes(canonical_json.sign(value | {"software": "another"})))
    assert seal(root).number == 2
    digests = read_table(open_storage(root), read_snapshot(open_storage(root), 2), ["record"])["record"]
    assert digests[3].decode() == json.loads(path.read_bytes())["digest"]


def test_a_missing_record_of_a_known_unit_is_missing(root):
    storage, descriptor = open_storage(root), read_descriptor(open_storage(root))
    (root / paths.record_path(1)).unlink()
    with pytest.raises(StoreCorrupt, match="unit 1 has no record"):
        read_committed(storage, descriptor, UNITS, read_snapshot(storage, 1))


def test_a_damaged_table_costs_time_alone(root):
    table = next((root / "snapshots").glob("*.parquet"))
    table.write_bytes(b"\0" * table.stat().st_size)
    assert columns_of(root, last=True) == columns_of(root, last=False)


def test_a_shard_of_another_size_is_named(root):
    shard = next((root / "shards" / "00").glob("00000004-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreCorrupt, match=r"00000004-.* has [0-9,]+ bytes where [0-9,]+ were committed"):
        seal(root)
    shard.unlink()
    with pytest.raises(StoreCorrupt, match=r"00000004-.* is missing"):
        seal(root)


class Threaded(PosixStorage):
    """A directory that is read as an object store is."""

    read_threads = 3


def test_threads_change_nothing(root, tmp_path):
    before = open_store(root).snapshot
    for path in (root / "snapshots").iterdir():
        path.unlink()
    assert seal(Threaded(root)) == before


def test_an_error_in_a_thread_is_raised(root):
    (root / paths.record_path(1)).write_bytes(b"{}")
    with pytest.raises(StoreCorrupt):
        seal(Threaded(root))


def test_a_digest_is_recognised_in_the_bytes_alone():
    document = canonical_json.sign({"unit": 1, "shard": {"size": 2}})
    data = canonical_json.to_bytes(document)
    assert canonical_json.has_digest(data, document["digest"])
    assert not canonical_json.has_digest(data.replace(b'"unit":1', b'"unit":2'), document["digest"])
    assert not canonical_json.has_digest(data, "0" * 64)
    nested = canonical_json.sign({"a": {"digest": document["digest"], "x": 1}})
    assert canonical_json.parse_signed(canonical_json.to_bytes(nested), 2**10) == nested


def test_growing_stores_seal_again_with_what_is_new(tmp_path):
    import softlabels as sl

    heads = {"logits": sl.Head(classes=10, encoding="topk:3")}
    rng = np.random.default_rng(0)
    for start in (0, 30):
        with sl.create(tmp_path / "a", heads=heads, unit_rows=8) as writer:
            writer.append(range(start, start + 30), {"logits": rng.normal(size=(30, 10)).astype(np.float32)})
    again = open_store(tmp_path / "a").snapshot
    for path in (tmp_path / "a" / "snapshots").iterdir():
        path.unlink()
    anew = seal(tmp_path / "a")
    assert (anew.table, anew.prior, anew.fidelity) == (again.table, again.prior, again.fidelity)
