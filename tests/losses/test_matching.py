"""Hard labels, masks and temperatures: understood where that is safe, else refused by a typed error."""

import pickle

import numpy as np
import pytest
import torch

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels
from softlabels.losses import registry

STUDENT = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LABELS = DenseLabels(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
NUMBERS = DenseLabels(LABELS.values, "regression")
LOG_Q = STUDENT.double().log_softmax(-1).numpy()

ONE_HEAD = [name for name in losses.names() if losses.get(name).labels_of is None]
"""Losses that take the labels of the head that they train."""


def labels_for(name):
    return LABELS if losses.get(name).kinds == DISTRIBUTIONS else NUMBERS


@pytest.mark.parametrize(
    ("hard", "rows", "ids"),
    [
        (np.array([0, -100, 2, 1]), [0, 2, 3], [0, 2, 1]),
        (np.array([0, -1, -100, 1]), [0, 3], [0, 1]),
        (np.array([True, False, True, False]), [0, 1, 2, 3], [1, 0, 1, 0]),
        (np.array([0.0, -1.0, 2.0, 1.0]), [0, 2, 3], [0, 2, 1]),
        (np.array([0, 1, 2, 1], ">i4"), [0, 1, 2, 3], [0, 1, 2, 1]),
        (np.array([0, 1, 2, 1], np.uint16), [0, 1, 2, 3], [0, 1, 2, 1]),
        (np.array([[0], [1], [2], [1]]), [0, 1, 2, 3], [0, 1, 2, 1]),
        (torch.tensor([0, 1, 2, 1], dtype=torch.int8), [0, 1, 2, 3], [0, 1, 2, 1]),
        ([0, 1, 2, 1], [0, 1, 2, 3], [0, 1, 2, 1]),
    ],
)
def test_hard_labels_are_class_ids_of_any_type(hard, rows, ids):
    expected = -LOG_Q[rows, ids].mean()
    assert losses.cross_entropy(STUDENT, hard).item() == pytest.approx(expected, rel=1e-6)
    assert losses.distillation(STUDENT, LABELS, hard, alpha=0.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("hard", "problem"),
    [
        (np.array([0, 3, 2, 1]), r"row 1 has 3; expected 0 to 2, or -1"),
        (np.array([0, 1, 2, -7]), r"row 3 has -7; expected 0 to 2"),
        (np.array([0, 1, 2**63, 1], np.uint64), r"row 2 has 9223372036854775807"),
        (np.array([0, 1]), r"got shape \(2,\); expected one class id per row, 4 in all"),
        (np.eye(3)[[0, 1, 2, 1]], r"got shape \(4, 3\).* Pass class ids \(argmax"),
        (np.array([0.7, 1.0, 2.0, 1.0]), r"row 0 has 0\.69.*|row 0 has 0\.7; expected whole numbers"),
        (np.array([np.nan, 1.0, 2.0, 1.0]), r"row 0 has nan; expected whole numbers"),
        (np.array(["0", "1", "2", "1"]), r"got dtype <U1; expected real numbers"),
        (np.array([0, 1, 2, 1], complex), r"got dtype complex128"),
        (np.array([0, 1, 2, None], object), r"got dtype object"),
    ],
)
def test_hard_labels_that_are_no_class_ids_are_refused(hard, problem):
    for loss in (
        lambda: losses.cross_entropy(STUDENT, hard),
        lambda: losses.dkd(STUDENT, LABELS, hard),
        lambda: losses.distillation(STUDENT, LABELS, hard),
    ):
        with pytest.raises(InvalidArgument, match=f"hard labels: ({problem})") as raised:
            loss()
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # noqa: S301  our own


def test_dkd_refuses_the_ignore_index_since_its_rows_count_all_the_same():
    with pytest.raises(InvalidArgument, match=r"row 1 has -100; .* Use a mask to leave rows out"):
        losses.dkd(STUDENT, LABELS, np.array([0, -100, 2, 1]))


@pytest.mark.parametrize("name", ONE_HEAD)
@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.array([1.0, -1.0, 1.0, 1.0]), "row 1 has weight -1.0; expected booleans, or weights of 0 or more"),
        (np.array([1.0, 1.0, np.nan, 1.0]), "row 2 has weight nan"),
        (torch.tensor([1.0, 1.0, 1.0, torch.inf]), "row 3 has weight inf"),
        (np.ones(3), "got 3 entries; expected one per row, 4"),
        (np.array(["yes"] * 4), "got dtype <U3"),
    ],
)
def test_masks_that_are_no_weights_are_refused(name, mask, problem):
    with pytest.raises(InvalidArgument, match=f"mask: {problem}"):
        losses.get(name).function(STUDENT, labels_for(name), mask=mask)


@pytest.mark.parametrize("name", ONE_HEAD)
@pytest.mark.parametrize("dtype", [bool, int, float, np.float16, "torch"])
def test_rows_that_are_masked_out_count_for_nothing_whatever_they_hold(name, dtype):
    """Padding: the teacher gave -inf alone, the student NaN."""
    keep = np.array([True, False, True, True])
    mask = torch.from_numpy(keep) if dtype == "torch" else keep.astype(dtype)
    teacher = LABELS.values.copy()
    teacher[1] = -np.inf
    labels = DenseLabels(teacher, labels_for(name).kind)
    spoilt = STUDENT.clone()
    spoilt[1] = torch.nan
    leaf, rest = spoilt.requires_grad_(), STUDENT[torch.from_numpy(keep)].requires_grad_()
    actual = losses.get(name).function(leaf, labels, mask=mask)
    expected = losses.get(name).function(rest, labels.take(np.flatnonzero(keep)))
    actual.backward()
    expected.backward()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(leaf.grad[keep], rest.grad, rtol=1e-5, atol=1e-7)
    assert (leaf.grad[1] == 0).all()
    assert losses.get(name).function(leaf, labels, mask=np.zeros(4)).item() == 0.0


def test_weights_may_be_learned():
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0], requires_grad=True)
    losses.kl(STUDENT, LABELS, mask=weights).backward()
    by_row = (LABELS.log_probs().astype(np.float64) - LOG_Q) * np.exp(LABELS.log_probs().astype(np.float64))
    kl = by_row.sum(axis=1)
    mean = (kl * weights.detach().numpy()).sum() / 4.5
    np.testing.assert_allclose(weights.grad.numpy(), (kl - mean) / 4.5, rtol=1e-4, atol=1e-6)


def test_hard_losses_of_rows_that_are_masked_out_count_for_nothing():
    spoilt = STUDENT.clone()
    spoilt[1] = torch.nan
    leaf = spoilt.requires_grad_()
    losses.cross_entropy(leaf, np.array([0, 1, 2, 0]), mask=np.array([1, 0, 1, 1])).backward()
    assert (leaf.grad[1] == 0).all()
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("temperature", [0, -1.0, np.nan, np.inf])
def test_temperatures_must_be_positive_and_finite(temperature):
    with pytest.raises(InvalidArgument, match="temperature: must be positive and finite"):
        losses.kl(STUDENT, LABELS, temperature=temperature)


def test_alpha_weighs_what_there_is():
    with pytest.raises(InvalidArgument, match="alpha: weight of the soft labels, got nan; expected 0 to 1"):
        losses.distillation(STUDENT, LABELS, alpha=float("nan"))
    with pytest.raises(InvalidArgument, match="alpha: got 0, which uses hard labels alone"):
        losses.distillation(STUDENT, LABELS, alpha=0.0)


def test_a_loss_is_registered_by_the_name_of_its_function():
    for name in losses.names():
        assert getattr(losses, name) is losses.get(name).function
    assert losses.get("distillation").hard
    with pytest.raises(InvalidArgument, match=r"unknown name, got 'kullback'; expected one of .*kl, "):
        losses.get("kullback")


def test_a_new_loss_is_one_declaration():
    @registry.loss(samples=True)
    def my_loss(student_logits, labels):
        return student_logits.sum()

    try:
        assert losses.get("my_loss") == registry.Loss("my_loss", my_loss, DISTRIBUTIONS, True, False, True)
    finally:
        registry.remove("my_loss")
