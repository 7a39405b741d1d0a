"""Labels: the reconstructed distribution against its definition (docs/fidelity.md, eq. 3)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels import losses
from softlabels.errors import InvalidArgument, TemperatureNotStored
from softlabels.fidelity import distance
from softlabels.labels import DenseLabels, Head, SparseLabels, canonical_temperatures, log1mexp, log_softmax

LABELS = SparseLabels(
    classes=5,
    ids=np.array([[3, 1], [0, 0]]),
    values=np.log(np.array([[0.5, 0.2], [0.9, 0.0 + 1e-30]], np.float32))
    + np.array([[0, 0], [0, -np.inf]], np.float32),
    temperatures=(1.0,),
    log_tail=np.log(np.array([[0.3], [0.1]], np.float32)),
    prior=np.array([[0.4, 0.2, 0.2, 0.1, 0.1]], np.float32),
)


def with_tail(tail):
    return SparseLabels(**{**vars(LABELS), "tail": tail})


def test_the_calibrated_tail_follows_the_prior():
    expected = [
        [0.3 * 0.4 / 0.7, 0.2, 0.3 * 0.2 / 0.7, 0.5, 0.3 * 0.1 / 0.7],
        [0.9, *[0.1 / 0.6 * p for p in (0.2, 0.2, 0.1, 0.1)]],
    ]
    np.testing.assert_allclose(np.exp(LABELS.log_probs(1.0)), expected, rtol=1e-5)


def test_the_uniform_tail_is_spread_evenly():
    expected = [[0.1, 0.2, 0.1, 0.5, 0.1], [0.9, 0.025, 0.025, 0.025, 0.025]]
    np.testing.assert_allclose(np.exp(with_tail("uniform").log_probs(1.0)), expected, rtol=1e-5)


def test_the_bucket_keeps_listed_classes_alone_and_renormalising_makes_them_one():
    np.testing.assert_allclose(np.exp(with_tail("bucket").log_probs(1.0)).sum(1), [0.7, 0.9], rtol=1e-5)
    np.testing.assert_allclose(np.exp(with_tail("renormalize").log_probs(1.0))[0], [0, 2 / 7, 0, 5 / 7, 0], rtol=1e-5)


def test_a_temperature_that_was_not_captured_lists_those_that_were():
    with pytest.raises(TemperatureNotStored, match=r"no tail mass at temperature 2; they hold 1\. .*at temperature 2"):
        LABELS.log_probs(2.0)


def test_dense_labels_have_every_temperature():
    logits = np.array([[1.0, 2.0, 4.0]], np.float32)
    expected = np.exp(logits / 3) / np.exp(logits / 3).sum()
    np.testing.assert_allclose(np.exp(DenseLabels(logits).log_probs(3.0)), expected, rtol=1e-6)


def test_taking_rows_keeps_their_order():
    taken = LABELS.take(np.array([1, 0, 1]))
    assert taken.ids.tolist() == LABELS.ids[[1, 0, 1]].tolist()
    assert len(taken) == 3


def test_log1mexp_does_not_cancel():
    x = np.array([-1e-12, -1e-3, -1.0, -50.0, 0.0])
    expected = [np.log(1e-12), np.log(-np.expm1(-1e-3)), np.log1p(-np.exp(-1)), -np.exp(-50.0), -np.inf]
    np.testing.assert_allclose(log1mexp(x), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"classes": 0}, {"kind": "words"}, {"tail": "none"}, {"temperatures": ()}, {"temperatures": (0.0,)}]
)
def test_heads_that_cannot_be_are_refused(options):
    with pytest.raises(InvalidArgument):
        Head(**({"encoding": "dense:f32", "classes": 3} | options))


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 9), k=st.integers(1, 9), other=st.integers(1, 9))
def test_the_distance_is_the_total_variation_of_what_is_listed(seed, classes, k, other):
    rng = np.random.default_rng(seed)
    first, second = (random_sparse(rng, classes, min(size, classes)) for size in (k, other))
    dense = np.zeros((2, 3, classes))
    for which, labels in enumerate((first, second)):
        np.put_along_axis(dense[which], labels.ids, np.exp(labels.listed_log_probs().astype(float)), axis=1)
    np.testing.assert_allclose(distance(first, second), np.abs(dense[0] - dense[1]).sum(axis=1) / 2, atol=1e-6)
    np.testing.assert_allclose(distance(first, first), 0, atol=1e-12)


def random_sparse(rng, classes, k):
    log_p = log_softmax(rng.normal(0, 3, (3, classes)))
    ids = np.argsort(-log_p, axis=1)[:, :k]
    rest = 1 - np.exp(np.take_along_axis(log_p, ids, axis=1).astype(float)).sum(axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.clip(rest, 0, 1))[:, None].astype(np.float32)
    return SparseLabels(classes, ids, np.take_along_axis(log_p, ids, axis=1), (1.0,), tail)


def test_padding_is_no_class():
    """Class 0 is found in both although one of them is padded with its id."""
    wide = SparseLabels(classes=9, ids=np.array([[3, 0, 0]]), values=np.array([[-1, -2, -np.inf]], np.float32),
                        temperatures=(1.0,), log_tail=np.log1p(-np.exp([[-1.0]]) - np.exp([[-2.0]])))  # fmt: skip
    narrow = replace(wide, ids=wide.ids[:, :2], values=wide.values[:, :2])
    np.testing.assert_allclose(distance(wide, narrow), 0, atol=1e-7)
    np.testing.assert_allclose(distance(narrow, wide), 0, atol=1e-7)


def test_distances_of_other_kinds():
    dense = DenseLabels(np.array([[0.0, 0.0], [5.0, 0.0]], np.float32))
    other = DenseLabels(np.array([[0.0, 0.0], [0.0, 5.0]], np.float32))
    np.testing.assert_allclose(distance(dense, other), [0, np.tanh(2.5)], atol=1e-6)
    numbers = DenseLabels(np.array([[10.0, 1.0]], np.float32), "regression")
    np.testing.assert_allclose(distance(numbers, DenseLabels(numbers.values + 1, "regression")), [0.1])
    ragged = DenseLabels(np.zeros((3, 2), np.float32), lengths=np.array([1, 0, 2]))
    changed = DenseLabels(np.array([[0, 0], [0, 0], [9, 0]], np.float32), lengths=np.array([1, 0, 2]))
    assert distance(ragged, ragged).tolist() == [0, 0, 0]
    assert distance(ragged, changed)[2] > 0.4
    assert distance(ragged, dense)[0] == np.inf


@pytest.mark.parametrize("temperature", [7 * 0.1, np.float32(0.7), 0.7])
def test_a_temperature_is_found_up_to_rounding(temperature):
    tail = np.log(np.array([[0.3, 0.2], [0.1, 0.05]], np.float32))
    labels = replace(LABELS, temperatures=(1.0, 0.7), log_tail=tail, prior=np.repeat(LABELS.prior, 2, axis=0))
    assert labels.temperature_index(temperature) == 1
    np.testing.assert_array_equal(labels.log_probs(temperature), labels.log_probs(0.7))
    student = torch.zeros(2, 5)
    assert losses.kl(student, labels, temperature=temperature).item() == pytest.approx(
        losses.kl(student, labels, temperature=0.7).item(), rel=1e-6
    )
    with pytest.raises(TemperatureNotStored):
        labels.temperature_index(0.71)


def test_stores_name_a_temperature_once_and_keep_its_name():
    assert canonical_temperatures([7 * 0.1, 2, 0.7]) == (0.7, 2.0)
    assert canonical_temperatures([1 / 3, np.float32(0.7)], existing=[1 / 3]) == (1 / 3, 0.699999988)
    assert canonical_temperatures([0.333333333], existing=[1 / 3]) == (1 / 3,)
