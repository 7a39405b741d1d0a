"""Every loss between distributions, for every encoding and tail model: value and gradient by the dense definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.labels import SparseLabels
from tests.losses import oracle

TAILS = ("calibrated", "uniform", "bucket", "renormalize")


def agree(actual, expected, leaf, reference):
    """A loss of ``leaf`` (float32) and its definition of ``reference`` (float64) have one value and one gradient."""
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5, abs=2e-6)
    actual.backward()
    expected.backward()
    scale = reference.grad.abs().max().clamp_min(0.05)
    torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-5, atol=1e-5 * scale.item())


def leaves(student):
    return student.float().requires_grad_(), student.float().double().requires_grad_()


CASES = {
    "kl": (losses.kl, oracle.kl, (*TAILS,), True),
    "cross_entropy": (losses.cross_entropy, oracle.cross_entropy, (*TAILS,), True),
    "reverse_kl": (losses.reverse_kl, oracle.reverse_kl, ("calibrated", "uniform", "bucket"), False),
    "jensen_shannon": (losses.jensen_shannon, oracle.jensen_shannon, (*TAILS,), False),
}
COMBINATIONS = [
    (name, spec, tail)
    for name, (_, _, tails, unbiased) in CASES.items()
    for spec in (*oracle.EXACT, *(oracle.UNBIASED if unbiased else ()))
    for tail in (tails if not spec.startswith("dense") and spec not in oracle.UNBIASED else tails[:1])
]


@pytest.mark.parametrize(("name", "spec", "tail"), COMBINATIONS)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6), classes=st.sampled_from([17, 300]), scale=st.floats(0.3, 6.0), index=st.integers(0, 1)
)
def test_values_and_gradients_are_the_dense_ones(  # noqa: PLR0917
    name, spec, tail, seed, classes, scale, index
):
    loss, definition, _, _ = CASES[name]
    labels, student = oracle.make_labels(seed, classes, spec, tail, scale=scale)
    temperature = oracle.TEMPERATURES[0 if spec in oracle.UNBIASED else index]
    leaf, reference = leaves(student)
    expected = temperature**2 * definition(reference, labels, temperature).mean()
    agree(loss(leaf, labels, temperature=temperature), expected, leaf, reference)


@pytest.mark.parametrize("log_tail", [-60.0, -120.0, -700.0])
@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon"])
def test_tails_that_float32_holds_only_as_logarithms(name, log_tail):
    labels, student = oracle.make_labels(3, 17, "topk:5:f16")
    labels = replace(labels, log_tail=np.full_like(labels.log_tail, log_tail))
    leaf, reference = leaves(student)
    agree(getattr(losses, name)(leaf, labels), getattr(oracle, name)(reference, labels, 1.0).mean(), leaf, reference)


@pytest.mark.parametrize("spec", ["dense:f32", "topk:5:f16", "adaptive:0.05:d4", "topk:3:f16:4"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), classes=st.sampled_from([17, 300]))
def test_dkd_is_its_definition(spec, seed, classes):
    labels, student = oracle.make_labels(seed, classes, spec)
    likeliest = torch.from_numpy(labels.log_probs(3.0).argmax(-1))
    hard = torch.tensor([1, 3, -1, 5, -1, 0])
    target = torch.where(hard == losses.NO_LABEL, likeliest, hard)
    leaf, reference = leaves(student)
    expected = 9 * oracle.dkd(reference, labels, 3.0, target, 1.5, 4.0).mean()
    actual = losses.dkd(leaf, labels, hard.numpy(), temperature=3.0, target_weight=1.5, other_weight=4.0)
    agree(actual, expected, leaf, reference)


@pytest.mark.parametrize("tail", ["calibrated", "renormalize"])
@pytest.mark.parametrize("spec", ["dense:f32", "topk:5:f16", "adaptive:0.05:d4:4"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), inter=st.floats(0, 2), intra=st.floats(0, 2))
def test_dist_is_its_definition(spec, tail, seed, inter, intra):
    labels, student = oracle.make_labels(seed, 40, spec, tail)
    leaf, reference = leaves(student)
    expected = 9 * oracle.dist(reference, labels, 3.0, inter, intra)
    agree(losses.dist(leaf, labels, temperature=3.0, inter=inter, intra=intra), expected, leaf, reference)


@pytest.mark.parametrize("spec", ["dense:f32", "topk:5:f16", "adaptive:0.05:d4"])
@given(seed=st.integers(0, 10**6))
def test_logit_mse_is_its_definition(spec, seed):
    labels, student = oracle.make_labels(seed, 40, spec)
    leaf, reference = leaves(student)
    agree(losses.logit_mse(leaf, labels), oracle.logit_mse(reference, labels).mean(), leaf, reference)


@pytest.mark.parametrize(
    ("loss", "spec"),
    [(losses.kl, "threshold:0.2")]
    + [
        (loss, spec)
        for loss in (losses.kl, losses.dkd, losses.dist, losses.logit_mse)
        for spec in ("dense:f32", "topk:5:f16", "adaptive:0.05:d4:4")
    ],
)
def test_masked_rows_count_for_nothing_though_they_be_nan(loss, spec):
    labels, student = oracle.make_labels(3, 40, spec)
    mask = np.array([True, False, True, True, False, True])
    spoilt = student.float()
    spoilt[~torch.from_numpy(mask)] = torch.nan
    spoilt.requires_grad_()
    subset = student.float()[torch.from_numpy(mask)].requires_grad_()
    actual, expected = loss(spoilt, labels, mask=mask), loss(subset, labels.take(np.flatnonzero(mask)))
    actual.backward()
    expected.backward()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (spoilt.grad[~torch.from_numpy(mask)] == 0).all()
    torch.testing.assert_close(spoilt.grad[torch.from_numpy(mask)], subset.grad, rtol=1e-4, atol=1e-6)
    assert loss(student.float(), labels, mask=np.zeros(6)).item() == 0.0


def test_a_mask_may_weigh_and_positions_may_have_any_shape():
    labels, student = oracle.make_labels(4, 40, "topk:5:f16")
    weights = torch.tensor([[0.5, 2.0, 0.0], [1.0, 1.0, 3.0]])
    by_row = oracle.kl(student, labels, 1.0)
    expected = (by_row * weights.flatten()).sum() / weights.sum()
    actual = losses.kl(student.float().view(2, 3, 40), labels, mask=weights)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_hard_cross_entropy_takes_a_mask():
    student = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    actual = losses.cross_entropy(student, np.array([2, -1, 0, 1]), mask=np.array([1, 1, 1, 0]))
    expected = functional.cross_entropy(student[[0, 2]], torch.tensor([2, 0]))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_in_float32_and_gradients_in_the_students_dtype(dtype):
    labels, student = oracle.make_labels(5, 300, "adaptive:0.02:d4:4")
    half = student.to(dtype).requires_grad_()
    wide = half.detach().float().requires_grad_()
    losses.kl(half, labels).backward()
    losses.kl(wide, labels).backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad.float(), wide.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("loss", [losses.reverse_kl, losses.jensen_shannon, losses.logit_mse, losses.dkd, losses.dist])
def test_samples_are_refused_where_they_are_not_right_on_average(loss):
    labels, student = oracle.make_labels(0, 17, "threshold:0.2")
    with pytest.raises(InvalidArgument, match=r"of a sample .* use losses\.kl or losses\.cross_entropy"):
        loss(student, labels)


def test_losses_that_are_infinite_or_undefined_are_refused():
    labels, student = oracle.make_labels(0, 17, "topk:3:f16", "renormalize")
    with pytest.raises(InvalidArgument, match=r"infinite\. Use tail calibrated"):
        losses.reverse_kl(student, labels)
    for loss in (losses.dkd, losses.dist):
        with pytest.raises(InvalidArgument, match="the bucket has none"):
            loss(student, replace(labels, tail="bucket"))
    with pytest.raises(InvalidArgument, match=r"got shape \(5,\); expected one class id per row, 6 in all"):
        losses.dkd(student, replace(labels, tail="uniform"), np.zeros(5, int))
    with pytest.raises(InvalidArgument, match=r"mask: got 3 entries; expected one per row, 6"):
        losses.kl(student, labels, mask=np.ones(3))
    with pytest.raises(InvalidArgument, match="must be positive and finite, got 0"):
        losses.kl(student, labels, temperature=0)


def test_the_gradient_of_a_sample_is_right_on_average():
    """The weights of a row may sum to another number than 1; the mean of (sum p^) q - p^ is q - p."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(12, 0.5))
    student = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    total = torch.zeros(1, 12)
    count = 4000
    for _ in range(count):
        included = np.flatnonzero((p >= 0.2) | (rng.random(12) < p / 0.2))
        ids = included[None]
        values = np.log(np.where(p[ids] >= 0.2, p[ids], 0.2)).astype(np.float32)
        if not len(included):
            ids, values = np.zeros((1, 1), int), np.full((1, 1), -np.inf, np.float32)
        labels = SparseLabels(12, ids, values, (1.0,), np.full((1, 1), -np.inf, np.float32), unbiased=True)
        leaf = student.clone().requires_grad_()
        losses.kl(leaf, labels).backward()
        total += leaf.grad
    expected = student.softmax(-1) - torch.from_numpy(p).float()
    assert (total / count - expected).abs().max() < 4 * 0.2 / np.sqrt(count)
