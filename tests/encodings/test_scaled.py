"""``dense:q8:scaled``: 8 bits relative to the mean and the deviation of each dimension of a pilot."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels import encodings
from softlabels.encodings import Codebook, codebook
from softlabels.encodings.codebook import MAX_DEVIATION, check_priors
from softlabels.errors import InvalidArgument, InvalidLogits
from softlabels.labels import Head

WIDTH = 48
ENCODING = encodings.parse("dense:q8:scaled", classes=WIDTH)
HEAD = Head(encoding=ENCODING.spec, classes=WIDTH, kind="embedding", codebook="0" * 64)


def embeddings(rows, seed=0):
    """Rows as transformers have them: one dimension of a large mean, and one of a large deviation."""
    values = np.random.default_rng(seed).normal(0, 1, (rows, WIDTH)).astype(np.float32)
    values[:, 7] += 300
    values[:, 20] *= 40
    return torch.from_numpy(values)


def fit(values):
    return codebook.fit(ENCODING, HEAD, [values])


def encode(values, book):
    arrays = ENCODING.encode(values, HEAD, np.arange(100, 100 + len(values)), codebook=book).arrays
    ENCODING.check(arrays, HEAD)
    return arrays


def test_every_dimension_is_kept_to_a_hundredth_of_its_deviation():
    values, book = embeddings(200), fit(embeddings(500, seed=1))
    error = ENCODING.decode(encode(values, book), HEAD, book.priors).values - values.numpy()
    relative = np.sqrt(np.square(error).mean(axis=0)) / values.numpy().std(axis=0)
    assert relative.max() < 0.01
    by_row = encodings.parse("dense:q8", classes=WIDTH)
    head = Head(encoding="dense:q8", classes=WIDTH, kind="embedding")
    error = by_row.decode(by_row.encode(values, head, np.arange(200)).arrays, head).values - values.numpy()
    assert np.median(np.sqrt(np.square(error).mean(axis=0)) / values.numpy().std(axis=0)) > 0.3


def test_mean_and_deviation_are_those_of_the_pilot_in_float64():
    pilot = embeddings(700) + 1e4
    mean, deviation = codebook.fit(ENCODING, HEAD, pilot.split(90)).priors[0]
    np.testing.assert_allclose(mean, pilot.double().mean(dim=0).numpy(), rtol=1e-6)
    np.testing.assert_allclose(deviation, pilot.double().std(dim=0, correction=0).numpy(), rtol=1e-6)


@pytest.mark.parametrize("pilot", [torch.full((9, WIDTH), 3.0), embeddings(1)], ids=["constant", "one row"])
def test_a_pilot_without_deviation_still_encodes(pilot):
    values, book = embeddings(5), fit(pilot)
    result = ENCODING.decode(encode(values, book), HEAD, book.priors).values
    np.testing.assert_allclose(result, values, atol=2.0)
    np.testing.assert_array_equal(book.priors[0, 1], 1.0)


def test_a_dimension_that_is_constant_in_the_pilot_may_differ_later():
    pilot = embeddings(300)
    pilot[:, 3] = 5.0
    book, values = fit(pilot), embeddings(300, seed=2)
    result = ENCODING.decode(encode(values, book), HEAD, book.priors).values
    np.testing.assert_allclose(result[:, 3], values[:, 3], atol=0.05)


@settings(max_examples=40)
@given(st.integers(0, 2**20), st.sampled_from([1e-30, 1e-3, 1.0, 1e6, 1e30]), st.sampled_from([0.0, 1.0, 1e5]))
def test_values_of_any_size_come_back_or_are_refused(seed, scale, shift):
    """Within a step of the row, and a rounding of float32 of values and means."""
    values = (embeddings(6, seed) + shift) * scale
    book = fit((embeddings(64, seed + 1) + shift) * scale)
    check_priors(book.priors, (1, 2, WIDTH), standardizes=True)
    arrays = encode(values, book)
    result = ENCODING.decode(arrays, HEAD, book.priors).values
    bound = arrays["scale"][:, None] * book.priors[0, 1] * 0.51 + 1e-5 * np.abs(values.numpy()) + 1e-37
    assert (np.abs(result - values.numpy()) <= bound).all()


def test_a_value_far_beyond_the_pilot_names_its_row():
    book, values = fit(embeddings(64)), embeddings(3)
    values[1, 4] = 1e9
    with pytest.raises(InvalidLogits, match=r"row 101: a value is .* deviations from the mean .*dense:f32"):
        encode(values, book)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pilot_that_is_not_finite_is_refused(value):
    pilot = embeddings(9)
    pilot[4, 2] = value
    with pytest.raises(InvalidLogits, match="row 4: 1 of 48 values are not finite"):
        fit(pilot)
    with pytest.raises(InvalidArgument, match="needs a pilot of a row or more, got none"):
        codebook.fit(ENCODING, HEAD, [])


def test_every_mutant_is_refused_or_finite():
    book, rng = Codebook(np.full((1, 2, WIDTH), MAX_DEVIATION, np.float32)), np.random.default_rng(3)
    arrays, accepted = encode(embeddings(3), fit(embeddings(64))), 0
    for _ in range(400):
        mutant = {name: array.copy() for name, array in arrays.items()}
        raw = mutant[sorted(mutant)[rng.integers(3)]].reshape(-1).view(np.uint8)
        raw[rng.integers(len(raw))] = rng.integers(256)
        try:
            ENCODING.check(mutant, HEAD)
        except ValueError:
            continue
        accepted += 1
        assert np.isfinite(ENCODING.decode(mutant, HEAD, book.priors).values).all()
    assert accepted > 100


@pytest.mark.parametrize(
    "change",
    [lambda a: a.fill(np.nan), lambda a: a[:, 1].fill(0), lambda a: a[:, 1].fill(-1), lambda a: a.fill(np.inf)],
)
def test_a_forged_codebook_is_refused(change):
    priors = fit(embeddings(64)).priors.copy()
    change(priors)
    with pytest.raises(ValueError, match="means or deviations that are not finite, or out of range"):
        check_priors(priors, (1, 2, WIDTH), standardizes=True)


def test_it_is_for_numbers():
    with pytest.raises(InvalidArgument, match=r"it is for numbers, got a head of kind classes; expected embedding"):
        ENCODING.columns(Head(encoding=ENCODING.spec, classes=WIDTH))
    for spec in ("dense:f16:scaled", "dense:q8:odd", "dense:q8:scaled:1"):
        with pytest.raises(InvalidArgument, match="encoding"):
            encodings.parse(spec, classes=WIDTH)
    with pytest.raises(ValueError, match="the mean and the deviation of each dimension are missing"):
        ENCODING.decode(encode(embeddings(2), fit(embeddings(9))), HEAD)
