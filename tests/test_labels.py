"""Labels: the reconstructed distribution against its definition (docs/fidelity.md, eq. 3)."""

import numpy as np
import pytest

from softlabels.errors import InvalidArgument, TemperatureNotStored
from softlabels.labels import DenseLabels, Head, SparseLabels, log1mexp

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
    with pytest.raises(TemperatureNotStored, match=r"temperature 2; they hold 1\. .*--temperature 2"):
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
