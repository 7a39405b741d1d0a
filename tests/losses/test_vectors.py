"""Losses of regression and embeddings against their definitions in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, SparseLabels


def definition(name, student, target, delta):
    if name == "mse":
        return ((student - target) ** 2).mean(-1)
    if name == "huber":
        apart = (student - target).abs()
        return torch.where(apart <= delta, apart**2 / 2, delta * (apart - delta / 2)).mean(-1)
    return 1 - (student * target).sum(-1) / (student.norm(dim=-1) * target.norm(dim=-1))


@pytest.mark.parametrize("name", ["mse", "huber", "cosine"])
@given(seed=st.integers(0, 10**6), delta=st.floats(0.1, 3))
def test_values_and_gradients(name, seed, delta):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(5, 7, generator=generator)
    student = torch.randn(5, 7, generator=generator)
    mask = np.array([1, 1, 0, 1, 0.5])
    leaf, reference = student.clone().requires_grad_(), student.double().requires_grad_()
    options = {"delta": delta} if name == "huber" else {}
    actual = getattr(losses, name)(leaf, DenseLabels(target.numpy(), "embedding"), mask=mask, **options)
    by_row = definition(name, reference, target.double(), delta)
    expected = (by_row * torch.from_numpy(mask)).sum() / mask.sum()
    actual.backward()
    expected.backward()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_together_is_refused():
    labels = DenseLabels(np.zeros((3, 4), np.float32), "regression")
    with pytest.raises(InvalidArgument, match=r"got shape \(3, 5\); the labels are \(3, 4\)"):
        losses.mse(torch.zeros(3, 5), labels)
    with pytest.raises(InvalidArgument, match="delta must be above 0"):
        losses.huber(torch.zeros(3, 4), labels, delta=0)
    sparse = SparseLabels(4, np.zeros((3, 1), int), np.zeros((3, 1), np.float32), (1.0,), np.zeros((3, 1), np.float32))
    with pytest.raises(InvalidArgument, match=r"Use losses\.kl"):
        losses.cosine(torch.zeros(3, 4), sparse)
