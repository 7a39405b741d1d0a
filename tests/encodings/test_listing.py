"""``adaptive``, log-probabilities as differences, and codebooks, against their dense float64 definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels import encodings
from softlabels.encodings import codebook
from softlabels.encodings.listing import likeliest
from softlabels.encodings.log_probs import NAMES, LogProbs
from softlabels.errors import InvalidArgument
from softlabels.labels import Head


def log_softmax64(logits, temperature=1.0):
    scaled = logits.astype(np.float64) / temperature
    return scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)


def encode(spec, logits, temperatures=(1.0,), book=None):
    encoding = encodings.parse(spec, classes=logits.shape[1])
    digest = None if book is None else "0" * 64
    head = Head(encoding=encoding.spec, classes=logits.shape[1], temperatures=temperatures, codebook=digest)
    encoded = encoding.encode(torch.from_numpy(logits), head, np.arange(len(logits)), codebook=book)
    encoding.check(encoded.arrays, head)
    return encoding, head, encoded


@given(
    seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([2, 17, 300]), scale=st.floats(0, 12),
    least=st.floats(2e-5, 1.0), log_probs=st.sampled_from(NAMES),
)  # fmt: skip
def test_adaptive_lists_exactly_the_classes_of_that_probability(seed, classes, scale, least, log_probs):
    logits = (scale * np.random.default_rng(seed).standard_normal((5, classes))).astype(np.float32)
    encoding, head, encoded = encode(f"adaptive:{least}:{log_probs}", logits, (1.0, 2.0))
    labels = encoding.decode(encoded.arrays, head)
    p = np.exp(log_softmax64(logits))
    for row in range(5):
        listed = labels.ids[row][np.isfinite(labels.values[row])]
        assert p[row, listed[0]] >= p[row].max() * (1 - 1e-6)
        # float32 decides on which side of the bound a class lies that is within rounding of it.
        surely = set(np.flatnonzero(p[row] >= encoding.least * (1 + 1e-4))) | {listed[0]}
        perhaps = set(np.flatnonzero(p[row] >= encoding.least * (1 - 1e-4))) | surely
        assert surely <= set(listed) <= perhaps
        for index, temperature in enumerate((1.0, 2.0)):
            unlisted = np.delete(np.exp(log_softmax64(logits, temperature)[row]), listed)
            stored, steps = labels.log_tail[row, index], LogProbs(log_probs).steps_per_nat
            # The d ways hold a tail to 1 / 4N of itself.
            rtol = np.expm1((1 - max(stored, -17)) / (4 * steps)) if steps else 2e-2
            np.testing.assert_allclose(np.exp(stored), unlisted.sum(), rtol=rtol, atol=1e-7)
            assert np.exp(labels.log_probs(temperature)[row].astype(float)).sum() == pytest.approx(1, abs=1e-4)


@given(
    seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([1024, 1025, 1300, 2047]), k=st.integers(1, 2),
    values=st.sampled_from([3, 2**24]),
)  # fmt: skip
def test_the_likeliest_classes_of_long_rows_are_those_of_a_plain_sort(seed, classes, k, values):
    """Rows of many segments, with many equal logits, and classes behind the last whole segment."""
    logits = np.random.default_rng(seed).integers(0, values, (4, classes)).astype(np.float32)
    logits[:, 5] = -np.inf
    listing = likeliest(torch.from_numpy(logits), k)
    expected = -np.sort(-logits, axis=1)[:, :k]
    np.testing.assert_array_equal(np.take_along_axis(logits, listing.ids.numpy(), 1), expected)
    np.testing.assert_array_equal(listing.logits.numpy(), expected - expected[:, :1])


@given(
    seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([16, 64, 129, 1000]), k=st.integers(1, 12),
    values=st.sampled_from([1, 3, 50, 2**24]), ruled_out=st.sampled_from([0.0, 0.5, 0.99]),
)  # fmt: skip
def test_the_likeliest_classes_are_distinct_and_equal_ones_ascend(seed, classes, k, values, ruled_out):
    """Rows of hundreds of classes are listed by a bound of the k-th logit, unless too many reach it."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, values, (6, classes)).astype(np.float32)
    logits[rng.random(logits.shape) < ruled_out] = -np.inf
    logits[:, 3] = 0.0
    listing = likeliest(torch.from_numpy(logits), k)
    ids, expected = listing.ids.numpy(), -np.sort(-logits, axis=1)[:, :k]
    np.testing.assert_array_equal(np.take_along_axis(logits, ids, 1), expected)
    steps, equal = np.diff(ids, axis=1), expected[:, 1:] == expected[:, :-1]
    assert (steps[equal] > 0).all()
    assert sorted(listing.places.tolist()) == sorted((ids + classes * np.arange(6)[:, None]).ravel().tolist())


def test_a_row_without_a_likely_class_lists_its_likeliest():
    logits = np.zeros((3, 1000), np.float32)
    logits[1, 77] = 0.1
    encoding, head, encoded = encode("adaptive:0.5", logits)
    assert encoded.arrays["count"].tolist() == [1, 1, 1]
    assert encoding.decode(encoded.arrays, head).ids[:, 0].tolist() == [0, 77, 0]


def test_tails_too_small_for_the_scale_of_the_likeliest_class_are_kept():
    """120 nats below: exp would be 0 in float32."""
    logits = np.full((1, 50), -120.0, np.float32)
    logits[0, 3] = 0.0
    for spec in ("adaptive:0.5:f16", "topk:1"):
        encoding, head, encoded = encode(spec, logits)
        assert encoding.decode(encoded.arrays, head).log_tail[0, 0] == pytest.approx(np.log(49) - 120, rel=1e-5)


@pytest.mark.parametrize("steps", [2, 4, 8, 16])
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 300))
def test_differences_never_drift(steps, seed, scale):
    values = -np.sort(scale * np.random.default_rng(seed).random((4, 40)).astype(np.float32))
    values[:, 30:] = -np.inf
    log_probs = LogProbs(f"d{steps}")
    decoded = log_probs.decode(log_probs.encode(torch.from_numpy(values)))
    relative = values - values[:, :1]
    assert (np.abs(decoded[:, :30] - relative[:, :30]) <= 0.5 / steps + 1e-4).all()
    assert np.isneginf(decoded[:, 30:]).all()


@pytest.mark.parametrize("steps", [4, 16])
def test_a_step_costs_at_most_about_its_square_over_24_nats(steps):
    """Less where a few classes hold most of the mass: the likeliest is not rounded at all."""
    rng = np.random.default_rng(0)
    logits = (2 * rng.standard_normal((400, 60))).astype(np.float32)
    log_p = log_softmax64(logits)
    encoding, head, encoded = encode(f"topk:60:d{steps}", logits)
    log_q = encoding.decode(encoded.arrays, head).log_probs().astype(np.float64)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert 0.4 / steps**2 / 24 < kl < 1 / steps**2 / 24


def clustered(rows, seed):
    """Rows of three kinds: their small classes differ, their likeliest one does not."""
    rng = np.random.default_rng(seed)
    kinds = 3 * np.random.default_rng(0).standard_normal((3, 80))
    logits = kinds[rng.integers(0, 3, rows)] + 0.3 * rng.standard_normal((rows, 80))
    logits[:, 0] = 9.0
    return logits.astype(np.float32)


def fitted(spec, temperatures=(1.0,), rows=600):
    encoding = encodings.parse(spec, classes=80)
    head = Head(encoding=encoding.spec, classes=80, temperatures=temperatures, codebook="0" * 64)
    return codebook.fit(encoding, head, torch.from_numpy(clustered(rows, 1)).split(100))


def test_each_row_has_the_prior_that_costs_least():
    book = fitted("topk:1:f16:4", (1.0, 2.0))
    codebook.check_priors(book.priors, (2, 4, 80))
    logits = clustered(50, 2)
    encoding, head, encoded = encode("topk:1:f16:4", logits, (1.0, 2.0), book)
    labels = encoding.decode(encoded.arrays, head, book.priors)
    log_p = log_softmax64(logits)

    def costs(which):
        chosen = {**encoded.arrays, "prior": np.full(50, which, np.uint8)}
        return (np.exp(log_p) * (log_p - encoding.decode(chosen, head, book.priors).log_probs())).sum(axis=1)

    every = np.stack([costs(which) for which in range(4)])
    chosen_cost = (np.exp(log_p) * (log_p - labels.log_probs())).sum(axis=1)
    np.testing.assert_allclose(chosen_cost, every.min(axis=0), atol=1e-5)
    assert len(set(encoded.arrays["prior"].tolist())) >= 3, "rows of different kinds choose differently"


def test_a_codebook_keeps_far_more_than_one_prior():
    logits = clustered(300, 2)
    log_p = log_softmax64(logits)
    kl = {}
    for priors, book in ((1, None), (4, fitted("topk:1:f16:4"))):
        spec = "topk:1:f16" + (f":{priors}" if priors > 1 else "")
        encoding, head, encoded = encode(spec, logits, book=book)
        p = np.exp(log_softmax64(clustered(600, 1)))
        p[:, 0] = 0  # what topk:1 leaves
        one = (0.99 * p.sum(axis=0) / p.sum() + 0.01 / 80).astype(np.float32)[None]
        labels = encoding.decode(encoded.arrays, head, one if book is None else book.priors)
        kl[priors] = (np.exp(log_p) * (log_p - labels.log_probs())).sum(axis=1).mean()
    assert kl[4] < 0.4 * kl[1]


def test_fitting_is_repeatable_and_refuses_too_small_a_pilot():
    assert (fitted("adaptive:0.1:d4:8").priors == fitted("adaptive:0.1:d4:8").priors).all()
    with pytest.raises(InvalidArgument, match=r"64 tail priors need a pilot of 256 rows or more, got 200"):
        fitted("topk:1:f16:64", rows=200)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda a: a.__setitem__("count", np.array([0, 3], np.uint16)), "without a listed class"),
        (lambda a: a["ids"].__setitem__(1, a["ids"][0]), "twice"),
        (lambda a: a["ids"].__setitem__(0, 200), "class id 200"),
        (lambda a: a["steps"].__setitem__(0, 65535), "finite"),
        (lambda a: a["tail"].__setitem__((0, 0), np.nan), "tail"),
        (lambda a: a["prior"].__setitem__(0, 9), "tail prior 9, but there are 4"),
    ],
)
def test_values_no_encoder_writes_are_found(damage, problem):
    logits = clustered(2, 3)
    encoding = encodings.parse("adaptive:0.0001:d4:4", classes=80)
    head = Head(encoding=encoding.spec, classes=80, codebook="0" * 64)
    book = fitted("adaptive:0.0001:d4:4")
    decoded = encoding.encode(torch.from_numpy(logits), head, np.arange(2), codebook=book).arrays
    arrays = {name: array.copy() for name, array in decoded.items()}
    encoding.check(arrays, head)
    damage(arrays)
    if len(arrays["ids"]) != arrays["count"].sum():
        total = int(arrays["count"].sum())
        arrays |= {name: arrays[name][:total] for name in ("ids", "steps")}
    with pytest.raises(ValueError, match=problem):
        encoding.check(arrays, head)
