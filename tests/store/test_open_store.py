"""Opening a store by location, snapshot and digest."""

import logging
import shutil

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreCorrupt, StoreNotFound
from softlabels.labels import Head
from softlabels.store.format import paths

HEADS = {"logits": Head(encoding="topk:2", classes=5)}


@pytest.fixture
def root(tmp_path):
    """A growing store of two snapshots, of 4 and of 8 rows."""
    rng = np.random.default_rng(0)
    for first in (0, 4):
        with sl.create(tmp_path / "s", heads=HEADS, teacher="t", unit_rows=4) as writer:
            writer.append(list(range(first, first + 4)), {"logits": rng.normal(size=(4, 5)).astype(np.float32)})
    return tmp_path / "s"


def test_a_digest_opens_its_snapshot_whatever_was_sealed_since(root):
    first, second = sl.open(root, snapshot=1), sl.open(root)
    assert (first.rows, second.rows) == (4, 8)
    assert sl.open(root, digest=first.snapshot.digest).rows == 4
    assert sl.open(root, digest=second.snapshot.digest).rows == 8
    assert sl.open(root, snapshot=2, digest=second.snapshot.digest).rows == 8


def test_another_digest_is_refused(root):
    first = sl.open(root, snapshot=1).snapshot.digest
    with pytest.raises(StoreCorrupt, match=f"no snapshot has the digest {'0' * 64}, got"):
        sl.open(root, digest="0" * 64)
    with pytest.raises(StoreCorrupt, match=f"no snapshot has the digest {first}, got .* of snapshot 2"):
        sl.open(root, snapshot=2, digest=first)


@pytest.mark.parametrize("digest", ["", "abc", "0" * 63, "G" * 64, "A" * 64])
def test_what_is_no_digest_is_an_argument_that_is_invalid(root, digest):
    with pytest.raises(InvalidArgument, match="expected 64 hexadecimal digits"):
        sl.open(root, digest=digest)


@pytest.mark.parametrize("by", ["digest", "replacement"])
def test_a_pinned_store_is_read_only_as_it_was(root, tmp_path, by):
    """A store that was replaced by another that is sound in itself is found out by the digest alone."""
    pinned = sl.open(root).snapshot.digest
    other = tmp_path / "other"
    with sl.create(other, heads=HEADS, teacher="t", unit_rows=4) as writer:
        writer.append(list(range(8)), {"logits": np.zeros((8, 5), np.float32)})
    if by == "digest":
        with pytest.raises(StoreCorrupt, match="no snapshot has the digest"):
            sl.open(other, digest=pinned)
        return
    for directory in ("records", "shards", "extras"):
        shutil.rmtree(root / directory)
        shutil.copytree(other / directory, root / directory)
    with pytest.raises(StoreCorrupt, match="not the one that was sealed"):
        sl.open(root, digest=pinned).read([0])


def test_a_lost_snapshot_is_named_and_sealing_makes_it_anew(root, caplog):
    last = sl.open(root).snapshot
    (root / paths.snapshot_path(2)).unlink()
    with caplog.at_level(logging.WARNING, logger="softlabels"):
        assert sl.open(root).rows == 4
    assert "snapshot 2 is missing, so snapshot 1 with 4 rows is read. Run softlabels seal" in caplog.text
    report = sl.verify(root)
    assert "the last snapshot is missing" in report.bad[0].problem
    assert not report.ok
    assert report.advice == f"Run softlabels seal {root}."
    assert sl.seal(root) == last, "the same bytes, so the same digest"
    caplog.clear()
    assert sl.open(root).rows == 8
    assert caplog.text == ""


@pytest.mark.parametrize("check", [sl.verify, sl.inspect])
def test_a_pin_on_an_older_snapshot_reads_that_one_and_does_not_pass_for_the_last(root, check):
    first, last = (sl.open(root, snapshot=number).snapshot.digest for number in (1, 2))
    check(root, digest=last)
    assert sl.open(root, digest=first).rows == 4
    with pytest.raises(StoreCorrupt, match=f"got {last} of snapshot 2; expected {first}, which is snapshot 1"):
        check(root, digest=first)


def test_a_store_that_was_never_sealed_is_not_found(tmp_path):
    sl.create(tmp_path / "s", heads=HEADS, teacher="t").close()
    with pytest.raises(StoreNotFound, match="is not sealed"):
        sl.open(tmp_path / "s")
