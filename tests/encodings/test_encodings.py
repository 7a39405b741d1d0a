"""Encodings against their dense float64 definitions (docs/fidelity.md, eq. 1 and 2)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from softlabels import encodings
from softlabels.encodings import tail
from softlabels.encodings.encoding import check_distinct
from softlabels.encodings.log_probs import LogProbs
from softlabels.errors import InvalidArgument, InvalidLogits
from softlabels.labels import DenseLabels, Head

TEMPERATURES = (0.5, 1.0, 4.0)


def log_softmax64(logits, temperature):
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))


def round_trip(spec, logits, temperatures=TEMPERATURES, prior=None):
    """Labels of ``logits`` after encoding, checking and decoding."""
    classes = logits.shape[1]
    encoding = encodings.parse(spec, classes=classes)
    head = Head(encoding=encoding.spec, classes=classes, temperatures=temperatures)
    encoded = encoding.encode(torch.from_numpy(logits), head, np.arange(len(logits)))
    columns = encoding.columns(head)
    assert set(encoded.arrays) == set(columns)
    for name, column in columns.items():
        assert encoded.arrays[name].dtype == np.dtype(column.dtype)
        assert encoded.arrays[name].shape == (len(logits), *column.shape)
    encoding.check(encoded.arrays, head)
    return encoding.decode(encoded.arrays, head, prior)


def logits_strategy(classes, rows=4, bound=60.0):
    """Rows of logits with ties, and some classes ruled out by -inf (never all of a row)."""
    values = st.floats(-bound, bound, width=32) | st.sampled_from([0.0, 1.0])
    dense = hnp.arrays(np.float32, (rows, classes), elements=values)
    masks = hnp.arrays(np.bool_, (rows, classes), elements=st.booleans())

    def rule_out(pair):
        logits, mask = pair
        mask[:, 0] = False
        return np.where(mask & (np.arange(classes) % 3 == 1), np.float32(-np.inf), logits).astype(np.float32)

    return st.tuples(dense, masks).map(rule_out)


@given(logits_strategy(10))
def test_dense_float32_returns_the_very_bits(logits):
    labels = round_trip("dense:f32", logits)
    assert isinstance(labels, DenseLabels)
    assert labels.values.tobytes() == logits.tobytes()


@pytest.mark.parametrize(("spec", "relative"), [("dense:f16", 2**-11), ("dense:bf16", 2**-8)])
@given(logits=logits_strategy(10))
def test_dense_halves_round_to_nearest(spec, relative, logits):
    labels = round_trip(spec, logits)
    finite = np.isfinite(logits)
    assert (np.isneginf(labels.values) == ~finite).all()
    error = np.abs(labels.values[finite] - logits[finite])
    assert (error <= relative * np.abs(logits[finite]) + 1e-7).all()


@given(logits_strategy(10))
def test_dense_8_bits_are_within_half_a_step(logits):
    labels = round_trip("dense:q8", logits)
    finite = np.isfinite(logits)
    assert (np.isneginf(labels.values) == ~finite).all()
    spread = np.where(finite, logits, -np.inf).max(1) - np.where(finite, logits, np.inf).min(1)
    error = np.where(finite, np.abs(np.where(finite, labels.values, 0) - np.where(finite, logits, 0)), 0).max(axis=1)
    assert (error <= spread / 254 * 0.51 + 1e-5).all()


@pytest.mark.parametrize(("classes", "k"), [(2, 1), (2, 2), (10, 3), (10, 10)])
@given(data=st.data())
def test_topk_keeps_listed_log_probabilities_and_tail_mass(classes, k, data):
    logits = data.draw(logits_strategy(classes))
    labels = round_trip(f"topk:{k}", logits)
    truth = log_softmax64(logits, 1.0)
    listed = np.take_along_axis(truth, labels.ids, axis=1)
    assert (np.sort(truth, axis=1)[:, ::-1][:, :k] == listed).all(), "the K likeliest, descending"
    finite = np.isfinite(listed)
    np.testing.assert_allclose(labels.values[finite], listed[finite], rtol=2**-10, atol=1e-5)
    unlisted = np.ones_like(truth, bool)
    np.put_along_axis(unlisted, labels.ids, values=False, axis=1)
    for index, temperature in enumerate(TEMPERATURES):
        with np.errstate(divide="ignore"):
            tail = np.logaddexp.reduce(np.where(unlisted, log_softmax64(logits, temperature), -np.inf), axis=1)
        there = np.isfinite(tail)
        assert (np.isneginf(labels.log_tail[:, index]) == ~there).all()
        np.testing.assert_allclose(labels.log_tail[there, index], tail[there], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("spec", ["topk:4", "topk:4:q8", "topk:10", "topk:10:q8"])
@given(logits=logits_strategy(10, bound=20.0))
def test_a_decoded_row_is_a_distribution_at_every_temperature(spec, logits):
    labels = round_trip(spec, logits)
    for temperature in TEMPERATURES:
        total = np.exp(labels.log_probs(temperature).astype(np.float64)).sum(axis=1)
        np.testing.assert_allclose(total, 1.0, atol=1e-5)


@given(logits_strategy(10, bound=20.0))
def test_listed_classes_are_exact_at_every_captured_temperature(logits):
    labels = round_trip("topk:4", logits)
    for temperature in TEMPERATURES:
        truth = np.take_along_axis(log_softmax64(logits, temperature), labels.ids, axis=1)
        finite = np.isfinite(truth)
        # float16 log-probabilities are off by up to 2^-11 relative, and T = 0.5 doubles that.
        np.testing.assert_allclose(labels.listed_log_probs(temperature)[finite], truth[finite], rtol=4e-3, atol=4e-3)


def test_the_tail_is_computed_over_the_complement_not_as_one_minus_the_sum():
    """One class at 40 nats above the rest: 1 - sum would be 0 in float32."""
    logits = np.zeros((1, 1000), np.float32)
    logits[0, 17] = 40.0
    labels = round_trip("topk:1", logits, temperatures=(1.0,))
    assert labels.log_tail[0, 0] == pytest.approx(np.log(999) - 40.0, abs=1e-4)


def test_two_hundred_thousand_classes():
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((8, 200_000))).astype(np.float32)
    labels = round_trip("topk:64", logits, temperatures=(1.0,))
    truth = log_softmax64(logits, 1.0)
    assert (labels.ids == np.argsort(-truth, axis=1, kind="stable")[:, :64]).all()
    assert labels.ids.max() > 2**16
    np.testing.assert_allclose(labels.values, np.take_along_axis(truth, labels.ids, axis=1), rtol=2**-10)


@pytest.mark.parametrize(
    ("classes", "width"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_ids_keep_their_width_at_its_edge(classes, width):
    logits = np.zeros((1, classes), np.float32)
    logits[0, classes - 1] = 9.0
    encoding = encodings.parse("topk:2", classes=classes)
    head = Head(encoding=encoding.spec, classes=classes)
    encoded = encoding.encode(torch.from_numpy(logits), head, np.arange(1))
    assert encoded.arrays["ids"].dtype == width
    assert encoding.decode(encoded.arrays, head).ids[0, 0] == classes - 1


def test_one_hot_rows_and_ties_list_the_lowest_ids_first():
    logits = np.full((2, 6), -np.inf, np.float32)
    logits[0, 4] = 3.0
    logits[1] = 1.0
    labels = round_trip("topk:3", logits)
    assert labels.ids[0, 0] == 4
    assert labels.values[0].tolist() == [0.0, -np.inf, -np.inf]
    assert np.isneginf(labels.log_tail[0]).all()
    assert (np.diff(labels.ids[1]) > 0).all()
    np.testing.assert_allclose(np.exp(labels.log_probs(1.0))[1], 1 / 6, rtol=1e-3)


def test_the_residual_is_the_sum_of_unlisted_probability_and_of_an_even_spread():
    rng = np.random.default_rng(1)
    logits = (2 * rng.standard_normal((50, 12))).astype(np.float32)
    encoding = encodings.parse("topk:3", classes=12)
    head = Head(encoding=encoding.spec, classes=12, temperatures=(1.0, 2.0))
    encoded = encoding.encode(torch.from_numpy(logits), head, np.arange(50), residual=True)
    for index, temperature in enumerate((1.0, 2.0)):
        p = np.exp(log_softmax64(logits, temperature))
        np.put_along_axis(p, encoded.arrays["ids"].astype(np.int64), 0.0, axis=1)
        np.testing.assert_allclose(encoded.residual[0, index], p.sum(axis=0), rtol=1e-5)
        even = np.where(p > 0, p.sum(axis=1, keepdims=True) * 12 / 9, 0.0)
        np.testing.assert_allclose(encoded.residual[1, index], even.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("spec", ["dense:f32", "dense:q8", "topk:2", "topk:2:q8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_name_their_row(spec, value):
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = value
    encoding = encodings.parse(spec, classes=4)
    with pytest.raises(InvalidLogits, match="row 101: 1 of 4 values are not finite"):
        encoding.encode(torch.from_numpy(logits), Head(encoding=spec, classes=4), np.array([100, 101, 102]))


def test_a_row_of_minus_infinity_is_refused():
    logits = torch.full((1, 4), -torch.inf)
    with pytest.raises(InvalidLogits, match="row 5"):
        encodings.parse("topk:2", classes=4).encode(logits, Head(encoding="topk:2", classes=4), np.array([5]))


def test_a_value_beyond_float16_is_an_error_that_says_so():
    logits = torch.tensor([[1.0, 1e5]])
    with pytest.raises(InvalidLogits, match=r"row 0: .* too large for f16\. Use encoding='dense:f32'"):
        encodings.parse("dense:f16", classes=2).encode(logits, Head(encoding="dense:f16", classes=2), np.array([0]))


@pytest.mark.parametrize(
    "spec", ["", "topk", "topk:0", "topk:-1", "topk:x", "topk:3:f64", "dense:f64", "zip", "topk:1:2:3"]
)
def test_invalid_specifications_are_refused(spec):
    with pytest.raises(InvalidArgument, match=r"encoding"):
        encodings.parse(spec, classes=10)


def test_k_above_the_classes_says_how_many_there_are():
    with pytest.raises(InvalidArgument, match=r"lists 11 classes per row, but there are 10; expected 1 to 10"):
        encodings.parse("topk:11", classes=10)


@pytest.mark.parametrize("spec", ["dense:f32", "dense:f16", "dense:bf16", "dense:q8", "topk:7:f16", "topk:7:q8"])
def test_a_specification_is_canonical(spec):
    assert encodings.parse(spec, classes=10).spec == spec


DAMAGE = {
    "an id past the classes": lambda a: a["ids"].__setitem__((1, 0), 250),
    "an id twice": lambda a: a["ids"].__setitem__((1, 1), a["ids"][1, 0]),
    "a log-probability above 0": lambda a: a["values"].__setitem__((1, 0), 0.5),
    "NaN": lambda a: a["values"].__setitem__((1, 1), np.nan),
    "a rising log-probability": lambda a: a["values"].__setitem__((1, 2), 0.0),
    "a tail above 1": lambda a: a["tail"].__setitem__((1, 0), 0.5),
    "a tail of NaN": lambda a: a["tail"].__setitem__((1, 0), np.nan),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_values_no_encoder_writes_are_found(damage):
    logits = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 10)).astype(np.float32))
    encoding = encodings.parse("topk:3", classes=10)
    head = Head(encoding=encoding.spec, classes=10)
    arrays = {name: array.copy() for name, array in encoding.encode(logits, head, np.arange(3)).arrays.items()}
    encoding.check(arrays, head)
    DAMAGE[damage](arrays)
    with pytest.raises(ValueError, match=r"."):
        encoding.check(arrays, head)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1), classes=st.integers(3, 40), scale=st.floats(0.1, 3), shift=st.floats(0, 2),
    spec=st.sampled_from(["topk:2:f16", "adaptive:0.2:f16"]),
)  # fmt: skip
def test_the_tail_prior_is_at_least_as_good_as_an_even_spread(seed, classes, scale, shift, spec):
    """On the rows it is made of, but for the uniform share that is mixed in."""
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((60, classes)) + shift * rng.standard_normal(classes)).astype(np.float32)
    encoding = encodings.parse(spec, classes=classes)
    head = Head(encoding=encoding.spec, classes=classes)
    encoded = encoding.encode(torch.from_numpy(logits), head, np.arange(60), residual=True)
    prior = tail.tail_prior([encoded.residual], classes)
    p = np.exp(log_softmax64(logits, 1.0))
    calibrated, uniform = (
        (p * (np.log(p) - encoding.decode(encoded.arrays, replace(head, tail=model), prior).log_probs())).sum() / 60
        for model in ("calibrated", "uniform")
    )
    assert calibrated <= uniform - np.log(1 - tail.UNIFORM_SHARE) + 1e-4


@pytest.mark.parametrize(
    ("classes", "temperatures", "kind", "spec"),
    [
        (64, 1, "classes", "dense:f16"), (65, 1, "classes", "topk:32:f16"), (4095, 2, "classes", "topk:32:f16"),
        (4096, 1, "classes", "threshold:0.05:43:dither"), (300_000, 2, "classes", "adaptive:0.005:d4"),
        (64, 1, "tokens", "dense:f16"), (65, 1, "tokens", "threshold:0.05:43:dither"),
        (65, 2, "tokens", "adaptive:0.005:d4"),
        (2, 1, "pixels", "adaptive:0.01:d4"), (150, 2, "pixels", "adaptive:0.01:d4"),
    ],
)  # fmt: skip
def test_the_default_follows_classes_temperatures_and_kind(classes, temperatures, kind, spec):
    actual = encodings.default(classes, temperatures, kind)
    assert actual.spec == spec
    assert encodings.parse(spec, classes=classes) == actual


@settings(max_examples=60)
@given(dtype=st.sampled_from(["d2", "d4", "d8", "d16"]), mass=st.floats(2**-14, 0.9999))
def test_rounding_a_tail_costs_a_sixth_of_the_kl_of_the_steps(dtype, mass):
    """The KL of two outcomes, listed and not, on average over masses near ``mass``."""
    masses = mass * np.exp(np.linspace(-0.5, 0.0, 4097))
    log_probs = LogProbs(dtype)
    stored = log_probs.rounded_tail(torch.from_numpy(np.log(masses)).float()).double().numpy()
    kl = masses * (np.log(masses) - stored) + (1 - masses) * (np.log1p(-masses) - np.log(-np.expm1(stored)))
    assert kl.mean() < 1.1 / log_probs.steps_per_nat**2 / 24 / 6
    mantissa = np.frexp(stored[stored < -(2.0**-14)])[0] * 4 * log_probs.steps_per_nat
    np.testing.assert_array_equal(mantissa, np.rint(mantissa))


@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 30), classes=st.sampled_from([9, 500, 2**20, 2**32 - 1]),
    repeat=st.booleans(),
)  # fmt: skip
def test_a_class_is_refused_only_if_one_row_lists_it_twice(seed, rows, classes, repeat):
    """Ids of few classes are marked, ids of many are sorted, and neighbouring rows may list the same class."""
    rng = np.random.default_rng(seed)
    listed = [np.unique(rng.integers(0, classes, rng.integers(0, 9))) for _ in range(rows)]
    if repeat:
        row = int(rng.integers(0, rows))
        listed[row] = np.concatenate([[classes - 1], listed[row], [classes - 1]])
    ids, counts = np.concatenate(listed).astype(np.uint32), np.array([len(row) for row in listed], np.uint16)
    if repeat:
        with pytest.raises(ValueError, match="listed twice in one row"):
            check_distinct(ids, counts)
    else:
        check_distinct(ids, counts)
