"""torch's datasets over labels: items by number and streams, in worker processes that are started afresh."""

import os
import pickle
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

import softlabels as sl
from softlabels import errors
from softlabels.errors import InvalidArgument, LabelsMisaligned, SoftLabelsError, StoreCorrupt
from softlabels.generation import generate
from softlabels.loading import Loader
from softlabels.loading.adapters.torch_datasets import LabelDataset, LabelStream, collate
from softlabels.sources import DatasetSource, TokenSource, id_keys
from tests.loading.stores import random_logits, write_store


def rows_of(batches):
    return [row for batch in batches for row in batch.rows.tolist()]


def test_items_are_the_rows_of_the_data_with_their_labels(sealed, digits):
    dataset = LabelDataset(sl.open(sealed), inputs=digits, check="all")
    assert len(dataset) == 1797
    one = dataset[7]
    assert one.rows.tolist() == [7]
    assert one.inputs.shape == (1, 8, 8)
    assert dataset[-1].rows.tolist() == [1796]
    requested = [5, 1796, 0, 5]
    (batch,) = dataset.__getitems__(requested)
    assert batch.rows.tolist() == requested
    np.testing.assert_array_equal(batch.inputs, digits.inputs(np.array(requested)))
    np.testing.assert_array_equal(batch.targets["logits"].ids, sl.open(sealed).read(requested).ids)
    for outside in (1797, -1798):
        with pytest.raises(IndexError, match="expected 0 to 1796"):
            dataset[outside]


def test_items_follow_the_data_whatever_the_order_of_the_store(tmp_path):
    order = np.random.default_rng(0).permutation(150)
    store = write_store(tmp_path / "s", random_logits(150)[order], keys=id_keys(order.tolist()))
    examples = [{"x": torch.tensor([float(i)]), "name": str(i)} for i in range(40, 140)]
    data = DatasetSource(examples, ids=range(40, 140))
    dataset = LabelDataset(store, inputs=data)
    batch = next(iter(DataLoader(dataset, batch_size=100, collate_fn=collate)))
    assert batch.rows.tolist() == list(range(100))
    assert batch.inputs["x"].flatten().tolist() == list(range(40, 140))
    assert batch.inputs["name"][:2] == ["40", "41"]
    back = np.argsort(order)[40:140]
    np.testing.assert_array_equal(batch.targets["logits"].ids, store.read(back).ids)


def test_little_memory_gives_the_same(sealed, digits):
    rows = np.random.default_rng(0).integers(0, 1797, 50).tolist()
    frugal = LabelDataset(sl.open(sealed), inputs=digits, memory=1)
    (expected,) = LabelDataset(sl.open(sealed), inputs=digits).__getitems__(rows)
    for _ in range(2):
        (got,) = frugal.__getitems__(rows)
        np.testing.assert_array_equal(got.targets["logits"].values, expected.targets["logits"].values)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_open_what_they_need_themselves(sealed, digits, method):
    dataset = LabelDataset(sl.open(sealed), inputs=digits, check="all")
    workers = DataLoader(dataset, batch_size=300, num_workers=2, multiprocessing_context=method, collate_fn=collate)
    batches = list(workers)
    assert rows_of(batches) == list(range(1797))
    assert all(isinstance(batch.inputs, torch.Tensor) for batch in batches)


def test_forked_workers_are_refused_and_told_what_to_do(sealed, digits):
    dataset = LabelDataset(sl.open(sealed), inputs=digits)
    stream = LabelStream(Loader(sl.open(sealed), batch_size=300))
    for data, size in ((dataset, 300), (stream, None)):
        forked = DataLoader(data, batch_size=size, num_workers=1, multiprocessing_context="fork", collate_fn=collate)
        with pytest.raises(InvalidArgument, match='multiprocessing_context="forkserver"'):
            next(iter(forked))


def test_the_samplers_order_is_the_loaders(sealed, digits, tmp_path):
    store = sl.open(sealed)
    shuffled = np.random.default_rng(1).permutation(1797)
    np.savez(tmp_path / "copy.npz", image=digits.inputs(shuffled))
    from softlabels.sources import open_source

    for data in (digits, open_source(tmp_path / "copy.npz")):
        loader = Loader(store, inputs=data, batch_size=200, seed=3, window=2)
        dataset = LabelDataset(store, inputs=data, seed=3)
        batches = DataLoader(dataset, batch_size=200, sampler=dataset.sampler(window=2), collate_fn=collate)
        for epoch in range(2):
            assert rows_of(batches) == rows_of(loader.epoch(epoch))


def test_drawn_views_follow_the_epoch_in_living_workers(tmp_path):
    keys = np.repeat(id_keys(range(30)), 4, axis=0)
    store = write_store(tmp_path / "s", random_logits(120), keys=keys, views=np.tile(np.arange(4), 30))
    dataset = LabelDataset(store, views="one", seed=2)
    assert len(dataset) == 30
    workers = DataLoader(
        dataset, batch_size=30, num_workers=1, multiprocessing_context="forkserver", persistent_workers=True,
        collate_fn=collate,
    )  # fmt: skip
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        expected = Loader(store, views="one", seed=2, batch_size=30)
        (batch,) = workers
        assert sorted(rows_of([batch])) == sorted(rows_of(expected.epoch(epoch)))


def test_parts_and_concatenations_of_datasets_work(sealed, digits):
    dataset = LabelDataset(sl.open(sealed), inputs=digits)
    parts = ConcatDataset([Subset(dataset, [3, 1]), Subset(dataset, [9])])
    (batch,) = DataLoader(parts, batch_size=3, collate_fn=collate)
    assert batch.rows.tolist() == [3, 1, 9]
    assert batch.targets["logits"].ids.shape == (3, 4)


def test_a_stream_is_the_loader_with_and_without_workers(sealed, digits):
    def stream():
        return LabelStream(Loader(sl.open(sealed), inputs=digits, batch_size=200, seed=4))

    loader = Loader(sl.open(sealed), batch_size=200, seed=4)
    alone = DataLoader(stream(), batch_size=None, collate_fn=collate)
    assert [rows_of(alone) for _ in range(2)] == [rows_of(loader.epoch(epoch)) for epoch in (0, 1)]
    several = stream()
    workers = DataLoader(
        several, batch_size=None, num_workers=2, multiprocessing_context="forkserver", persistent_workers=True,
        collate_fn=collate,
    )  # fmt: skip
    for epoch in (0, 1):
        several.set_epoch(epoch)
        assert rows_of(workers) == rows_of(loader.epoch(epoch))


def test_a_state_taken_from_a_stream_in_this_process_goes_on(sealed):
    loader = Loader(sl.open(sealed), batch_size=200, seed=4)
    batches = iter(DataLoader(LabelStream(loader), batch_size=None, collate_fn=collate))
    first = rows_of([next(batches), next(batches)])
    other = Loader(sl.open(sealed), batch_size=200, seed=4)
    other.load_state_dict(loader.state_dict())
    assert first + rows_of(other) == rows_of(loader.epoch(0))


def test_a_killed_worker_of_a_dataloader_is_an_error(sealed, digits):
    dataset = LabelDataset(sl.open(sealed), inputs=digits)
    batches = iter(
        DataLoader(dataset, batch_size=1, num_workers=1, multiprocessing_context="forkserver", collate_fn=collate)
    )
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    # torch notices the death, or that what the worker had made cannot be fetched any more.
    with pytest.raises((RuntimeError, OSError, EOFError)):
        list(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_corruption_in_mid_epoch_names_shard_and_remedy(digits, teacher, tmp_path, workers):
    """In this process, in the loader's workers, and in those of a DataLoader."""
    generate(digits, teacher=teacher, out=tmp_path / "s", encoding="topk:4", unit_rows=400)
    shard = next((tmp_path / "s" / "shards").rglob("00000003-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    store = sl.open(tmp_path / "s")
    context = "forkserver" if workers else None
    dataset = LabelDataset(store, inputs=digits)
    loaders = (
        Loader(store, inputs=digits, batch_size=100, shuffle=False, window=1, workers=workers),
        DataLoader(dataset, batch_size=100, num_workers=workers, multiprocessing_context=context, collate_fn=collate),
    )
    for loader in loaders:
        seen = []
        with pytest.raises(StoreCorrupt, match=rf"{shard.name}.*softlabels repair"):
            seen.extend(batch.rows for batch in loader)
        assert np.concatenate(seen).tolist() == list(range(1200)), "what comes before is handed out"


def test_every_error_crosses_processes_as_it_is():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SoftLabelsError)]
    assert len(kinds) > 15
    for kind in kinds:
        back = pickle.loads(pickle.dumps(kind("what, value, what to do")))  # noqa: S301  our own bytes
        assert type(back) is kind
        assert str(back) == "what, value, what to do"


def test_misaligned_items_raise(sealed, digits, tmp_path):
    changed = digits.inputs(np.arange(1797)).copy()
    changed[3] += 1
    np.savez(tmp_path / "changed.npz", image=changed)
    from softlabels.sources import open_source

    source = open_source(tmp_path / "changed.npz")
    with pytest.raises(errors.KeyMissing, match="1 of 1,797 rows"):
        LabelDataset(sl.open(sealed), inputs=source)
    source._keys, source._fingerprint = digits.keys(), digits.fingerprint  # changed after it was opened
    dataset = LabelDataset(sl.open(sealed), inputs=source)
    with pytest.raises(LabelsMisaligned, match="row 3 of the data"):
        dataset[3]
    dataset.__getitems__([0, 3])  # a sample looks at the first
    with pytest.raises(LabelsMisaligned, match="row 3 of the data"):
        LabelDataset(sl.open(sealed), inputs=source, check="all").__getitems__([0, 3])
    LabelDataset(sl.open(sealed), inputs=source, check="off")[3]


def test_batches_move_with_all_they_hold(sealed, digits):
    """As far as a CPU allows: to another device (meta), and the call a DataLoader makes for pinned memory."""
    batch = next(iter(Loader(sl.open(sealed), inputs=digits, batch_size=4)))
    moved = batch.to("meta")
    labels = moved.targets["logits"]
    assert {value.device.type for value in (moved.inputs, moved.hard, labels.ids, labels.values, labels.log_tail)} == {
        "meta"
    }
    assert isinstance(moved.rows, np.ndarray)
    there = batch.to("cpu", non_blocking=True)
    np.testing.assert_array_equal(there.numpy().inputs, batch.inputs)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError):
            batch.pin_memory()


def test_token_sequences_are_checked_and_named_by_their_ids():
    source = TokenSource([[1, 2, 3], np.array([4, 5], np.int32)])
    assert source.inputs(np.array([1, 0])).values.tolist() == [4, 5, 1, 2, 3]
    assert source.inputs(np.array([1, 0])).lengths.tolist() == [2, 3]
    np.testing.assert_array_equal(source.keys()[:1], sl.content_keys(np.array([[1, 2, 3]])))
    np.testing.assert_array_equal(source.keys(), TokenSource([np.array([1, 2, 3], np.uint16), [4, 5]]).keys())
    for bad in ([[1, 2], [3]], [[1, 2], [3, -1]], [[1, 2], [0.5, 1]], [[1, 2], [[1], [2]]]):
        with pytest.raises(errors.InvalidData, match="row 1: invalid token ids"):
            TokenSource(bad)
    with pytest.raises(InvalidArgument, match="got 1 ids for 2 sequences"):
        TokenSource([[1, 2], [3, 4]], ids=["a"])
