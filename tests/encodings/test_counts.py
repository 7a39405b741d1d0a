"""``counts``: draws that are right on average above the floor, as ranks under the row's codeword."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import softlabels as sl
from softlabels import encodings, rng
from softlabels.encodings import Codebook, codebook
from softlabels.encodings.codebook import classes_by_rank
from softlabels.encodings.families.counts import MAX_DITHERED
from softlabels.errors import InvalidArgument
from softlabels.labels import Head

GOLDEN = Path(__file__).parent.parent / "store" / "golden"


def codebook_of(classes, priors, seed=0):
    """Random codewords, some classes of equal probability."""
    values = np.random.default_rng(seed).gamma(0.3, size=(1, priors, classes)) + 1e-6
    values[..., : classes // 4] = 1e-6
    return Codebook((values / values.sum(axis=-1, keepdims=True)).astype(np.float32))


def logits_of(seed, rows, classes, scale):
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def share_of(p, pi, floor):
    """Share of the codeword under all classes that leaves excesses which sum to the rest, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        total = middle + np.maximum(p - middle * pi, 0)[p >= floor].sum()
        low, high = (low, middle) if total >= 1 else (middle, high)
    return high


def expected_draws(p, pi, draws, floor, u, *, excess):
    """Counts by definition, in float64: class by class, how many of u + 1, u + 2, ... over N its interval holds."""
    order = np.argsort(-p, kind="stable") if floor else np.arange(len(p))
    drawn_from = np.where(p >= floor, np.maximum(p - (share_of(p, pi, floor) if excess else 0) * pi, 0), 0)
    crossed = np.floor(draws * np.cumsum(drawn_from[order]) + u)
    counts = np.zeros(len(p), np.int64)
    counts[order] = np.diff(crossed, prepend=0)
    return counts


@pytest.mark.parametrize("options", ["0:5", "0.004:5", "0.004:5:excess"])
@pytest.mark.parametrize("classes", [40, 255, 300, 70_000])
def test_counts_are_those_of_their_definition(classes, options):
    """Rounding of float32 sums may move a draw to a neighbour; hardly any does."""
    encoding = encodings.parse(f"counts:30:{options}", classes=classes)
    head, book = Head(encoding=encoding.spec, classes=classes), codebook_of(classes, 5)
    logits = logits_of(1, 20, classes, 2.5)
    words = rng.words(3, np.arange(20))
    arrays = encoding.encode(logits, head, np.arange(20), words=words, codebook=book).arrays
    encoding.check(arrays, head)
    labels = encoding.decode(arrays, head, book.priors)
    p = logits.double().softmax(dim=-1).numpy()
    u = rng.uniforms(words, np.zeros(1, np.int64))
    moved = 0
    for row in range(20):
        pi = book.priors[0, arrays["prior"][row]].astype(np.float64)
        expected = expected_draws(
            p[row], pi, 30, encoding.floor, u[row], excess=encoding.excess
        )  # fmt: skip
        drawn = np.zeros(classes, np.int64)
        is_entry = np.isfinite(labels.values[row])
        ids, weights = labels.ids[row][is_entry], np.exp(labels.values[row][is_entry])
        if encoding.spec.endswith("excess"):
            weights -= np.exp(labels.log_tail[row, 0]) / (1 - pi[ids].sum()) * pi[ids]
        drawn[ids] = np.rint(30 * weights)
        moved += np.abs(drawn - expected).sum() if expected.sum() else 0
        nearest = (p[row] * np.log(book.priors[0].astype(np.float64))).sum(axis=1)
        assert nearest[arrays["prior"][row]] == pytest.approx(nearest.max(), rel=1e-5)
    assert moved <= 4


@pytest.mark.parametrize(
    ("spec", "temperature"),
    [
        ("counts:10:0.02:3:excess", 1.0),
        ("counts:10:0.02:3:excess", 2.0),
        ("counts:10:0.02:3", 1.0),
        ("counts:7:0:3", 1.0),
    ],
)
def test_the_mean_of_the_labels_is_the_distribution_above_the_floor(spec, temperature):
    """Of classes above the floor, drawn or not, it is p, or the codeword's share where that is more.

    The first rule has that mean for the weights of listed classes alone.
    """
    encoding = encodings.parse(spec, classes=60)
    head = Head(encoding=encoding.spec, classes=60, temperatures=(temperature,))
    logits = logits_of(0, 1, 60, 2.0)
    rows = np.arange(20_000)
    book = codebook_of(60, 3)
    arrays = encoding.encode(
        logits.expand(len(rows), 60).contiguous(), head, rows, words=rng.words(1, rows), codebook=book
    ).arrays
    labels = encoding.decode(arrays, head, book.priors)
    drawn = np.exp(labels.log_probs(temperature).astype(np.float64))
    if not encoding.excess:
        is_listed = np.zeros(drawn.shape, bool)
        row, column = np.nonzero(np.isfinite(labels.values))
        is_listed[row, labels.ids[row, column]] = True
        drawn[~is_listed] = 0
    p = (logits.double() / temperature).softmax(dim=-1)[0].numpy()
    is_above = p >= encoding.floor
    if encoding.spec.endswith("excess"):
        pi = book.priors[0, arrays["prior"][0]].astype(np.float64)
        p = np.where(is_above, np.maximum(p, share_of(p, pi, encoding.floor) * pi), p)
    spread = drawn.std(axis=0) / np.sqrt(len(rows))
    assert (np.abs(drawn.mean(axis=0) - p) <= 5 * spread + 1e-6)[is_above].all()
    below = drawn[:, ~is_above].sum(axis=1).mean()
    assert below == pytest.approx(1 - p[is_above].sum() if encoding.excess else 0, abs=0.005)
    np.testing.assert_allclose(np.exp(labels.log_probs(temperature).astype(np.float64)).sum(axis=1), 1, atol=1e-5)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**20), classes=st.sampled_from([2, 40, 257, 600, 66_000]), scale=st.floats(0, 9),
    draws=st.integers(1, 255),
    options=st.sampled_from(["0:4", "0:4:dither", "0.001:4", "0.05:4", "0.001:4:excess", "0.05:4:excess"]),
)  # fmt: skip
def test_what_is_encoded_is_what_is_decoded(seed, classes, scale, draws, options):
    """Ids come back from ranks, gaps and blocks, and probabilities sum to 1 (dithered: on average), widened or not."""
    draws = min(draws, MAX_DITHERED) if options.endswith("dither") else draws
    encoding = encodings.parse(f"counts:{draws}:{options}", classes=classes)
    head, book = Head(encoding=encoding.spec, classes=classes), codebook_of(classes, 4, seed)
    arrays = encoding.encode(logits_of(seed, 3, classes, scale), head, np.arange(3), codebook=book).arrays
    assert {name: array.dtype for name, array in arrays.items()} == {
        name: np.dtype(column.dtype) for name, column in encoding.columns(head).items()
    }
    encoding.check(arrays, head)
    labels = encoding.decode(arrays, head, book.priors)
    narrow = encoding.decode(arrays, head, book.priors, widen=False)
    np.testing.assert_array_equal(labels.ids, narrow.ids)
    np.testing.assert_array_equal(labels.values, narrow.values)
    by_rank = np.argsort(-book.priors[0], axis=1, kind="stable")
    near = far = 0
    for row in range(3):
        ranks = np.cumsum(arrays["near_gaps"][near : near + int(arrays["near"][row])].astype(int) + 1) - 1
        blocks = np.cumsum(arrays["far_blocks"][far : far + int(arrays["far"][row])].astype(int))
        far_ranks = 256 + 256 * blocks + arrays["far_offsets"][far : far + int(arrays["far"][row])]
        near, far = near + int(arrays["near"][row]), far + int(arrays["far"][row])
        listed = set(by_rank[arrays["prior"][row]][np.concatenate([ranks, far_ranks]).astype(int)].tolist())
        is_entry = np.isfinite(labels.values[row])
        expected = listed or (set() if encoding.dithered else {int(by_rank[arrays["prior"][row]][0])})
        assert set(labels.ids[row][is_entry].tolist()) == expected
    if encoding.dithered:
        assert (labels.dither.step, labels.dither.offsets.tolist()) == (1 / draws, arrays["dither"].tolist())
        return
    np.testing.assert_allclose(np.exp(labels.log_probs().astype(np.float64)).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("rule", ["", ":excess"])
def test_a_flat_row_is_the_prior_of_its_codeword(rule):
    """No class reaches the floor, so no draw is made."""
    encoding = encodings.parse(f"counts:4:0.5:2{rule}", classes=10)
    head, book = Head(encoding=encoding.spec, classes=10), codebook_of(10, 2)
    arrays = encoding.encode(torch.zeros(1, 10), head, np.arange(1), codebook=book).arrays
    assert (arrays["near"].item(), arrays["far"].item()) == (0, 0)
    p = np.exp(encoding.decode(arrays, head, book.priors).log_probs())
    np.testing.assert_allclose(p[0], book.priors[0, arrays["prior"][0]], rtol=1e-5)


def test_classes_by_rank_go_with_their_codebook():
    priors = codebook_of(50, 2).priors
    by_rank = classes_by_rank(priors)
    assert classes_by_rank(priors) is by_rank
    np.testing.assert_array_equal(by_rank.classes, np.argsort(-priors[0], axis=1, kind="stable"))
    np.testing.assert_array_equal(by_rank.probabilities, -np.sort(-priors[0], axis=1))
    number, entries = id(priors), len(codebook._BY_RANK)
    del priors
    assert number not in codebook._BY_RANK
    assert len(codebook._BY_RANK) == entries - 1


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("counts:20", "counts:20:0:64:dither"),
        ("counts:12:0.01", "counts:12:0.01:64:excess"),
        ("counts:20:0", "counts:20:0:64:dither"),
        ("counts:20:0:8", "counts:20:0:8"),
        ("counts:12:0.01:8", "counts:12:0.01:8"),
        ("counts:12:0.01:8:excess", "counts:12:0.01:8:excess"),
    ],
)
def test_options_have_defaults(spec, canonical):
    assert encodings.parse(spec, classes=1000).spec == canonical


@pytest.mark.parametrize(("floor", "rule"), [("0", "dither"), ("0.05", "excess")])
def test_a_new_store_follows_the_current_rule(tmp_path, floor, rule):
    head = Head(encoding=f"counts:9:{floor}:4", classes=30)
    with sl.create(tmp_path / "new", heads={"logits": head}, teacher="t") as writer:
        writer.append(list(range(40)), {"logits": logits_of(0, 40, 30, 2.0)})
    assert sl.open(tmp_path / "new").heads["logits"].encoding == f"counts:9:{floor}:4:{rule}"


@pytest.mark.parametrize(
    ("name", "encoding", "ragged"),
    [
        ("counts-zarr", "counts:20:0.02:3", True),
        ("counts-zarr", "counts:20:0.02:3:excess", True),
        ("unbiased-zarr", "counts:30:0:2:dither", False),
        ("threshold-zarr", "threshold:0.05", False),
    ],
)
def test_a_store_of_the_first_rule_goes_on_by_it(tmp_path, name, encoding, ragged):
    """Whatever the rule of the specification that it is asked for with."""
    shutil.copytree(GOLDEN / name, tmp_path / "old")
    before = sl.open(tmp_path / "old").heads["logits"]
    options = {"kind": "tokens", "shape": (None,)} if ragged else {"temperatures": before.temperatures}
    head = Head(encoding=encoding, classes=300, **options)
    with sl.create(tmp_path / "old", heads={"logits": head}, teacher="golden", unit_rows=4) as writer:
        logits = logits_of(1, 3, 300, 2.0)
        assert writer.append([100], {"logits": [logits] if ragged else logits[:1]}) == 1
    store = sl.open(tmp_path / "old")
    assert store.heads["logits"].encoding == before.encoding
    assert len(store.read([store.rows - 1])) == 1


@pytest.mark.parametrize("spec", ["counts", "counts:0", "counts:256", "counts:5:1", "counts:5:-1", "counts:5:0.1:1",
                                  "counts:5:0.1:257", "counts:5:nan", "counts:5:0.1:4:4",
                                  "counts:5:0:4:excess", "counts:5:0.1:4:dither",
                                  "counts:201", "counts:201:0:4:dither"])  # fmt: skip
def test_options_out_of_range_are_refused(spec):
    with pytest.raises(InvalidArgument, match="counts"):
        encodings.parse(spec, classes=1000)


def test_several_temperatures_are_refused():
    encoding = encodings.parse("counts:5", classes=50)
    with pytest.raises(InvalidArgument, match="one temperature"):
        encoding.columns(Head(encoding=encoding.spec, classes=50, temperatures=(1.0, 2.0)))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda a: a["far_offsets"].__setitem__(slice(None), 255), "classes of a row that do not ascend|rank"),
        (lambda a: a["far_blocks"].__setitem__(0, 5), "a class of rank"),
        (lambda a: a["prior"].__setitem__(0, 9), "codeword 9"),
    ],
)
def test_far_entries_that_no_encoder_writes_are_refused(damage, problem):
    encoding = encodings.parse("counts:200:0:2:dither", classes=700)
    head, book = Head(encoding=encoding.spec, classes=700), codebook_of(700, 2)
    arrays = encoding.encode(logits_of(0, 4, 700, 0.5), head, np.arange(4), codebook=book).arrays
    damage(arrays)
    with pytest.raises(ValueError, match=problem):
        encoding.check(arrays, head)
