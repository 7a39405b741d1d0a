"""8-bit encodings of classes that the teacher rules out by a finite fill, such as -1e4."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels import encodings
from softlabels.fidelity import measure
from softlabels.labels import Head

FILLS = [-200.0, -1e3, -1e4, -65504.0, -1e9, float(np.finfo(np.float32).min)]


def round_trip(spec, logits, *, temperatures=(1.0,), kind="classes"):
    encoding = encodings.parse(spec, classes=logits.shape[1])
    head = Head(encoding=encoding.spec, classes=logits.shape[1], temperatures=temperatures, kind=kind)
    encoded = encoding.encode(torch.from_numpy(logits), head, np.arange(len(logits)))
    encoding.check(encoded.arrays, head)
    return encoding.decode(encoded.arrays, head)


def probabilities(logits, temperature=1.0):
    scaled = torch.from_numpy(logits).double() / temperature
    return scaled.softmax(-1).numpy()


def variation(labels, logits, temperature=1.0):
    p = np.exp(labels.log_probs(temperature).astype(np.float64))
    return np.abs(p - probabilities(logits, temperature)).sum(axis=1).max() / 2


@pytest.mark.parametrize("spec", ["dense:q8", "topk:10:q8", "topk:14:q8", "adaptive:0.001:q8"])
@pytest.mark.parametrize("fill", FILLS)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.3, 6),
    added=st.booleans(),
    temperature=st.sampled_from([1.0, 2.0]),
)
def test_a_finite_fill_takes_no_precision_from_the_other_classes(spec, fill, seed, scale, added, temperature):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((5, 14))).astype(np.float32)
    is_out = np.arange(14) >= 8
    with np.errstate(over="ignore"):
        logits[:, is_out] = (logits[:, is_out] + np.float32(fill)).clip(min=FILLS[-1]) if added else fill
    labels = round_trip(spec, logits, temperatures=(1.0, 2.0))
    step = np.ptp(logits[:, ~is_out], axis=1).max() / 254
    assert variation(labels, logits, temperature) < step + 5e-3
    assert np.isfinite([*measure(logits, labels, (1.0, 2.0)).kl.values()]).all()


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 12), classes=st.integers(2, 40))
def test_logits_without_a_fill_lose_no_class(seed, scale, classes):
    """Also where one class dominates: the others keep their order at any temperature."""
    logits = (scale * np.random.default_rng(seed).standard_normal((6, classes))).astype(np.float32)
    logits[3:, 0] += 100
    labels = round_trip("dense:q8", logits)
    assert np.isfinite(labels.values).all()
    assert (np.abs(labels.values - logits) <= np.ptp(logits, axis=1, keepdims=True) / 254 * 0.51 + 1e-4).all()


def test_a_gap_that_the_highest_temperature_bridges_is_no_fill():
    logits = np.array([[1.0, 0.0, -100.0, -101.0]], np.float32)
    assert np.isneginf(round_trip("dense:q8", logits).values[0, 2:]).all()
    assert np.isfinite(round_trip("dense:q8", logits, temperatures=(1.0, 4.0)).values).all()


def test_two_fills_are_both_set_apart():
    logits = np.array([[1.0, 0.5, 0.0, -1e4, FILLS[-1], -np.inf]], np.float32)
    labels = round_trip("dense:q8", logits)
    np.testing.assert_allclose(labels.values[0, :3], logits[0, :3], atol=2e-3)
    assert np.isneginf(labels.values[0, 3:]).all()


def test_numbers_to_regress_on_are_never_fills():
    values = np.array([[1.0, 0.0, 1000.0, -1e4]], np.float32)
    labels = round_trip("dense:q8", values, kind="regression")
    np.testing.assert_allclose(labels.values, values, atol=np.ptp(values) / 254)
