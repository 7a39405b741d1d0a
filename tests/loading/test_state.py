"""One order for everybody: any ranks, workers, batch sizes and resume points see what the reference says."""

import multiprocessing
import os
import signal
import time
from itertools import chain, zip_longest

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, WorkerDied
from softlabels.loading import Loader
from softlabels.loading.order import shuffle
from tests.loading.stores import memory_for, reference_order, write_store

WINDOW = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory, digits, dense_logits):
    """A sealed store of 1,797 rows in 9 units of 200, in chunks of 64."""
    root = tmp_path_factory.mktemp("stores") / "small"
    return write_store(root, dense_logits, keys=digits.keys(), fingerprint=digits.fingerprint)


def order_of(store, epoch, seed=5):
    """The rows of an epoch in order, by the lists of test_loading."""
    return reference_order(store.chunk_rows().tolist(), seed, epoch, WINDOW)


def reference(store, epoch, seed=5):
    """The keys of an epoch in order."""
    return [bytes(key) for key in store.keys()[order_of(store, epoch, seed)]]


def load(store, **options):
    return Loader(store, seed=5, window=WINDOW, **options)


def keys_of(store, batches):
    stored = store.keys()
    return [bytes(key) for batch in batches for key in stored[batch.rows]]


def in_turn(loader, epoch, position, workers):
    """Return a batch of each worker in turn, as a DataLoader does."""
    shares = [loader.produce(epoch, position, worker=worker, workers=workers) for worker in range(workers)]
    return [batch for batches in zip_longest(*shares) for batch in batches if batch is not None]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [7, 64, 500, 5000])
@pytest.mark.parametrize("fits", [False, True])
def test_every_combination_gives_the_reference(small, world_size, workers, batch_size, fits):
    """Ranks side by side, batch by batch, from several points of two epochs."""
    late = 1200 // batch_size * batch_size
    for epoch, position in ((0, 0), (1, late), (0, 1790)):
        expected = order_of(small, epoch)[position:]
        ranks = []
        for rank in range(world_size):
            memory = None if fits else memory_for(small, WINDOW)
            loader = load(small, batch_size=batch_size, rank=rank, world_size=world_size, memory=memory)
            batches = in_turn(loader, epoch, position, workers) if workers else loader.produce(epoch, position)
            ranks.append([batch.rows for batch in batches])
        assert len({len(batches) for batches in ranks}) == 1, "every rank takes the same number of steps"
        together = [np.concatenate(shares) for shares in zip(*ranks, strict=True)]
        np.testing.assert_array_equal(np.concatenate(together), expected)
        assert {len(batch) for batch in together[:-1]} <= {batch_size}
        for shares in zip(*ranks, strict=True):
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1


def test_every_checkpoint_resumes_to_all_the_rest(small):
    """A state before every batch; each restored in a new loader, at another world size, and all the rest compared."""
    states, rows = [], []
    loader = load(small, batch_size=100)
    for _ in range(2):
        states.append(loader.state_dict())
        for batch in loader:
            rows.append(batch.rows)
            states.append(loader.state_dict())
    del states[len(states) // 2 - 1]  # the end of epoch 0 is the beginning of epoch 1
    assert len(states) == len(rows) + 1
    for number, state in enumerate(states[:-1]):
        resumed = [load(small, batch_size=100, rank=rank, world_size=3) for rank in range(3)]
        shares = []
        for loader_of_rank in resumed:
            loader_of_rank.load_state_dict(state)
            rest = list(loader_of_rank) + (list(loader_of_rank) if state["epoch"] == 0 else [])
            shares.append([batch.rows for batch in rest])
        together = [np.concatenate(parts).tolist() for parts in zip(*shares, strict=True)]
        assert together == [rows_of_step.tolist() for rows_of_step in rows[number:]]


def test_a_state_holds_integers_and_the_snapshot(small):
    loader = load(small, batch_size=100)
    next(iter(loader))
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (0, 100)
    assert state["snapshot"] == small.snapshot.digest
    assert all(isinstance(value, int | str) for value in state.values())


def test_another_batch_size_goes_on_with_exactly_the_remaining_rows(small):
    loader = load(small, batch_size=100)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    other = load(small, batch_size=64)
    other.load_state_dict(loader.state_dict())
    assert keys_of(small, other) == reference(small, 0)[300:]


def test_a_loop_that_was_left_is_gone_on_with_and_epochs_follow(small):
    loader = load(small, batch_size=500)
    seen = [next(iter(loader))]
    seen += loader
    assert keys_of(small, seen) == reference(small, 0)
    assert keys_of(small, loader) == reference(small, 1)
    loader.set_epoch(7)
    assert keys_of(small, loader) == reference(small, 7)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 6}, "got seed 5; expected 6"),
        ({"seed": 5, "window": 3}, "got window 2; expected 3"),
        ({"seed": 5, "shuffle": False}, "got shuffle 1; expected 0"),
        ({"seed": 5, "rows": np.arange(5)}, "another number of rows"),
    ],
)
def test_a_state_of_another_order_is_refused(small, options, named):
    state = load(small, batch_size=100).state_dict()
    with pytest.raises(InvalidArgument, match=named):
        Loader(small, batch_size=100, **({"window": WINDOW} | options)).load_state_dict(state)


def test_a_state_of_another_store_is_refused(small, sealed):
    state = load(small, batch_size=100).state_dict()
    with pytest.raises(InvalidArgument, match="the state is of another store, got snapshot '"):
        load(sl.open(sealed), batch_size=100).load_state_dict(state)
    for damaged in ({}, {"version": 2}, state | {"position": -1}, state | {"position": 1797}, state | {"epoch": 1.5}):
        with pytest.raises(InvalidArgument):
            load(small, batch_size=100).load_state_dict(damaged)


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_the_last_rows_are_kept_dropped_or_filled_up(small, world_size):
    order = reference(small, 0)
    rows = {}
    for last in ("keep", "drop", "repeat"):
        ranks = [list(load(small, batch_size=600, rank=rank, world_size=world_size, last=last))
                 for rank in range(world_size)]  # fmt: skip
        steps = zip(*ranks, strict=True)
        rows[last] = keys_of(small, chain.from_iterable(steps))
        assert {batch.global_rows for batch in ranks[0][:-1]} == {600}
    assert rows["keep"] == order
    assert rows["drop"] == order[:1200]
    assert rows["repeat"] == order + order[:3]


def test_more_ranks_than_rows_give_empty_shares_and_no_hang(small):
    loaders = [Loader(small, rows=np.arange(5), batch_size=8, rank=rank, world_size=8) for rank in range(8)]
    shares = [list(loader) for loader in loaders]
    assert [len(batches) for batches in shares] == [1] * 8
    assert sorted(np.concatenate([batches[0].rows for batches in shares]).tolist()) == [0, 1, 2, 3, 4]
    assert len(shares[0][0].targets["logits"]) == len(shares[0][0].rows)
    repeated = [list(Loader(small, rows=np.arange(5), batch_size=16, rank=rank, world_size=8, last="repeat"))
                for rank in range(8)]  # fmt: skip
    assert all(len(batches[0].rows) == 2 for batches in repeated)
    with pytest.raises(InvalidArgument, match="5 rows do not fill a batch, got 8"):
        Loader(small, rows=np.arange(5), batch_size=8, last="drop")


def test_worker_processes_hand_out_the_same(small, digits):
    """Two real workers, started afresh, that open the store and the data themselves."""
    loader = load(small, inputs=digits, batch_size=300, workers=2, check="all")
    state = loader.state_dict()
    batches = iter(loader)
    first = next(batches)
    np.testing.assert_array_equal(first.inputs, digits.inputs(first.rows))
    np.testing.assert_array_equal(first.targets["logits"].ids, small.read(first.rows).ids)
    assert keys_of(small, [first, *batches]) == reference(small, 0)
    assert loader.state_dict()["epoch"] == state["epoch"] + 1


def test_a_worker_that_is_killed_is_an_error_and_no_hang(small):
    """Killed by the kernel, as for want of memory: said within seconds."""
    before = set(multiprocessing.active_children())
    loader = load(small, batch_size=2, workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(WorkerDied, match="killed or ran out of memory"):
        list(batches)
    assert time.monotonic() - began < 60, "a hang would be for ever"


@pytest.mark.parametrize("words", [1, 3, 2**20, 2**40])
def test_a_permutation_is_the_stable_order_of_its_words_however_many_agree(monkeypatch, words):
    """Words that agree in the bits that are sorted by come in the order of the whole words, and equal ones stay."""
    drawn = np.random.default_rng(0).integers(0, words, 5000, dtype=np.uint64)
    monkeypatch.setattr(shuffle, "philox_words", lambda *_: drawn)
    np.testing.assert_array_equal(shuffle.permutation(5000, 0, 0, 0), np.argsort(drawn, kind="stable"))
