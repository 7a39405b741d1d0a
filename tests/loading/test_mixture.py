"""Several datasets in one stream: weights met exactly, each part in its own order, reachable anywhere."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from softlabels.errors import InvalidArgument
from softlabels.labels import Head
from softlabels.loading import Ensemble, Loader, Mixture, Part
from softlabels.loading.collate.concat import concat_labels
from softlabels.loading.order.interleave import BLOCK, Interleave, quotas_of
from softlabels.sources import TokenSource
from tests.loading.stores import random_logits, reference_order, reference_permutation, write_store

ROWS = (300, 500)
WINDOW = 2


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores of unlike sizes, list lengths and tail priors."""
    folder = tmp_path_factory.mktemp("mixture")
    heads = [Head(encoding=f"topk:{k}:f16", classes=20, temperatures=(1.0, 2.0)) for k in (3, 5)]
    return [
        write_store(folder / f"s{i}", random_logits(ROWS[i], 20, seed=i), head=heads[i], fingerprint=f"f{i}")
        for i in (0, 1)
    ]


def mixed(stores, **options):
    mixture = Mixture([Part(store) for store in stores], weights=[3, 1], rows=700)
    return Loader(mixture, **({"batch_size": 64, "seed": 5, "window": WINDOW} | options))


def reference(stores, count, seed=5):
    """(part, row) of the first positions of the stream, by lists."""
    quotas = [3072, 1024]
    orders = [[], []]
    for number, store in enumerate(stores):
        for epoch in range(count // store.rows + 1):
            orders[number] += reference_order(store.chunk_rows().tolist(), seed + number, epoch, WINDOW)
    expected, used = [], [0, 0]
    for position in range(count):
        block, within = divmod(position, BLOCK)
        if within == 0:
            dealt = [0] * quotas[0] + [1] * quotas[1]
            places = reference_permutation(BLOCK, seed, block, 4, 0)
        number = dealt[places[within]]
        expected.append((number, orders[number][used[number]]))
        used[number] += 1
    return expected


def seen(batches):
    return [pair for batch in batches for pair in zip(batch.parts.tolist(), batch.rows.tolist(), strict=True)]


def test_a_mixture_is_the_reference_over_epochs(stores):
    loader = mixed(stores)
    assert seen(list(loader)) == reference(stores, 700)
    assert seen(list(loader)) == reference(stores, 1400)[700:]


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("position", [0, 128, 640])
def test_ranks_and_resume_points_give_the_same_rows(stores, world_size, position):
    expected = reference(stores, 1400)[700:]
    ranks = [list(mixed(stores, rank=rank, world_size=world_size).produce(1, position)) for rank in range(world_size)]
    assert [pair for step in zip(*ranks, strict=True) for pair in seen(step)] == expected[position:]


def test_every_checkpoint_of_a_mixture_resumes_to_all_the_rest(stores):
    loader = mixed(stores, batch_size=100)
    states, batches = [loader.state_dict()], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    for number, state in enumerate(states[:-1]):
        resumed = mixed(stores, batch_size=100)
        resumed.load_state_dict(state)
        assert seen(list(resumed)) == seen(batches[number:])
    with pytest.raises(InvalidArgument, match="another store"):
        Loader(stores[0], batch_size=100, seed=5, window=WINDOW).load_state_dict(states[1])


def test_labels_are_those_of_each_rows_own_store(stores):
    """Lists of unlike lengths and unlike tail priors side by side, at every temperature."""
    for batch in mixed(stores):
        labels = batch.targets["logits"]
        for number, store in enumerate(stores):
            index = np.flatnonzero(batch.parts == number)
            expected = store.read(batch.rows[index])
            for temperature in (1.0, 2.0):
                np.testing.assert_allclose(
                    labels.take(index).log_probs(temperature), expected.log_probs(temperature), atol=1e-5
                )


def test_unlike_tail_priors_are_kept_side_by_side_once(stores):
    rng = np.random.default_rng(0)
    parts = [store.read(np.arange(5)) for store in stores]
    own = [rng.dirichlet(np.ones(20), 2).astype(np.float32), rng.dirichlet(np.ones(20), (2, 3)).astype(np.float32)]
    parts = [
        replace(parts[0], prior=own[0]),
        replace(parts[1], prior=own[1], prior_index=np.array([0, 2, 1, 1, 0])),
        parts[1],
    ]
    priors = {}
    joined = concat_labels(parts, priors)
    assert joined.prior.shape == (2, 5, 20)
    for temperature in (1.0, 2.0):
        expected = np.concatenate([number.log_probs(temperature) for number in parts])
        np.testing.assert_allclose(joined.log_probs(temperature), expected, atol=1e-5)
    assert concat_labels(parts, priors).prior is joined.prior


def test_worker_processes_and_tensors_give_the_same_mixture(stores):
    batches = list(mixed(stores, batch_size=350, workers=2, device="cpu"))
    assert seen(batches) == reference(stores, 700)


def test_weights_are_met_in_every_block_and_positions_are_counted_in_closed_form():
    deal = Interleave(quotas_of([1, 2.5, 0.5]), seed=3)
    parts = deal.parts(0, 3 * BLOCK)
    assert [np.bincount(parts[i : i + BLOCK]).tolist() for i in range(0, 3 * BLOCK, BLOCK)] == [[1024, 2560, 512]] * 3
    for start, stop in pairwise([0, 1, 4095, 4096, 5000, 12_000]):
        assert (deal.parts(start, stop) == parts[start:stop]).all()
        assert deal.before(stop).tolist() == np.bincount(parts[:stop], minlength=3).tolist()
    assert sum(quotas_of([1, 1, 1])) == BLOCK


def test_without_weights_parts_share_by_their_rows(stores):
    loader = Loader(Mixture([Part(store) for store in stores]), batch_size=800)
    assert loader.items.length == 800
    assert loader.items.interleave.quotas == (1536, 2560)


def test_parts_are_named_by_location(stores):
    named = next(iter(mixed([str(store.storage) for store in stores])))
    assert (named.rows == next(iter(mixed(stores))).rows).all()


def test_parts_may_be_ensembles_and_have_data(stores, tmp_path):
    twin = write_store(tmp_path / "twin", random_logits(300, 20, seed=0), fingerprint="f0")
    parts = [Part(Ensemble([stores[0], twin])), Part(Ensemble([stores[1]]))]
    batch = next(iter(Loader(Mixture(parts), batch_size=200)))
    assert set(batch.parts) == {0, 1}
    tokens = [TokenSource([[r % 7, r, 1] for r in range(count)], ids=range(count))
              for count in ROWS]  # fmt: skip
    mixture = Mixture([Part(store, source) for store, source in zip(stores, tokens, strict=True)])
    batch = next(iter(Loader(mixture, batch_size=200)))
    assert batch.inputs.values.reshape(-1, 3)[:, 1].tolist() == batch.rows.tolist()


def test_parts_that_do_not_fit_are_refused(stores, tmp_path, digits):
    other = write_store(tmp_path / "other", random_logits(100, 7))
    dense = write_store(tmp_path / "dense", random_logits(100, 20), head=Head(encoding="dense:f16", classes=20))
    for stranger in (other, dense):
        with pytest.raises(InvalidArgument, match="kinds that differ cannot be in one batch"):
            Loader(Mixture([Part(stores[0]), Part(stranger)]))
    with pytest.raises(InvalidArgument, match=r"parts: .* in part 1 and .* in part 0"):
        Loader(Mixture([Part(stores[0]), Part(None, digits)]))
    with pytest.raises(InvalidArgument, match=r"weights: got .* expected 2 finite numbers above 0"):
        Mixture([Part(store) for store in stores], weights=[1, 0])
    with pytest.raises(InvalidArgument, match="less than a row in 4,096"):
        Loader(Mixture([Part(store) for store in stores], weights=[1, 1e-6]))
    with pytest.raises(InvalidArgument, match="parts of a mixture have their own"):
        Loader(Mixture([Part(stores[0])]), rows=np.arange(3))
    with pytest.raises(InvalidArgument, match="by_length: orders the rows of one store"):
        Loader(Mixture([Part(stores[0])]), by_length=True)
