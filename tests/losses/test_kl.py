"""Losses against dense float64 autograd: values and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels import encodings, losses
from softlabels.encodings import codebook
from softlabels.encodings.tail import tail_prior
from softlabels.errors import InvalidArgument, TemperatureNotStored
from softlabels.labels import DenseLabels, Head, SparseLabels
from tests.losses import oracle

TEMPERATURES = (1.0, 3.0)


def make_labels(seed, classes, spec, scale, tail="calibrated"):
    """Labels of random logits with a prior measured from them, and student logits."""
    generator = torch.Generator().manual_seed(seed)
    teacher = scale * torch.randn(6, classes, generator=generator)
    student = 2 * torch.randn(6, classes, generator=generator, dtype=torch.float64)
    encoding = encodings.parse(spec, classes=classes)
    head = Head(encoding=encoding.spec, classes=classes, temperatures=TEMPERATURES, tail=tail)
    encoded = encoding.encode(teacher, head, np.arange(6), residual=encoding.has_tail)
    prior = None
    if encoded.residual is not None and encoded.residual.sum() > 0:
        prior = tail_prior([encoded.residual], classes)
    return encoding.decode(encoded.arrays, head, prior), student


def dense_kl(student, labels, temperature):
    """T^2 KL(p^ || q) with p^ as a matrix, in float64: value and gradient."""
    leaf = student.clone().requires_grad_()
    log_p = torch.from_numpy(labels.log_probs(temperature)).double()
    log_q = (leaf / temperature).log_softmax(-1)
    p = log_p.exp()
    terms = torch.where(p > 0, p * (log_p - log_q), 0.0)
    if isinstance(labels, SparseLabels) and labels.tail == "bucket":
        log_tail = torch.from_numpy(labels.log_tail[:, labels.temperature_index(temperature)]).double()
        listed = torch.zeros_like(leaf, dtype=torch.bool).scatter(1, torch.from_numpy(labels.ids), value=True)
        q_tail = log_q.masked_fill(listed, -torch.inf).logsumexp(-1)
        terms = torch.cat(
            [terms, torch.where(log_tail.isfinite(), log_tail.exp() * (log_tail - q_tail), 0.0)[:, None]], 1
        )
    value = temperature**2 * terms.sum(-1).mean()
    value.backward()
    return value.item(), leaf.grad


@pytest.mark.parametrize("tail", ["calibrated", "uniform", "bucket", "renormalize"])
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(2, 1), (10, 3), (10, 9), (300, 20)]),
    scale=st.floats(0.1, 8.0),
    temperature=st.sampled_from(TEMPERATURES),
    dtype=st.sampled_from(["f16", "q8"]),
)
def test_kl_from_sparse_labels_is_the_dense_one(tail, seed, shape, scale, temperature, dtype):
    classes, k = shape
    labels, student = make_labels(seed, classes, f"topk:{k}:{dtype}", scale, tail)
    value, gradient = dense_kl(student, labels, temperature)
    leaf = student.float().requires_grad_()
    loss = losses.kl(leaf, labels, temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("spec", ["dense:f32", "dense:q8", "topk:10"])
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from(TEMPERATURES))
def test_kl_from_all_classes_is_the_dense_one(spec, seed, temperature):
    labels, student = make_labels(seed, 10, spec, 2.0)
    value, gradient = dense_kl(student, labels, temperature)
    leaf = student.float().requires_grad_()
    loss = losses.kl(leaf, labels, temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-4, atol=2e-6)


def test_the_gradient_is_the_difference_of_the_distributions():
    labels, student = make_labels(3, 20, "topk:5", 2.0)
    leaf = student.float().requires_grad_()
    losses.kl(leaf, labels, temperature=3.0, scale_by_temperature=False).backward()
    difference = (student / 3).softmax(-1) - torch.from_numpy(labels.log_probs(3.0)).double().exp()
    torch.testing.assert_close(leaf.grad.double() * 3 * len(student), difference, rtol=1e-4, atol=1e-5)


def test_kl_of_a_student_that_agrees_is_zero():
    labels, _ = make_labels(4, 10, "topk:4", 2.0)
    agreeing = torch.from_numpy(labels.log_probs(1.0))
    assert abs(losses.kl(agreeing, labels).item()) < 1e-5


def test_sums_are_in_float32_whatever_the_student_gives():
    labels, student = make_labels(5, 10, "topk:4", 2.0)
    half = student.to(torch.bfloat16)
    assert losses.kl(half, labels).dtype == torch.float32
    assert losses.kl(half, labels).item() == pytest.approx(losses.kl(half.double(), labels).item(), rel=1e-5)


def test_unbiased_labels_are_weights_without_a_tail():
    labels = SparseLabels(
        classes=4, ids=np.array([[2, 0]]), values=np.log(np.array([[0.75, 0.25]], np.float32)), temperatures=(1.0,),
        log_tail=np.full((1, 1), -np.inf, np.float32), unbiased=True,
    )  # fmt: skip
    student = torch.tensor([[0.3, -1.0, 2.0, 0.1]])
    log_q = student.log_softmax(-1)[0]
    expected = 0.75 * (np.log(0.75) - log_q[2]) + 0.25 * (np.log(0.25) - log_q[0])
    assert losses.kl(student, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_passes_over_rows_without_a_label():
    student = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    hard = np.array([2, -1, 0, -1])
    expected = -(student.log_softmax(-1)[0, 2] + student.log_softmax(-1)[2, 0]) / 2
    assert losses.cross_entropy(student, hard).item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.cross_entropy(student, np.full(4, -1)).item() == 0.0


def test_distillation_mixes_soft_and_hard():
    labels, student = make_labels(6, 10, "topk:4", 2.0)
    hard = np.array([1, -1, 3, -1, 5, 9])
    expected = 0.7 * losses.kl(student, labels, temperature=3.0) + 0.3 * losses.cross_entropy(student, hard)
    got = losses.distillation(student, labels, hard, temperature=3.0, alpha=0.7)
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_does_not_fit_together_is_refused():
    labels, student = make_labels(7, 10, "topk:4", 2.0)
    with pytest.raises(InvalidArgument, match=r"got shape \(6, 9\); the labels have 10 classes"):
        losses.kl(student[:, :9], labels)
    with pytest.raises(InvalidArgument, match="5 rows"):
        losses.kl(student[:5], labels)
    with pytest.raises(TemperatureNotStored, match="they hold 1, 3"):
        losses.kl(student, labels, temperature=2.0)
    with pytest.raises(InvalidArgument, match="regression"):
        losses.kl(student, DenseLabels(np.zeros((6, 10), np.float32), "regression"))
    with pytest.raises(InvalidArgument, match="alpha"):
        losses.distillation(student, labels, alpha=1.5)


@pytest.mark.parametrize("unlisted", [0.5, 1e-3, 1e-6])
@pytest.mark.parametrize("ruled_out", [False, True])
def test_a_codeword_that_leaves_little_to_unlisted_classes_loses_no_digits(unlisted, ruled_out):
    """The sum over unlisted classes is a difference of sums, or taken class by class where that would cancel."""
    generator = np.random.default_rng(0)
    priors = generator.gamma(0.5, size=(1, 2, 50)) + 1e-4
    priors[..., :2] = 0
    priors *= unlisted / priors.sum(axis=-1, keepdims=True)
    priors[..., :2] = (1 - unlisted) / 2
    log_tail = np.log(np.full((5, 1), 0.3, np.float32))
    labels = SparseLabels(
        50, np.tile([0, 1], (5, 1)), np.log(np.tile([0.4, 0.3], (5, 1))).astype(np.float32), (1.0,), log_tail,
        prior=priors.astype(np.float32), prior_index=np.array([0, 1, 0, 1, 0]),
    )  # fmt: skip
    student = torch.from_numpy(generator.normal(0, 2, (5, 50)))
    if ruled_out:
        student[:, 7] = -torch.inf
    prior = torch.from_numpy(labels.prior[0][labels.prior_index]).double().masked_fill(student.isneginf(), 0.0)
    prior[:, :2] = 0
    p = 0.3 * prior / prior.sum(-1, keepdim=True)
    p[:, :2] = torch.tensor([0.4, 0.3], dtype=torch.float64)
    leaf = student.clone().requires_grad_()
    expected = torch.where(p > 0, p * (p.log() - leaf.log_softmax(-1)), 0.0).sum(-1).mean()
    expected.backward()
    actual = student.float().requires_grad_()
    loss = losses.kl(actual, labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(actual.grad.double(), leaf.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoding", ["topk:3", "adaptive:0.05:d4:2", "threshold:0.1", "dense:q8"])
def test_pixels_have_the_loss_of_their_distributions_without_those_a_mask_ignores(encoding):
    """(B, H, W, C) outputs and an (H, W) mask of a batch; linear_kl takes the features of pixels."""
    generator = torch.Generator().manual_seed(3)
    logits, student = (torch.randn(4, 2, 3, 9, generator=generator) * 3 for _ in range(2))
    mask = torch.rand(4, 2, 3, generator=generator) < 0.6
    parsed = encodings.parse(encoding, classes=9)
    head = Head(classes=9, kind="pixels", shape=(2, 3), encoding=parsed.spec)
    book = codebook.fit(parsed, head, [torch.randn(80, 9, generator=generator)]) if parsed.priors > 1 else None
    arrays = parsed.encode(logits, head, np.arange(4), codebook=book).arrays
    labels = parsed.decode(arrays, head, None if book is None else book.priors)
    log_p = labels.log_probs().astype(np.float64)
    log_q = student.double().log_softmax(dim=-1).numpy()
    terms = np.where(np.isfinite(log_p), np.exp(log_p) * (np.where(np.isfinite(log_p), log_p, 0) - log_q), 0.0)
    if isinstance(labels, SparseLabels) and labels.dither is not None:
        noise = oracle.expected_noise(torch.from_numpy(np.exp(log_q)).flatten(0, -2), labels.dither)
        terms += noise.numpy().reshape(terms.shape) * log_q
    expected = terms.sum(axis=-1)[mask.numpy()].mean()
    assert losses.kl(student, labels, mask=mask).item() == pytest.approx(expected, rel=1e-4)
    weight = torch.linalg.qr(torch.randn(9, 9, generator=generator)).Q
    states = student @ weight  # whose product with the weight is the student again
    assert losses.linear_kl(states, weight, labels, mask=mask).item() == pytest.approx(expected, rel=1e-3)
