"""Losses compute in float32 whatever surrounds them."""

import numpy as np
import pytest
import torch

from softlabels import losses
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SparseLabels
from tests.losses import oracle

SPECS = ["dense:f32", "topk:5:f16", "adaptive:0.05:d4", "topk:3:f16:4", "threshold:0.2"]


def labels_for(loss, spec):
    if loss.kinds == DISTRIBUTIONS:
        return oracle.make_labels(0, 300, spec)
    values, student = oracle.make_labels(0, 300, "dense:f32")
    return DenseLabels(values.values, "regression"), student


CASES = [
    (name, spec)
    for name in losses.names()
    if losses.get(name).labels_of is None
    for spec in (SPECS if losses.get(name).kinds == DISTRIBUTIONS else SPECS[:1])
    if losses.get(name).samples or not spec.startswith("threshold")
]


@pytest.mark.parametrize(("name", "spec"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_value_nor_gradient(name, spec, dtype):
    labels, student = labels_for(losses.get(name), spec)
    results = []
    for enabled in (False, True):
        leaf = (student.float() + 50).requires_grad_()
        with torch.autocast("cpu", dtype, enabled=enabled):
            value = losses.get(name).function(leaf, labels)
            value.backward()
        results.append((value, leaf.grad))
    assert results[1][0].dtype == torch.float32
    assert results[0][0].item() == results[1][0].item()
    assert (results[0][1] == results[1][1]).all()


@pytest.mark.parametrize("offset", [0.0, 50.0, 200.0])
def test_a_student_that_agrees_has_no_loss_at_any_offset(offset):
    labels, _ = oracle.make_labels(1, 1000, "topk:5:f16")
    student = torch.from_numpy(labels.log_probs()) + offset
    with torch.autocast("cpu", torch.bfloat16):
        assert abs(losses.kl(student, labels).item()) < 2e-5


def test_a_student_near_the_teacher_has_a_gradient_as_exact_as_its_dtype():
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(4000)[:8] for _ in range(4)])
    labels = SparseLabels(4000, ids, np.full((4, 8), -3.0, np.float32), (1.0,), np.full((4, 1), -0.5, np.float32))
    exact = labels.log_probs().astype(np.float64)
    student = torch.from_numpy(exact + 0.03 * rng.normal(size=exact.shape)).bfloat16()
    leaf = student.clone().requires_grad_()
    losses.kl(leaf, labels).backward()
    expected = (student.double().softmax(-1) - torch.from_numpy(np.exp(exact))) / 4
    assert (leaf.grad.double() - expected).norm() < 4e-3 * expected.norm()
