"""Merging with the teacher at hand: stores whose labels it does not predict are refused, though their digests agree."""

import os

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreConflict, StoreCorrupt, StoreNotFound

ROWS = 60


def data(rows):
    values = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    return {"x": values[rows]}


def teacher(inputs):
    """A teacher whose weights lie in a file, which no digest shows."""
    return inputs.numpy() @ np.load(os.environ["SOFTLABELS_TEST_WEIGHTS"])


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """The teacher, two of its stores without a row in common, and one that was made with other weights."""
    weights = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    monkeypatch.setenv("SOFTLABELS_TEST_WEIGHTS", str(tmp_path / "weights.npy"))
    for name, rows, own in (("changed", slice(ROWS, 2 * ROWS), weights[:, ::-1]), ("a", slice(ROWS), weights),
                            ("b", slice(ROWS, 2 * ROWS), weights)):  # fmt: skip
        np.save(tmp_path / "weights.npy", own)
        sl.generate(data(rows), teacher=teacher, out=tmp_path / name)
    return teacher


def test_stores_of_the_teacher_are_merged_and_their_rows_checked(stores, tmp_path):
    pair, both = [tmp_path / "a", tmp_path / "b"], data(slice(2 * ROWS))
    merged = sl.merge(pair, tmp_path / "all", teacher=stores, data=[both])
    assert (merged.rows, merged.shared_rows, merged.checked_rows) == (2 * ROWS, 0, 32)
    parts = [data(slice(ROWS)), data(slice(ROWS, 2 * ROWS))]
    assert sl.merge(pair, tmp_path / "all", teacher=stores, data=parts).checked_rows == 32
    assert sl.merge(pair, tmp_path / "all").checked_rows == 0


def test_labels_of_replaced_weights_are_refused(stores, tmp_path):
    pair, both = [tmp_path / "a", tmp_path / "changed"], data(slice(2 * ROWS))
    with pytest.raises(StoreConflict, match=r"changed: the labels are of another teacher"):
        sl.merge(pair, tmp_path / "all", teacher=stores, data=[both])
    assert not (tmp_path / "all").exists()
    assert sl.merge(pair, tmp_path / "all").rows == 2 * ROWS, "without the teacher nothing shows it"


def test_rows_that_stores_share_are_counted(stores, tmp_path):
    sl.generate(data(slice(30, 90)), teacher=stores, out=tmp_path / "c")
    assert sl.merge([tmp_path / "a", tmp_path / "c"], tmp_path / "all").shared_rows == 30


def test_data_must_hold_rows_of_every_store_and_go_with_a_teacher(stores, tmp_path):
    pair = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(InvalidArgument, match=r"no row of .*b is in the data"):
        sl.merge(pair, tmp_path / "all", teacher=stores, data=[data(slice(ROWS))])
    with pytest.raises(InvalidArgument, match="data is missing"):
        sl.merge(pair, tmp_path / "all", teacher=stores)
    with pytest.raises(InvalidArgument, match="a teacher is missing"):
        sl.merge(pair, tmp_path / "all", data=[data(slice(1))])
    with pytest.raises(StoreNotFound):
        sl.open(tmp_path / "all")


def test_stores_can_be_pinned(stores, tmp_path):
    pair = [tmp_path / "a", tmp_path / "b"]
    digests = [sl.open(path).snapshot.digest for path in pair]
    with pytest.raises(StoreCorrupt, match=digests[0]):
        sl.merge(pair, tmp_path / "all", digests=digests[::-1])
    with pytest.raises(InvalidArgument, match="digest: got 1 for 2 stores; expected one per store"):
        sl.merge(pair, tmp_path / "all", digests=digests[:1])
    assert sl.merge(pair, tmp_path / "all", digests=digests).rows == 2 * ROWS
