"""Several teachers of the same rows: the mean of what they said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from softlabels import losses
from softlabels.encodings import Codebook, parse
from softlabels.errors import InvalidArgument, StoreNotFound, TemperatureNotStored
from softlabels.labels import DenseLabels, Head, SparseLabels
from softlabels.loading import Ensemble, Loader
from softlabels.loading.adapters.torch_datasets import LabelDataset
from softlabels.loading.averaging import mean_labels
from softlabels.loading.collate.concat import concat_labels
from softlabels.sources import id_keys
from tests.loading.stores import random_logits, write_store

CLASSES = 20


def store(folder, name, *, seed=0, encoding="topk:4:f16", order=None, rows=150, **head):
    """Labels of ``rows`` rows by a teacher of its own, in any order."""
    order = np.arange(rows) if order is None else order
    logits = random_logits(rows, CLASSES, seed)[order]
    kind = Head(encoding=encoding, classes=CLASSES, temperatures=(1.0, 2.0), **head)
    return write_store(folder / name, logits, head=kind, keys=id_keys(order.tolist()), fingerprint=f"{name}")


def rowwise(loader):
    """Reconstructed log-probabilities by row, (rows, C)."""
    batches = list(loader)
    order = np.concatenate([batch.rows for batch in batches])
    averaged = np.concatenate([batch.targets["logits"].log_probs(TEMPERATURE) for batch in batches])
    return averaged[np.argsort(order)]


TEMPERATURE = 2.0


def test_dense_teachers_are_averaged_exactly(tmp_path):
    stores = [store(tmp_path, f"s{seed}", seed=seed, encoding="dense:f32") for seed in (1, 2)]
    loader = Loader(Ensemble(stores, weights=[3, 1], temperature=TEMPERATURE), batch_size=40)
    p = [np.exp(teacher.read(np.arange(150)).log_probs(TEMPERATURE)) for teacher in stores]
    np.testing.assert_allclose(np.exp(rowwise(loader)), 0.75 * p[0] + 0.25 * p[1], atol=1e-6)


def test_stores_are_named_by_location(tmp_path):
    stores = [store(tmp_path, f"s{seed}", seed=seed, encoding="dense:f32") for seed in (1, 2)]
    named = Ensemble([tmp_path / "s1", str(tmp_path / "s2")])
    assert [entry.snapshot.digest for entry in named.stores] == [entry.snapshot.digest for entry in stores]
    assert (rowwise(Loader(named, batch_size=40)) == rowwise(Loader(Ensemble(stores), batch_size=40))).all()
    with pytest.raises(StoreNotFound):
        Ensemble([tmp_path / "s1", tmp_path / "s3"])


def test_sparse_teachers_are_averaged_exactly_where_any_lists_a_class(tmp_path):
    """And the mass of the rest is exact; only its spread is that of the mean prior. Rows are matched by key."""
    order = np.random.default_rng(0).permutation(150)
    stores = [store(tmp_path, "a", seed=1), store(tmp_path, "b", seed=2, order=order, encoding="topk:6:q8")]
    loader = Loader(Ensemble(stores, weights=[0.3, 0.7], temperature=TEMPERATURE), batch_size=40, window=1)
    back = np.argsort(order)
    labels = [stores[0].read(np.arange(150)), stores[1].read(back)]
    expected = 0.3 * np.exp(labels[0].log_probs(TEMPERATURE)) + 0.7 * np.exp(labels[1].log_probs(TEMPERATURE))
    averaged = np.exp(rowwise(loader))
    listed = np.zeros((150, CLASSES), bool)
    for teacher in labels:
        np.put_along_axis(listed, teacher.ids, values=True, axis=1)
    np.testing.assert_allclose(averaged[listed], expected[listed], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(averaged.sum(axis=1), 1.0, atol=1e-4)
    assert (averaged[~listed] > 0).all()


def draws(encoding, rows=6, seed=0):
    """Labels in ``counts`` or ``threshold``."""
    parsed = parse(encoding, classes=CLASSES)
    head = Head(encoding=parsed.spec, classes=CLASSES)
    book = Codebook(np.full((1, 2, CLASSES), 1 / CLASSES, np.float32)) if parsed.priors > 1 else None
    logits = torch.from_numpy(random_logits(rows, CLASSES, seed))
    arrays = parsed.encode(logits, head, np.arange(rows), codebook=book).arrays
    return parsed.decode(arrays, head, None if book is None else book.priors)


def test_a_mean_with_draws_is_a_sample():
    """Whose KL is no figure of the teachers; its offsets are not those of one rounding any more."""
    excess, dithered = draws("counts:9:0.05:2:excess"), draws("counts:9:0:2:dither")
    listed = mean_labels([replace(excess, drawn=False), excess], [0.5, 0.5], 1.0)
    assert listed.is_sample
    assert not mean_labels([replace(excess, drawn=False)] * 2, [0.5, 0.5], 1.0).is_sample
    both = [dithered, draws("threshold:0.1", seed=1)]
    mean = mean_labels(both, [0.25, 0.75], 1.0)
    assert mean.is_sample
    assert mean.dither is None
    expected = sum(w * np.exp(labels.log_probs()) for w, labels in zip([0.25, 0.75], both, strict=True))
    np.testing.assert_allclose(np.exp(mean.log_probs()), expected, atol=1e-6)


def test_teachers_that_were_rounded_alike_keep_their_offsets():
    """Stores of one seed draw equal rows by equal offsets; less noise is then left in the mean, too."""
    both = [draws("counts:6:0:2:dither", rows=500, seed=seed) for seed in (0, 1)]
    p = sum(0.5 * torch.from_numpy(random_logits(500, CLASSES, seed)).softmax(dim=-1) for seed in (0, 1))
    mean = mean_labels(both, [0.5, 0.5], 1.0)
    np.testing.assert_array_equal(mean.dither.offsets, both[0].dither.offsets)
    errors = []
    for labels in (mean, replace(mean, dither=None)):
        student = p.log().requires_grad_()
        (500 * losses.kl(student, labels)).backward()
        errors.append(student.grad.square().sum(dim=-1).mean().item())
    assert errors[0] < 0.7 * errors[1]
    unlike = replace(both[1], dither=replace(both[1].dither, offsets=both[1].dither.offsets[::-1]))
    assert mean_labels([both[0], unlike], [0.5, 0.5], 1.0).dither is None


def test_rows_of_unlike_draws_in_one_batch_are_a_sample():
    """Offsets of one step stay beside their rows; those of different steps are left out."""
    excess, priors = draws("counts:9:0.05:2:excess"), {}
    assert concat_labels([replace(excess, drawn=False), excess], priors).is_sample
    one, other = draws("counts:9:0:2:dither"), draws("counts:9:0:2:dither", rows=3, seed=1)
    joined = concat_labels([one, other], priors)
    assert joined.dither.offsets.tolist() == [*one.dither.offsets, *other.dither.offsets]
    unlike = concat_labels([one, draws("threshold:0.1")], priors)
    assert unlike.unbiased
    assert unlike.dither is None


@pytest.mark.parametrize("prior", [None, "shared"])
def test_with_one_prior_the_whole_mean_is_exact(prior):
    rng = np.random.default_rng(0)
    if prior is not None:
        prior = rng.dirichlet(np.ones(CLASSES))[None].astype(np.float32)
    parts = []
    for seed, k, padded in ((1, 3, 0), (2, 5, 2), (1, 6, 3)):
        p = np.exp(DenseLabels(random_logits(30, CLASSES, seed)).log_probs().astype(np.float64))
        ids = np.argsort(-p, axis=1)[:, :k]
        top = np.take_along_axis(p, ids, axis=1)
        values = np.log(top).astype(np.float32)
        # Rows of unlike numbers of classes are padded at the end.
        values[::2, k - padded :], ids[::2, k - padded :], top[::2, k - padded :] = -np.inf, 0, 0
        tail = np.log(1 - top.sum(axis=1))[:, None].astype(np.float32)
        parts.append(SparseLabels(CLASSES, ids, values, (1.0,), tail, prior=prior))
    weights = [0.5, 0.2, 0.3]
    mean = mean_labels(parts, weights, 1.0)
    expected = sum(w * np.exp(labels.log_probs().astype(np.float64)) for w, labels in zip(weights, parts, strict=True))
    np.testing.assert_allclose(np.exp(mean.log_probs()), expected, rtol=1e-4)
    assert (np.diff(mean.values[:, :3], axis=1) <= 0).all(), "descending, as labels are"
    assert mean.values.shape[1] <= 3 + 5 + 6
    for ids, values in zip(mean.ids, mean.values, strict=True):
        assert len(set(ids[np.isfinite(values)])) == np.isfinite(values).sum(), "no class twice"


def test_one_teacher_alone_is_itself(tmp_path):
    alone = store(tmp_path, "a")
    averaged = rowwise(Loader(Ensemble([alone], temperature=TEMPERATURE), batch_size=40))
    np.testing.assert_allclose(averaged, alone.read(np.arange(150)).log_probs(TEMPERATURE), atol=2e-3)


def test_dense_and_sparse_teachers_mix(tmp_path):
    stores = [store(tmp_path, "a", seed=1), store(tmp_path, "b", seed=2, encoding="dense:f16")]
    averaged = rowwise(Loader(Ensemble(stores, temperature=TEMPERATURE), batch_size=150))
    p = [np.exp(teacher.read(np.arange(150)).log_probs(TEMPERATURE)) for teacher in stores]
    np.testing.assert_allclose(np.exp(averaged), (p[0] + p[1]) / 2, atol=1e-5)


def test_numbers_are_averaged_as_numbers(tmp_path):
    stores = [store(tmp_path, name, seed=seed, encoding="dense:f32", kind="regression")
              for seed, name in enumerate("ab")]  # fmt: skip
    batches = list(Loader(Ensemble(stores), batch_size=150, shuffle=False))
    expected = (random_logits(150, CLASSES, 0) + random_logits(150, CLASSES, 1)) / 2
    np.testing.assert_allclose(batches[0].targets["logits"].values, expected, atol=1e-6)


def test_what_cannot_be_averaged_is_refused(tmp_path):
    a = store(tmp_path, "a")
    with pytest.raises(TemperatureNotStored):
        Ensemble([a], temperature=3.0)
    with pytest.raises(InvalidArgument, match=r"weights: got .* expected 1 finite numbers above 0"):
        Ensemble([a], weights=[1, 2])
    other = write_store(tmp_path / "other", random_logits(150, 7))
    with pytest.raises(InvalidArgument, match="teachers of an ensemble have equal heads"):
        Ensemble([a, other])
    fewer = store(tmp_path, "fewer", rows=100)
    with pytest.raises(InvalidArgument, match="has no labels for 50 rows"):
        Loader(Ensemble([a, fewer]))
    bucket = a.read([0, 1])
    with pytest.raises(InvalidArgument, match="bucket"):
        mean_labels([SparseLabels(**{**bucket.__dict__, "tail": "bucket"})], [1.0], 1.0)


@pytest.mark.parametrize("world_size", [1, 3])
def test_an_ensemble_has_the_order_and_the_state_of_its_first_store(tmp_path, world_size):
    order = np.random.default_rng(0).permutation(150)
    stores = [store(tmp_path, "a", seed=1), store(tmp_path, "b", seed=2, order=order)]

    def load(labels, rank=0, ranks=1):
        return Loader(labels, batch_size=40, seed=3, window=1, rank=rank, world_size=ranks)

    expected = [batch.rows.tolist() for batch in load(stores[0])]
    loader = load(Ensemble(stores))
    states = []
    for batch, rows in zip(loader, expected, strict=True):
        assert batch.rows.tolist() == rows
        states.append(loader.state_dict())
    for number, state in enumerate(states[:-1], 1):
        ranks = [load(Ensemble(stores), rank, world_size) for rank in range(world_size)]
        for teacher in ranks:
            teacher.load_state_dict(state)
        rest = [np.concatenate([batch.rows for batch in step]).tolist() for step in zip(*ranks, strict=True)]
        assert rest == expected[number:]
    for other in (stores[0], Ensemble(stores, weights=[2, 1]), Ensemble(stores, temperature=2.0)):
        with pytest.raises(InvalidArgument, match="the state is of another store"):
            load(other).load_state_dict(states[0])


def test_items_by_number_are_those_of_the_loader(tmp_path):
    order = np.random.default_rng(0).permutation(150)
    ensemble = Ensemble([store(tmp_path, "a", seed=1), store(tmp_path, "b", seed=2, order=order)], temperature=2.0)
    for batch in Loader(ensemble, batch_size=60):
        (items,) = LabelDataset(ensemble).__getitems__(batch.rows.tolist())
        expected = batch.targets["logits"].log_probs(2.0)
        np.testing.assert_allclose(items.targets["logits"].log_probs(2.0), expected, atol=1e-6)
