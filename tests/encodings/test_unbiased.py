"""``sampled`` and ``threshold``: right on average, class by class, at the rate that their variance says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels import encodings, rng
from softlabels.encodings.systematic import crossings, cumulate
from softlabels.errors import InvalidArgument
from softlabels.labels import Head

SPECS = ["sampled:8", "sampled:20:0.7", "threshold:0.3", "threshold:0.05", "threshold:0.01:9", "threshold:0.2:3"]


def one_row(classes=60, seed=0, temperature=1.0):
    """Logits of a row and its probabilities; some classes are ruled out."""
    logits = (2.5 * np.random.default_rng(seed).standard_normal(classes)).astype(np.float32)
    logits[5:9] = -np.inf
    scaled = logits.astype(np.float64) / temperature
    return logits, np.exp(scaled - np.logaddexp.reduce(scaled))


def many_draws(spec, logits, count, *, temperature=1.0, seed=0):
    """(count, C) reconstructions of one row, each drawn anew."""
    encoding = encodings.parse(spec, classes=len(logits))
    head = Head(encoding=encoding.spec, classes=len(logits), temperatures=(temperature,))
    rows = np.arange(count)
    numbers = {"words": rng.words(seed, rows), "counters": rng.counters(seed, rows)}
    encoded = encoding.encode(torch.from_numpy(np.tile(logits, (count, 1))), head, rows, **numbers)
    encoding.check(encoded.arrays, head)
    return np.exp(encoding.decode(encoded.arrays, head).log_probs(temperature).astype(np.float64))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("spec", SPECS)
def test_the_mean_over_draws_is_the_distribution(spec, temperature):
    """Each class within 5 standard errors of p, and the standard error falls as the variance says."""
    logits, p = one_row(temperature=temperature)
    drawn_p = many_draws(spec, logits, 20_000, temperature=temperature)
    error = np.abs(drawn_p.mean(axis=0) - p)
    spread = drawn_p.std(axis=0) / np.sqrt(len(drawn_p))
    # Successive offsets draw a class of probability p a whole number of times, which may be 0 for all of them.
    assert (error <= 5 * spread + 1 / len(drawn_p)).all(), (error / (spread + 1e-9)).max()
    assert (drawn_p[:, 5:9] == 0).all(), "what the teacher ruled out is never drawn"
    halves = [np.abs(drawn_p[: len(drawn_p) // n].mean(axis=0) - p).sum() for n in (400, 1)]
    assert halves[1] < halves[0] / 5, "400 times the draws have about a twentieth of the error"


@pytest.mark.parametrize("tau", [0.3, 0.05, 0.01])
def test_threshold_has_the_variance_of_its_definition(tau):
    """By the first rule, of systematic draws, whose number hardly varies."""
    logits, p = one_row()
    drawn_p = many_draws(f"threshold:{tau}:255", logits, 40_000)
    small = p < tau
    expected = (p * (tau - p))[small].sum()
    assert ((drawn_p - p) ** 2)[:, small].sum(axis=1).mean() == pytest.approx(expected, rel=0.05)
    rounding = 1 - tau ** (1 / 255)
    assert (np.abs(drawn_p.sum(axis=1) - 1) <= tau + rounding).all(), "a row sums to within tau and rounding of 1"
    drawn = (drawn_p[:, small] > 0).sum(axis=1)
    assert set(drawn.tolist()) <= {int(np.floor(p[small].sum() / tau)), int(np.ceil(p[small].sum() / tau))}


def test_threshold_needs_fewer_ids_than_rs_kd_at_equal_error():
    logits = (3.5 * np.random.default_rng(3).standard_normal(2000)).astype(np.float32)
    p = np.exp(logits.astype(float) - np.logaddexp.reduce(logits.astype(float)))

    def cost(spec):
        drawn_p = many_draws(spec, logits, 1500)
        return (drawn_p > 0).sum(axis=1).mean(), ((drawn_p - p) ** 2).sum(axis=1).mean()

    ids, error = cost("sampled:60")
    costs = [cost(f"threshold:{tau}") for tau in (0.06, 0.05, 0.04, 0.03, 0.02)]
    assert min(fewer for fewer, smaller in costs if smaller <= error) <= 0.6 * ids


def test_draws_do_not_depend_on_the_batch():
    logits = np.random.default_rng(1).standard_normal((50, 40)).astype(np.float32)
    for spec in SPECS:
        encoding = encodings.parse(spec, classes=40)
        head = Head(encoding=encoding.spec, classes=40)
        words = rng.words(7, np.arange(50))

        def encode(rows, encoding=encoding, head=head, words=words):
            arrays = encoding.encode(torch.from_numpy(logits[rows]), head, rows, words=words[rows]).arrays
            return encoding.decode(arrays, head).log_probs()

        at_once = encode(np.arange(50))
        in_batches = [encode(np.arange(start, min(start + 7, 50))) for start in range(0, 50, 7)]
        assert (at_once == np.concatenate(in_batches)).all()
        assert not (at_once == encoding.decode(
            encoding.encode(torch.from_numpy(logits), head, np.arange(50), words=rng.words(8, np.arange(50))).arrays,
            head,
        ).log_probs()).all(), "another seed draws anew"  # fmt: skip


def test_words_of_seeds_rows_positions_and_streams_differ():
    rows = np.arange(1000)
    words = np.concatenate([
        rng.words(seed, rows, positions, stream=stream)
        for seed in (0, 1, 2**63) for stream in (0, 1) for positions in (None, rows * 0, rows * 0 + 1)
    ])  # fmt: skip
    assert len(np.unique(words)) == len(words)
    uniform = rng.uniforms(words, np.zeros(1, np.int64))
    assert abs(uniform.mean() - 0.5) < 0.01
    assert uniform.min() >= 0
    assert uniform.max() < 1


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([1, 2, 127, 128, 129, 700]), zeros=st.floats(0, 0.95),
    count=st.integers(1, 9),
)  # fmt: skip
def test_crossings_are_those_of_a_plain_cumulated_sum(seed, classes, zeros, count):
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random((4, classes)) < zeros, 0, rng.random((4, classes))).astype(np.float32)
    weights[:, rng.integers(classes)] = 0.5
    targets = rng.random((4, count)) * weights.sum(axis=1, dtype=np.float64)[:, None]
    crossed = crossings(cumulate(torch.from_numpy(weights)), torch.from_numpy(targets)).numpy()
    cumulated = weights.astype(np.float64).cumsum(axis=1)
    for row in range(4):
        for column in range(count):
            expected = np.searchsorted(cumulated[row], targets[row, column])
            assert (
                abs(cumulated[row, crossed[row, column]] - targets[row, column]) < 1e-9
                or crossed[row, column] == expected
            )
            assert weights[row, crossed[row, column]] > 0


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([1, 127, 128, 129, 700]),
    least=st.sampled_from([0.5, 0.99]),
)  # fmt: skip
def test_weights_that_are_taken_out_are_all_those_of_the_least_weight(seed, classes, least):
    weights = np.random.default_rng(seed).random((4, classes)).astype(np.float32) ** 4
    rows, ids, taken, rest = cumulate(torch.from_numpy(weights.copy())).take(least)
    expected_rows, expected_ids = np.nonzero(weights >= least)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(taken, weights[rows, ids])
    below = cumulate(torch.from_numpy(np.where(weights < least, weights, 0)))
    assert torch.equal(rest.by_segment, below.by_segment)
    assert torch.equal(rest.sums, below.sums)
    assert torch.equal(rest.ends, below.ends)


def test_edges_of_a_crossing_land_on_classes_that_have_a_weight():
    weights = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    targets = torch.tensor([[0.0, 0.5, 0.5 + 1e-12, 1.0, 7.0]], dtype=torch.float64)
    assert crossings(cumulate(weights), targets).tolist() == [[1, 1, 3, 3, 3]]


def test_three_hundred_thousand_classes():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy((3 * rng.standard_normal((4, 300_000))).astype(np.float32))
    for spec in ("threshold:0.001", "sampled:64", "adaptive:0.0005"):
        encoding = encodings.parse(spec, classes=300_000)
        head = Head(encoding=encoding.spec, classes=300_000, kind="tokens", shape=(None,))
        arrays = encoding.encode(logits, head, np.arange(4)).arrays
        encoding.check(arrays, head)
        assert arrays["ids"].dtype == np.uint32
        assert arrays["ids"].max() > 2**17


def test_one_temperature_is_all_a_sample_holds_at():
    encoding = encodings.parse("threshold:0.1", classes=10)
    with pytest.raises(InvalidArgument, match=r"holds at the one temperature it is drawn at, got 1, 2"):
        encoding.columns(Head(encoding=encoding.spec, classes=10, temperatures=(1.0, 2.0)))


@pytest.mark.parametrize(
    "spec",
    ["threshold", "threshold:0", "threshold:1", "threshold:0.1:0", "threshold:0.1:256", "threshold:nan", "sampled:0",
     "sampled:70000", "sampled:5:0", "sampled:5:nan", "adaptive:0", "adaptive:2", "adaptive:0.1:f32", "topk:2:d3",
     "topk:2:f16:257", "threshold:1e-9"],
)  # fmt: skip
def test_invalid_specifications_are_refused_with_the_form_of_their_family(spec):
    with pytest.raises(InvalidArgument, match=rf"invalid '{spec}' .*; expected {spec.partition(':')[0]}:"):
        encodings.parse(spec, classes=10)


@pytest.mark.parametrize("spec", ["adaptive:0.0123:d4", "adaptive:0.5:q8:16", "sampled:50", "sampled:50:0.75",
                                  "threshold:0.05:43", "topk:3:d16:2"])  # fmt: skip
def test_a_specification_is_canonical(spec):
    assert encodings.parse(spec, classes=10).spec == spec


DAMAGE = {
    "threshold:0.05": {
        "twice": lambda a: a["ids"].__setitem__(1, a["ids"][0]),
        "class id 59": lambda a: a["ids"].__setitem__(0, 59),
        "more probabilities": lambda a: a["listed"].__setitem__(0, 1000),
        "a code above": lambda a: a["codes"].__setitem__(0, 255),
    },
    "sampled:8:0.5": {
        "8 draws": lambda a: a["draws"].__setitem__(0, 200),
        "not finite": lambda a: a["weights"].__setitem__(0, np.nan),
    },
}


@pytest.mark.parametrize(
    ("spec", "problem"), [(spec, problem) for spec, problems in DAMAGE.items() for problem in problems]
)
def test_values_no_encoder_writes_are_found(spec, problem):
    encoding = encodings.parse(spec, classes=50)
    head = Head(encoding=encoding.spec, classes=50)
    logits = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 50)).astype(np.float32))
    arrays = {name: array.copy() for name, array in encoding.encode(logits, head, np.arange(3)).arrays.items()}
    encoding.check(arrays, head)
    DAMAGE[spec][problem](arrays)
    with pytest.raises(ValueError, match=problem):
        encoding.check(arrays, head)
