"""A batch stays as it was and can be changed in place: it shares memory with no other batch, store or data."""

import numpy as np
import pytest

import softlabels as sl
from softlabels.labels import Head
from tests.loading.stores import memory_for, random_logits, write_store


def stores(tmp_path, encoding, shard_format, *, ragged):
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 12, 300) * rng.integers(0, 6, 300)  # windows of very unlike sizes
    logits = [random_logits(n, seed=i) for i, n in enumerate(lengths)] if ragged else random_logits(300)
    shape = {"kind": "tokens", "shape": (None,)} if ragged else {}
    head = Head(encoding=encoding, classes=20, **shape)
    return write_store(tmp_path / "s", logits, head=head, unit_rows=30, chunk_rows=8, shard_format=shard_format)


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("encoding", ["topk:4:f16", "dense:f16", "adaptive:0.05:f16"])
@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("fits", [False, True])
def test_batches_that_are_kept_stay_as_they_were(tmp_path, encoding, shard_format, ragged, device, fits):
    """Two epochs of a dozen windows, looked at when all is over, hold the labels of their rows."""
    store = stores(tmp_path, encoding, shard_format, ragged=ragged)
    memory = None if fits else memory_for(store, 3)
    loader = sl.loader(store, batch_size=17, seed=3, window=3, device=device, memory=memory)
    batches = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
    everything = store.read(range(store.rows))
    for batch in batches:
        labels = batch.numpy().targets["logits"]
        np.testing.assert_array_equal(labels.log_probs(), everything.take(batch.rows).log_probs())
        assert len(batch) == len(labels)
    assert sum(map(len, batches)) == 2 * store.rows
    assert (loader.statistics.chunk_reads == store.chunks) == fits


@pytest.mark.parametrize("encoding", ["topk:4:f16", "dense:f16"])
@pytest.mark.parametrize("fits", [False, True])
def test_rows_of_a_batch_can_be_changed_without_changing_another(tmp_path, encoding, fits):
    """Batches are cut from one block of memory, and none from the window or what is kept of the store."""
    store = stores(tmp_path, encoding, "zarr", ragged=False)
    memory = None if fits else memory_for(store, 3)
    loader = sl.loader(store, batch_size=8, seed=3, window=3, device="cpu", memory=memory)
    expected = [batch.targets["logits"].values.clone() for batch in loader.epoch(0)]
    for batch, values in zip(loader.epoch(0), expected, strict=True):
        assert (batch.targets["logits"].values == values).all()
        batch.targets["logits"].values.zero_()
