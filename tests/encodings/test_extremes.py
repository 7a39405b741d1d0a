"""Logits as far as float32 goes, ties, masks, one class, no rows, 300,000 classes: every encoding, no warning."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels import encodings
from softlabels.encodings import Codebook
from softlabels.errors import InvalidLogits
from softlabels.fidelity import measure
from softlabels.labels import Head, SparseLabels
from tests.encodings.specs import with_examples

LISTED = ["topk:1:f16", "topk:3:q8", "topk:3:d16", "adaptive:0.01:f16", "adaptive:0.01:q8", "adaptive:1:d2",
          "adaptive:2e-05:d4", "topk:2:d4:3", "adaptive:0.1:f16:3"]  # fmt: skip
SAMPLED = ["sampled:5", "sampled:5:0.5", "sampled:5:4", "threshold:0.9", "threshold:0.1", "threshold:0.001"]
COUNTS = ["counts:9:0.01:3", "counts:9:0.01:3:excess", "counts:9:0:3", "counts:9:0:3:dither", "counts:255:0.001:3"]
SPECS = with_examples(["dense:f32", "dense:bf16", "dense:q8", *LISTED, *SAMPLED, *COUNTS])
TOO_WIDE = {
    ("dense:q8", "all of float32"): "row [0-3]: its values span .* Use encoding='dense:f32'",
    ("dense:bf16", "masked by the least number"): "row 0: .* too large for bf16. Use encoding='dense:f32'$",
}
"""Message by encoding and kind of logits that it cannot hold."""
MASK = float(np.finfo(np.float32).min)
"""What many models add where a class is ruled out."""


def book(encoding, temperatures, classes):
    if encoding.priors == 1:
        return None
    priors = np.random.default_rng(0).dirichlet(np.ones(classes), (len(temperatures), encoding.priors)) + 1e-9
    return Codebook((priors / priors.sum(axis=-1, keepdims=True)).astype(np.float32))


def labels_of(spec, logits, temperatures=(1.0,)):
    """Encode, check as readers do, decode; logits of more than two axes are those of pixels."""
    classes, shape = logits.shape[-1], logits.shape[1:-1]
    encoding = encodings.parse(spec, classes=classes)
    one = not encoding.has_tail or spec in COUNTS
    temperatures_used = temperatures[:1] if one else temperatures
    codebook = book(encoding, temperatures_used, classes)
    head = Head(
        encoding=encoding.spec, classes=classes, temperatures=temperatures_used, shape=tuple(shape),
        kind="pixels" if shape else "classes", codebook=None if codebook is None else "0" * 64,
    )  # fmt: skip
    encoded = encoding.encode(logits, head, np.arange(len(logits)), residual=encoding.has_tail, codebook=codebook)
    encoding.check(encoded.arrays, head)
    return (
        encoding.decode(encoded.arrays, head, None if codebook is None else codebook.priors),
        encoded,
        temperatures_used,
    )


def log_softmax64(logits, temperature):
    scaled = logits.double() / temperature
    return (scaled - scaled.logsumexp(dim=1, keepdim=True)).numpy()


def extreme_logits(kind, seed, classes):
    noise = torch.randn(4, classes, generator=torch.Generator().manual_seed(seed))
    masked = torch.rand(4, classes, generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    masked[:, seed % classes] = False
    return {
        "far below 0": 3 * noise - 10_000,
        "far above 0": 3 * noise + 10_000,
        "flat, far below 0": 1e-3 * noise - 10_000,
        "spread out": 10_000 * noise,
        "all of float32": 1e38 * noise.clamp(-3, 3),
        "ties": noise.round(),
        "all equal": torch.zeros(4, classes),
        "ruled out": (3 * noise - 1000).masked_fill(masked, -torch.inf),
        "masked by the least number": (3 * noise).masked_fill(masked, MASK),
        "one-hot": torch.full((4, classes), -torch.inf).index_fill(1, torch.tensor([seed % classes]), -500.0),
        "bfloat16": (4 * noise).bfloat16(),
        "float16": (4 * noise).half(),
    }[kind]


KINDS = ["far below 0", "far above 0", "flat, far below 0", "spread out", "all of float32", "ties", "all equal",
         "ruled out", "masked by the least number", "one-hot", "bfloat16", "float16"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**20), classes=st.sampled_from([3, 50, 257]))
def test_what_is_listed_and_what_is_left_are_those_of_float64(kind, seed, classes):
    logits, temperatures = extreme_logits(kind, seed, classes), (1.0, 0.25, 4.0)
    for spec in LISTED:
        labels, encoded, _ = labels_of(spec, logits, temperatures)
        is_listed = np.isfinite(labels.values)
        mask = np.zeros(logits.shape, bool)
        mask[np.nonzero(is_listed)[0], labels.ids[is_listed]] = True
        for index, temperature in enumerate(temperatures):
            p = np.exp(log_softmax64(logits, temperature))
            unlisted = np.where(mask, 0.0, p).sum(axis=1)
            # float16 holds a tail to 2^-11 of itself and to 6e-8, and dN to 1 / 4N of itself.
            steps = next((int(option[1:]) for option in spec.split(":") if option[0] == "d"), 125)
            relative = np.expm1((np.abs(np.log(np.maximum(unlisted, 1e-9))) + 1) / (4 * steps))
            np.testing.assert_array_less(
                np.abs(np.exp(labels.log_tail[:, index]) - unlisted), unlisted * relative + 1e-6
            )
            assert encoded.residual.shape == (2, 3, classes)
            expected = np.where(mask, 0.0, p).sum(axis=0)
            np.testing.assert_allclose(encoded.residual[0, index], expected, rtol=2e-4, atol=1e-6)
            even = np.where(mask, 0.0, (unlisted * classes / np.maximum(classes - mask.sum(axis=1), 1))[:, None]).sum(
                axis=0
            )
            np.testing.assert_allclose(encoded.residual[1, index], even, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_every_fidelity_is_a_finite_number(spec, kind):
    logits = extreme_logits(kind, 5, 50)
    if (spec, kind) in TOO_WIDE:
        with pytest.raises(InvalidLogits, match=TOO_WIDE[spec, kind]):
            labels_of(spec, logits)
        return
    labels, _, temperatures_used = labels_of(spec, logits, (1.0, 2.0))
    fidelity = measure(logits.float().numpy(), labels, temperatures_used).to_json()
    assert np.isfinite([*fidelity.pop("kl").values(), *fidelity.values()]).all()
    assert 0 <= fidelity["top1"] <= 1
    if isinstance(labels, SparseLabels):
        assert labels.ids.max() < 50


@pytest.mark.parametrize("spec", SPECS)
def test_extreme_pixels_are_labelled_as_extreme_rows_are(spec):
    """The same items as images of 2 x 2 pixels: equal labels, or for draws finite ones; errors name the image."""
    for kind in KINDS:
        items = torch.cat([extreme_logits(kind, seed, 50) for seed in (5, 6)])
        images = items.reshape(2, 2, 2, 50)
        if (spec, kind) in TOO_WIDE:
            with pytest.raises(InvalidLogits, match=TOO_WIDE[spec, kind]):
                labels_of(spec, images)
            continue
        labels, encoded, temperatures = labels_of(spec, images, (1.0, 2.0))
        assert encoded.residual is None or encoded.residual.shape == (2, len(temperatures), 50)
        fidelity = measure(images.float().numpy(), labels, temperatures).to_json()
        assert np.isfinite([*fidelity.pop("kl").values(), *fidelity.values()]).all(), kind
        if spec in SAMPLED + COUNTS:  # whose draws depend on row and position
            continue
        rows, _, _ = labels_of(spec, items, (1.0, 2.0))
        for temperature in temperatures:
            np.testing.assert_array_equal(
                labels.log_probs(temperature).reshape(8, 50), rows.log_probs(temperature), err_msg=kind
            )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=["classes", "pixels"])
def test_no_rows_are_no_rows(spec, shape):
    labels, encoded, _ = labels_of(spec, torch.zeros(0, *shape, 50), (1.0, 2.0))
    assert len(labels) == 0
    assert all(len(array) == 0 for array in encoded.arrays.values())


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith(("topk:3", "topk:2"))])
@pytest.mark.parametrize("value", [-5000.0, 0.0, 5000.0])
@pytest.mark.parametrize("shape", [(3, 1), (3, 2, 2, 1)], ids=["classes", "pixels"])
def test_one_class_has_all_the_probability(spec, value, shape):
    labels, encoded, _ = labels_of(spec, torch.full(shape, value))
    np.testing.assert_allclose(np.exp(labels.log_probs()), 1.0, rtol=1e-6)
    assert encoded.residual is None or (encoded.residual == 0).all()


@pytest.mark.parametrize("spec", ["topk:1:f16", "topk:3:d4", "adaptive:0.01:f16", "threshold:0.001", "sampled:5"])
def test_three_hundred_thousand_classes_without_an_opinion(spec):
    """The listed classes have 3e-6 of the mass, less than a step of a logsumexp around -10,000."""
    logits = 1e-3 * torch.randn(2, 300_000, generator=torch.Generator().manual_seed(0)) - 10_000
    labels, encoded, temperatures_used = labels_of(spec, logits, (1.0, 2.0))
    assert encoded.arrays["ids"].dtype == np.uint32
    fidelity = measure(logits.numpy(), labels, temperatures_used)
    if isinstance(labels, SparseLabels) and not labels.unbiased:
        truth = np.take_along_axis(log_softmax64(logits, 1.0), labels.ids, axis=1)
        np.testing.assert_allclose(labels.listed_log_probs(), truth, atol=0.02)
        assert max(fidelity.kl.values()) < 1e-3, "a flat tail is what the uniform prior says"
    else:
        assert np.exp(labels.values).sum(axis=1) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("spec", ["dense:f16", "topk:2", "adaptive:0.1", "sampled:3", "threshold:0.1"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_name_their_row(spec, value):
    logits = torch.zeros(3, 8)
    logits[1, 2] = value
    encoding = encodings.parse(spec, classes=8)
    with pytest.raises(InvalidLogits, match="row 101: 1 of 8 values are not finite"):
        encoding.encode(logits, Head(encoding=encoding.spec, classes=8), np.arange(100, 103))


@pytest.mark.parametrize("spec", ["adaptive:0.01:f16", "threshold:0.01", "sampled:40000"])
def test_a_forged_row_cannot_ask_for_terabytes(spec):
    """70,000 rows are a few hundred kilobytes, padded to the one of 40,000 classes they are 20 gigabytes."""
    encoding = encodings.parse(spec, classes=300_000)
    head = Head(encoding=encoding.spec, classes=300_000)
    counts = np.ones(70_000, np.uint16)
    counts[7] = 40_000
    total = int(counts.sum(dtype=np.int64))
    arrays = {
        name: counts
        if name == "count"
        else np.zeros((total if column.per else len(counts), *column.shape), column.dtype)
        for name, column in encoding.columns(head).items()
    }
    arrays["ids"][:] = np.concatenate([np.zeros(7), np.arange(40_000), np.zeros(total - 40_007)])
    if "draws" in arrays:
        arrays["draws"][:] = np.where(np.arange(total) - 7 < 0, 40_000, 1)
        arrays["draws"][40_007:] = 40_000
    with pytest.raises(ValueError, match="70,000 rows of up to 40,000 classes, too many"):
        encoding.check(arrays, head)
