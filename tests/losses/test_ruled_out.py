"""Classes that teacher and student both rule out (-inf): every loss is that of the classes that are left."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels import losses
from softlabels.labels import DenseLabels, SparseLabels
from tests.losses import oracle

CLASSES = 23
HARD = np.array([0, 3, -1, 5, 0, 3])
"""Classes that are never ruled out, so that the cross-entropy is finite."""
DENSE_AND_SPARSE = ["dense:f32", "topk:4:f16", "adaptive:0.05:d4", "topk:3:f16:4"]
SAMPLES = ["threshold:0.2", "sampled:6"]


def definition(name, logits, labels):
    """The loss of each row in float64."""
    if name == "dist":
        return oracle.dist(logits, labels, 1.0, 1.0, 1.0)
    if name == "logit_mse":
        return oracle.logit_mse(logits, labels)
    if name == "dkd":
        likeliest = torch.from_numpy(labels.log_probs().argmax(-1))
        return oracle.dkd(logits, labels, 1.0, likeliest, 1.0, 8.0)
    return getattr(oracle, name)(logits, labels, 1.0)


def without(labels, is_out):
    """Labels of the classes that are left of (C,), as a teacher without the others would give them."""
    if isinstance(labels, DenseLabels):
        return DenseLabels(labels.values[:, ~is_out])
    numbers = np.cumsum(~is_out) - 1
    prior = labels.prior
    if prior is not None:
        prior = prior[..., ~is_out].astype(np.float64)
        prior /= prior.sum(axis=-1, keepdims=True)
    ids = np.where(np.isfinite(labels.values), numbers[labels.ids], 0)
    return replace(labels, classes=int((~is_out).sum()), ids=ids, prior=prior)


def make(seed, spec, tail, is_out):
    """Labels by a teacher that rules (ROWS, C) classes out, and the logits of a student that does so too.

    Offsets of dithered labels belong to the numbers of the classes, which ``without`` changes (see test_coupling.py).
    """
    labels, student = oracle.make_labels(seed, CLASSES, spec, tail, ruled_out=is_out)
    labels = replace(labels, dither=None) if isinstance(labels, SparseLabels) else labels
    return labels, student.masked_fill(torch.from_numpy(is_out), -torch.inf)


CASES = [
    (name, spec, tail)
    for name in ("kl", "cross_entropy", "reverse_kl", "jensen_shannon", "logit_mse", "dkd", "dist")
    for spec in DENSE_AND_SPARSE + (SAMPLES if name in {"kl", "cross_entropy"} else [])
    for tail in (
        ["calibrated"]
        if spec.startswith(("dense", *("sampled", "threshold")))
        else ["calibrated", "uniform", "bucket", "renormalize"]
    )
    if not (tail == "bucket" and name in {"dkd", "dist"}) and not (tail == "renormalize" and name == "reverse_kl")
]


@pytest.mark.parametrize(("name", "spec", "tail"), CASES)
@settings(max_examples=7)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.6))
def test_classes_ruled_out_everywhere_are_left_out(name, spec, tail, seed, share):
    is_out = np.random.default_rng(seed).random(CLASSES) < share
    is_out[: 4 + 2] = False
    labels, student = make(seed, spec, tail, np.tile(is_out, (oracle.ROWS, 1)))
    leaf = student.float().requires_grad_()
    actual = getattr(losses, name)(leaf, labels)
    actual.backward()
    reference = student.float().double()[:, ~is_out].requires_grad_()
    expected = definition(name, reference, without(labels, is_out)).mean()
    expected.backward()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    assert (leaf.grad[:, is_out] == 0).all()
    torch.testing.assert_close(leaf.grad[:, ~is_out].double(), reference.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "spec", "tail"), [case for case in CASES if case[0] != "dist"])
@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_each_row_may_rule_out_others(name, spec, tail, seed):
    is_out = np.random.default_rng(seed).random((oracle.ROWS, CLASSES)) < 0.4
    is_out[:, : 4 + 2] = False
    labels, student = make(seed, spec, tail, is_out)
    leaf = student.float().requires_grad_()
    getattr(losses, name)(leaf, labels).backward()
    actual = getattr(losses, name)(leaf, labels)
    total, gradient = 0.0, torch.zeros_like(student)
    for row in range(oracle.ROWS):
        reference = student.float().double()[row : row + 1, ~is_out[row]].requires_grad_()
        value = definition(name, reference, without(labels.take(np.array([row])), is_out[row])).mean() / oracle.ROWS
        value.backward()
        total += value.item()
        gradient[row, ~is_out[row]] = reference.grad[0]
    assert actual.item() == pytest.approx(total, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", DENSE_AND_SPARSE)
def test_a_fused_layer_rules_classes_out_by_its_bias(spec):
    is_out = np.arange(CLASSES) % 3 == 2
    is_out[:6] = False
    labels, _ = make(3, spec, "calibrated", np.tile(is_out, (oracle.ROWS, 1)))
    generator = torch.Generator().manual_seed(0)
    states, weight = torch.randn(oracle.ROWS, 8, generator=generator), torch.randn(CLASSES, 8, generator=generator)
    bias = torch.randn(CLASSES, generator=generator).masked_fill(torch.from_numpy(is_out), -torch.inf)
    fused = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
    losses.linear_kl(fused[0], fused[1], labels, bias=fused[2]).backward()
    plain = [states.clone(), weight[~is_out].clone(), bias[~is_out].clone()]
    plain = [tensor.requires_grad_() for tensor in plain]
    loss = losses.kl(torch.nn.functional.linear(plain[0], plain[1], plain[2]), without(labels, is_out))
    loss.backward()
    torch.testing.assert_close(fused[0].grad, plain[0].grad, rtol=1e-4, atol=1e-6)
    for one, other in zip(fused[1:], plain[1:], strict=True):
        torch.testing.assert_close(one.grad[~is_out], other.grad, rtol=1e-4, atol=1e-6)
        assert (one.grad[is_out] == 0).all()


def test_a_tail_prior_gives_no_mass_to_classes_that_the_student_rules_out():
    prior = np.array([[0.1, 0.1, 0.2, 0.3, 0.3]], np.float32)
    labels = SparseLabels(
        5, np.array([[0]]), np.log([[0.6]]).astype(np.float32), (1.0,), np.log([[0.4]]).astype(np.float32), prior=prior
    )
    student = torch.tensor([[1.0, 0.0, 0.5, -torch.inf, 0.2]])
    log_q = student.double().log_softmax(-1)[0, [0, 1, 2, 4]].numpy()
    p = np.array([0.6, *(0.4 * np.array([0.1, 0.2, 0.3]) / 0.6)])
    assert losses.kl(student, labels).item() == pytest.approx((p * (np.log(p) - log_q)).sum(), rel=1e-5)


def test_a_student_that_rules_out_what_the_teacher_lists_has_an_infinite_loss():
    labels = DenseLabels(np.array([[1.0, 0.0, 0.0]], np.float32))
    student = torch.tensor([[-torch.inf, 0.0, 0.0]])
    assert losses.kl(student, labels).item() == np.inf
    assert losses.logit_mse(student, labels).item() == np.inf
    assert losses.jensen_shannon(student, labels).item() < np.log(2)


@pytest.mark.parametrize("fill", [-1e4, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("name", ["kl", "cross_entropy", "jensen_shannon", "reverse_kl", "dkd"])
def test_a_teacher_may_rule_out_by_a_finite_fill(name, fill):
    """The probability is 0 all the same, whatever the student gives the class."""
    logits, student = np.array([[2.0, 1.0, fill]], np.float32), torch.tensor([[0.5, 0.3, -torch.inf]])
    leaf = student.requires_grad_()
    actual = getattr(losses, name)(leaf, DenseLabels(logits))
    actual.backward()
    expected = getattr(losses, name)(torch.tensor([[0.5, 0.3]]), DenseLabels(logits[:, :2]))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_part_of_distillation_without_weight_may_be_infinite(alpha):
    teacher, student = np.zeros((2, 3), np.float32), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    hard = np.array([0, 1])
    if alpha == 0:
        teacher[:, 2], student[:, 2] = 0.0, -torch.inf  # the soft part is infinite
        expected = losses.cross_entropy(student, hard)
    else:
        teacher[:, 0], student[:, 0] = -np.inf, -torch.inf  # the hard part is infinite
        expected = losses.kl(student, DenseLabels(teacher))
    leaf = student.requires_grad_()
    actual = losses.distillation(leaf, DenseLabels(teacher), hard, alpha=alpha)
    actual.backward()
    assert actual.item() == pytest.approx(expected.item())
    assert torch.isfinite(actual)
    assert torch.isfinite(leaf.grad).all()
