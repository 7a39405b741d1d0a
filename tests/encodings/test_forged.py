"""Columns that somebody forged: they are refused, or every row of them decodes to a distribution."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels import encodings, losses
from softlabels.encodings import Codebook
from softlabels.encodings.dither import class_offsets, offsets_of
from softlabels.labels import DenseLabels, Head
from tests.encodings.specs import with_examples

CLASSES = 7
SPECS = with_examples([
    "dense:f32", "dense:f16", "dense:bf16", "dense:q8", "topk:3:f16", "topk:7:f16", "topk:3:q8", "topk:7:q8",
    "topk:7:d2", "topk:3:f16:4", "topk:3:d4:4", "adaptive:0.05:f16", "adaptive:0.05:q8:4",
    "adaptive:2e-05:d4", "sampled:5", "sampled:5:0.5", "sampled:300", "threshold:0.2",
    "threshold:0.05:3", "counts:5:0.1:4", "counts:5:0:4", "counts:5:0:4:dither",
])  # fmt: skip


def encoded(spec, seed=0, rows=3, shape=()):
    encoding = encodings.parse(spec, classes=CLASSES)
    temperatures = (1.0, 3.0) if encoding.has_tail and not spec.startswith("counts") else (1.0,)
    digest, book = None, None
    if encoding.priors > 1:
        priors = (
            np.random.default_rng(1)
            .dirichlet(np.ones(CLASSES), (len(temperatures), encoding.priors))
            .astype(np.float32)
            + 1e-6
        )
        digest, book = "0" * 64, Codebook(priors / priors.sum(axis=-1, keepdims=True))
    kind = "pixels" if shape else "classes"
    head = Head(
        encoding=encoding.spec, classes=CLASSES, kind=kind, shape=shape, temperatures=temperatures, codebook=digest
    )
    logits = 2 * torch.randn(rows, *shape, CLASSES, generator=torch.Generator().manual_seed(seed))
    arrays = encoding.encode(logits, head, np.arange(rows), codebook=book).arrays
    return encoding, head, arrays, None if book is None else book.priors


def mutate(arrays, rng):
    """Change a few bytes, or set an entry to an extreme of its type; counts keep their sum, as a store checks it."""
    changed = {name: array.copy() for name, array in arrays.items()}
    for _ in range(rng.integers(1, 4)):
        name = sorted(changed)[rng.integers(len(changed))]
        array = changed[name].reshape(-1)
        if not len(array):
            continue
        place = rng.integers(len(array))
        if name in {"count", "listed", "near", "far"}:
            other = rng.integers(len(array))
            moved = min(int(array[place]), int(rng.integers(0, 4)))
            array[place] -= moved
            array[other] += moved
        elif array.dtype.kind == "f" and rng.random() < 0.5:
            array[place] = rng.choice([0.0, -0.0, 5e-3, 1e-2, 2e-2, -1e-8, 60000.0, -60000.0, np.inf, -np.inf, np.nan])
        else:
            raw = array.view(np.uint8)
            raw[rng.integers(len(raw))] = rng.integers(256)
    return changed


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("shape", "mutants"), [((), 400), ((2, 2), 100)], ids=["classes", "pixels"])
def test_every_mutant_is_refused_or_a_distribution(spec, shape, mutants):
    encoding, head, arrays, prior = encoded(spec, shape=shape)
    rng = np.random.default_rng(7)
    student = torch.zeros(3, *shape, CLASSES)
    accepted = 0
    for _ in range(mutants):
        mutant = mutate(arrays, rng)
        try:
            encoding.check(mutant, head)
        except ValueError:
            continue
        accepted += 1
        labels = encoding.decode(mutant, head, prior)
        for temperature in head.temperatures:
            total = np.exp(labels.log_probs(temperature).astype(np.float64)).sum(axis=-1)
            if getattr(labels, "unbiased", False):
                assert np.isfinite(total).all()
            else:
                np.testing.assert_allclose(total, 1.0, atol=2e-3)
            assert total.shape == (3, *shape)
            assert torch.isfinite(losses.kl(student, labels, temperature=temperature))
        if not isinstance(labels, DenseLabels):
            assert labels.ids.max() < CLASSES
    assert accepted > mutants / 40, "mutants that change nothing essential are read"


@pytest.mark.parametrize("spec", ["topk:3:f16", "topk:3:d4", "adaptive:0.05:q8"])
@pytest.mark.parametrize("tail", ["calibrated", "uniform", "renormalize"])
@pytest.mark.parametrize("mass", [0.0, 1e-4, 1e-2])
def test_a_log_tail_mass_that_rounding_lifted_to_0_leaves_the_listed_classes_a_little(spec, tail, mass):
    encoding, head, arrays, _ = encoded(spec)
    arrays["tail"][:] = mass
    encoding.check(arrays, head)
    for widen in (True, False):
        labels = encoding.decode(arrays, replace(head, tail=tail), widen=widen)
        p = np.exp(labels.log_probs().astype(np.float64))
        np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-6)
        assert (np.take_along_axis(p, labels.ids.astype(np.int64), axis=1)[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("spec", "damage", "problem"),
    [
        ("topk:7:f16", lambda a: a["tail"].__setitem__(0, -0.1), "lists every class, and a tail mass above 0"),
        ("topk:3:f16", lambda a: a["tail"].__setitem__(0, 0.011), "NaN or above 1"),
        ("topk:3:f16:4", lambda a: a["prior"].__setitem__(0, 4), "tail prior 4, but there are 4"),
        ("sampled:5:0.5", lambda a: a["weights"].__setitem__(0, 1000), "not finite, or out of range"),
        ("counts:5:0.1:4", lambda a: a["prior"].__setitem__(0, 4), "codeword 4, but there are 4"),
        ("counts:5:0.1:4", lambda a: a["near_gaps"].__setitem__(0, 7), "a near class of rank"),
        ("counts:5:0.1:4", lambda a: a["near_draws"].__setitem__(0, 5), "does not hold 5 draws or fewer"),
        ("counts:5:0:4", lambda a: a["near_draws"].__setitem__(0, 1 + a["near_draws"][0]), "does not hold 5 draws"),
        ("counts:5:0:4:dither", lambda a: a["near_draws"].__setitem__(0, 5), "does not hold 5 draws"),
        ("threshold:0.2", lambda a: a["codes"].__setitem__(slice(None), 0), "would sum to above 1"),
        ("threshold:0.2:5", lambda a: a["codes"].__setitem__(slice(None), 0), "do not sum to 1"),
    ],
)
@pytest.mark.parametrize("shape", [(), (2, 2)], ids=["classes", "pixels"])
def test_a_row_that_is_no_distribution_is_refused(spec, damage, problem, shape):
    encoding, head, arrays, _ = encoded(spec, shape=shape)
    damage(arrays)
    with pytest.raises(ValueError, match=problem):
        encoding.check(arrays, head)


@pytest.mark.parametrize(
    "spec", ["threshold:0.2", "threshold:0.05", "threshold:0.001", "threshold:0.9:1", "sampled:9:4"]
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 100.0])
def test_what_an_encoder_writes_is_never_refused(spec, scale):
    encoding = encodings.parse(spec, classes=200)
    head = Head(encoding=encoding.spec, classes=200)
    logits = scale * torch.randn(300, 200, generator=torch.Generator().manual_seed(1))
    assert encoding.check(encoding.encode(logits, head, np.arange(300)).arrays, head) is None


def forged_draws(classes, tau, offset):
    """A row of ``threshold`` that lists all classes as drawn ones, and its head."""
    encoding = encodings.parse(f"threshold:{tau}", classes=classes)
    arrays = {
        "dither": np.array([offset], np.uint32), "count": np.array([classes], np.uint16),
        "ids": np.arange(classes, dtype=np.uint16), "listed": np.zeros(1, np.uint16), "codes": np.zeros(0, np.uint8),
    }  # fmt: skip
    return encoding, Head(encoding=encoding.spec, classes=classes), arrays


def test_drawn_classes_need_the_probability_by_which_their_offsets_reach_a_step():
    """65,535 drawn classes of 0.05 would weigh 3,277; those that this offset draws from a distribution are accepted."""
    encoding, head, arrays = forged_draws(65_535, 0.05, 12_345)
    with pytest.raises(ValueError, match="would sum to above 1"):
        encoding.check(arrays, head)
    least = 1 - class_offsets(arrays["dither"], arrays["ids"]) / 2**32
    drawn = np.argsort(least)[:1000]
    assert 0.05 * least[drawn].sum() < 1
    encoding.check(arrays | {"count": np.array([1000], np.uint16), "ids": drawn.astype(np.uint16)}, head)


def test_a_row_of_counts_lists_no_more_classes_than_an_encoder():
    encoding = encodings.parse("counts:9:0:2:dither", classes=70_000)
    head = Head(encoding=encoding.spec, classes=70_000)
    columns = encoding.columns(head)
    entries = {"near": 200, "far": 56}
    arrays = {name: np.zeros(entries.get(column.per, 1), column.dtype) for name, column in columns.items()}
    arrays |= {name: np.array([number], np.uint8) for name, number in entries.items()}
    arrays["far_offsets"] = np.arange(56, dtype=np.uint8)
    with pytest.raises(ValueError, match="a row of 256 classes, but there are at most 255"):
        encoding.check(arrays, head)
    arrays |= {"far": np.array([55], np.uint8)} | {
        name: arrays[name][:55] for name in ("far_blocks", "far_offsets", "far_draws")
    }
    encoding.check(arrays, head)


@settings(max_examples=40)
@given(
    tau=st.floats(2e-5, 0.99), levels=st.integers(1, 255), counter=st.integers(0, 2**32 - 1),
    classes=st.sampled_from([1, 2, 30, 5000]), excess=st.floats(0, 0.01), temperature=st.sampled_from([1.0, 3.0]),
)  # fmt: skip
def test_draws_of_the_least_probabilities_are_never_refused(tau, levels, counter, classes, excess, temperature):
    """All probability lies where it is rounded up: classes just reach a step, and listed ones just the threshold."""
    encoding = encodings.parse(f"threshold:{tau:g}:{levels}:dither", classes=classes)
    head = Head(encoding=encoding.spec, classes=classes, temperatures=(temperature,))
    counters = np.array([counter], np.uint32)
    least = encoding.tau * (1 - class_offsets(np.repeat(offsets_of(counters), classes), np.arange(classes)) / 2**32)
    order = np.argsort(least)
    p = np.zeros(classes)
    p[order] = np.where(np.cumsum(least[order]) <= 1, least[order] * (1 + excess), 0)
    p /= max(p.sum(), 1e-30)
    logits = torch.from_numpy(temperature * np.log(np.maximum(p, 1e-30)))[None]
    arrays = encoding.encode(logits, head, np.arange(1), counters=counters).arrays
    encoding.check(arrays, head)


def test_checking_draws_takes_a_few_bytes_of_memory_per_class():
    """Blocks of rows are checked one by one, so that a chunk of 64 MiB stays within the bounds of a reader."""
    rows, width = 16_384, 120
    encoding, head, row = forged_draws(width, 0.9, 0)
    arrays = {name: np.tile(array, rows) for name, array in row.items()}
    arrays["listed"][:], arrays["codes"] = 1, np.zeros(rows, np.uint8)
    tracemalloc.start()
    with pytest.raises(ValueError, match="would sum to above 1"):
        encoding.check(arrays, head)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * rows * width
