"""Batches of ragged rows by length: the order is the reference written with lists, for everybody and from any place."""

import json
from itertools import pairwise, zip_longest

import numpy as np
import pytest

from softlabels.errors import InvalidArgument
from softlabels.labels import Head
from softlabels.loading import Ensemble, Loader
from softlabels.sources import id_keys
from tests.loading.stores import memory_for, random_logits, reference_order, reference_permutation, write_store

ROWS, WINDOW = 500, 3
LENGTHS = np.random.default_rng(0).integers(0, 40, ROWS).tolist()


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """500 sequences of 0 to 39 positions, in chunks of 32 in units of 100."""
    logits = [random_logits(length, 7, seed=row) for row, length in enumerate(LENGTHS)]
    head = Head(encoding="topk:3:f16", classes=7, kind="tokens", shape=(None,))
    return write_store(tmp_path_factory.mktemp("ragged") / "s", logits, head=head, unit_rows=100, chunk_rows=32)


def reference(counts, lengths, seed, epoch, batch, window=WINDOW):
    """The rows of each window, shortest first, cut where batches begin; its whole batches permuted."""
    rows = reference_order(counts, seed, epoch, window)
    sizes = window_sizes(counts, seed, epoch, window)
    order = []
    for number, size in enumerate(sizes):
        start = len(order)
        # sorted is stable: rows of one length stay in their shuffled order.
        ordered = sorted(rows[start : start + size], key=lambda row: lengths[row])
        first = min((batch - start % batch) % batch, size)
        count = (size - first) // batch
        batches = [ordered[first + i * batch : first + (i + 1) * batch] for i in range(count)]
        order += ordered[:first]
        for i in reference_permutation(count, seed, epoch, 2, number):
            order += batches[i]
        order += ordered[first + count * batch :]
    return order


def window_sizes(counts, seed, epoch, window):
    used = [count for count in counts if count]
    permuted = [used[i] for i in reference_permutation(len(used), seed, epoch, 0, 0)]
    return [sum(permuted[i : i + window]) for i in range(0, len(permuted), window)]


def load(store, **options):
    return Loader(store, **({"by_length": True, "window": WINDOW, "batch_size": 16, "seed": 5} | options))


def rows_of(batches):
    return [row for batch in batches for row in batch.rows.tolist()]


@pytest.mark.parametrize("seed", [0, 5, -3])
@pytest.mark.parametrize("batch_size", [1, 16, 37, 200])
@pytest.mark.parametrize("fits", [False, True])
def test_the_order_is_the_reference(ragged, seed, batch_size, fits):
    """Also where a batch is larger than a window, so that no window holds a whole one."""
    memory = None if fits else memory_for(ragged, WINDOW)
    loader = load(ragged, seed=seed, batch_size=batch_size, memory=memory)
    for epoch in range(3):
        expected = reference(ragged.chunk_rows().tolist(), LENGTHS, seed, epoch, batch_size)
        assert sorted(expected) == list(range(ROWS))
        assert rows_of(loader.epoch(epoch)) == expected


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_hand_out_the_reference(ragged, world_size, workers):
    for epoch, position in ((0, 0), (1, 160), (1, 496)):
        expected = reference(ragged.chunk_rows().tolist(), LENGTHS, 5, epoch, 16)[position:]
        ranks = []
        for rank in range(world_size):
            loader = load(ragged, rank=rank, world_size=world_size)
            shares = [loader.produce(epoch, position, worker=worker, workers=workers or 1)
                      for worker in range(workers or 1)]  # fmt: skip
            ranks.append([batch for turn in zip_longest(*shares) for batch in turn if batch is not None])
        steps = [[row for share in shares for row in share.rows.tolist()] for shares in zip(*ranks, strict=True)]
        assert [row for rows in steps for row in rows] == expected
        assert [len(rows) for rows in steps[:-1]] == [16] * (len(steps) - 1)


def test_worker_processes_hand_out_the_reference(ragged):
    expected = reference(ragged.chunk_rows().tolist(), LENGTHS, 5, 0, 16)
    assert rows_of(load(ragged, workers=2)) == expected


def test_every_checkpoint_resumes_to_all_the_rest(ragged):
    """At another number of ranks too; the global batch must stay, for it decides the order."""
    loader = load(ragged)
    states, rows = [], []
    for batch in loader:
        rows.append(batch.rows.tolist())
        states.append(json.loads(json.dumps(loader.state_dict())))
    for number, state in enumerate(states[:-1], 1):
        ranks = [load(ragged, rank=rank, world_size=3) for rank in range(3)]
        shares = []
        for loader_of_rank in ranks:
            loader_of_rank.load_state_dict(state)
            shares.append([batch.rows for batch in loader_of_rank])
        assert [np.concatenate(parts).tolist() for parts in zip(*shares, strict=True)] == rows[number:]
    with pytest.raises(InvalidArgument, match="got by_length 16; expected 8"):
        load(ragged, batch_size=8).load_state_dict(states[0])
    with pytest.raises(InvalidArgument, match="got by_length 16; expected 0"):
        load(ragged, by_length=False).load_state_dict(states[0])


def test_labels_are_those_of_their_rows_and_need_less_padding(ragged):
    padded = {}
    for by_length in (False, True):
        padded[by_length] = 0
        for batch in load(ragged, by_length=by_length, window=64):
            labels = batch.targets["logits"]
            assert labels.lengths.tolist() == [LENGTHS[row] for row in batch.rows]
            np.testing.assert_array_equal(labels.ids, ragged.read(batch.rows).ids)
            padded[by_length] += max(labels.lengths) * len(batch)
    assert padded[True] < 1.1 * sum(LENGTHS) < 1.5 * sum(LENGTHS) < padded[False]


def test_subsets_and_rows_joined_in_another_order_are_batched_by_their_own_lengths(ragged, tmp_path):
    rows = np.sort(np.random.default_rng(1).permutation(ROWS)[:200])
    chunks = ragged.chunk_rows().tolist()
    edges = np.cumsum([0, *chunks])
    counts = [int(((rows >= low) & (rows < high)).sum()) for low, high in pairwise(edges)]
    order = reference(counts, [LENGTHS[row] for row in rows], 5, 0, 16)
    assert rows_of(load(ragged, rows=rows)) == rows[order].tolist()
    # The second store of an ensemble holds the same rows in another order.
    moved = np.random.default_rng(2).permutation(ROWS)
    logits = [random_logits(LENGTHS[row], 7, seed=row + ROWS) for row in moved]
    head = Head(encoding="topk:3:f16", classes=7, kind="tokens", shape=(None,))
    other = write_store(tmp_path / "other", logits, head=head, keys=id_keys(moved.tolist()), fingerprint="g")
    expected = reference(chunks, LENGTHS, 5, 0, 16)
    assert rows_of(load(Ensemble([ragged, other]))) == expected


def test_stores_of_plain_rows_are_refused(sealed):
    import softlabels as sl

    with pytest.raises(InvalidArgument, match="by_length: no head has ragged rows"):
        load(sl.open(sealed))
