"""Losses a piece at a time: the same whatever the pieces, in memory that does not grow with rows times classes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.losses import blocks
from tests.losses import oracle


@pytest.mark.parametrize("loss", [losses.kl, losses.jensen_shannon, losses.dist, losses.dkd])
def test_the_size_of_a_piece_changes_nothing(loss, monkeypatch):
    labels, student = oracle.make_labels(0, 300, "adaptive:0.05:d4:4")
    actual = []
    for elements in (1, 700, 2**20):
        monkeypatch.setitem(blocks.ELEMENTS, "cpu", elements)
        leaf = student.float().requires_grad_()
        value = loss(leaf, labels)
        value.backward()
        actual.append((value.item(), leaf.grad))
    for value, gradient in actual[1:]:
        assert value == pytest.approx(actual[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, actual[0][1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("spec", ["dense:f32", "topk:5:f16", "adaptive:0.05:d4:4", "threshold:0.2"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("elements", [300, 2**20])
def test_a_fused_linear_layer_has_the_value_and_gradients_of_both(spec, with_bias, elements, monkeypatch):
    monkeypatch.setitem(blocks.ELEMENTS, "cpu", elements)
    labels, _ = oracle.make_labels(1, 50, spec)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 3, 8, generator=generator), torch.randn(50, 8, generator=generator)]
    tensors += [torch.randn(50, generator=generator)] if with_bias else []
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    grads = []
    for fused in (True, False):
        states, weight, *bias = (tensor.clone().requires_grad_() for tensor in tensors)
        if fused:
            loss = losses.linear_kl(states, weight, labels, bias=bias[0] if bias else None, mask=mask)
        else:
            logits = torch.nn.functional.linear(states, weight, bias[0] if bias else None)
            loss = losses.kl(logits, labels, mask=mask)
        loss.backward()
        grads.append([loss.detach(), states.grad, weight.grad, *(one.grad for one in bias)])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tail", ["calibrated", "bucket"])
@pytest.mark.parametrize("spec", ["dense:f32", "topk:5:f16", "threshold:0.2"])
def test_both_parts_of_a_distillation_come_from_one_pass(spec, tail, monkeypatch):
    """Value and gradients at each temperature, with hard labels that the soft ones list, and others."""
    monkeypatch.setitem(blocks.ELEMENTS, "cpu", 120)
    labels, _ = oracle.make_labels(1, 50, spec, tail=tail)
    hard = torch.tensor([0 if spec == "dense:f32" else int(labels.ids[0, 0]), 3, 49, 0, 17, 3])
    mask = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 1.0])
    for temperature in getattr(labels, "temperatures", (1.0, 2.0)):
        grads = []
        for fused in (True, False):
            generator = torch.Generator().manual_seed(0)
            states = torch.randn(6, 8, generator=generator).requires_grad_()
            weight = torch.randn(50, 8, generator=generator).requires_grad_()
            options = {"temperature": temperature, "alpha": 0.7, "mask": mask}
            if fused:
                loss = losses.linear_distillation(states, weight, labels, hard, **options)
            else:
                loss = losses.distillation(states @ weight.T, labels, hard, **options)
            loss.backward()
            grads.append([loss.detach(), states.grad, weight.grad])
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_row_without_a_hard_label_is_refused_by_a_fused_distillation():
    labels, _ = oracle.make_labels(1, 50, "topk:5:f16")
    hard = torch.tensor([0, 1, -1, 3, 4, 5])
    with pytest.raises(InvalidArgument, match="hard labels: row 2 has none"):
        losses.linear_distillation(torch.zeros(6, 8), torch.zeros(50, 8), labels, hard)
    with pytest.raises(InvalidArgument, match=r"got 1\.5; expected 0 to 1"):
        losses.linear_distillation(torch.zeros(6, 8), torch.zeros(50, 8), labels, hard, alpha=1.5)


def test_a_fused_layer_follows_autocast():
    labels, _ = oracle.make_labels(1, 50, "topk:5:f16")
    states, weight = torch.randn(6, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        actual = losses.linear_kl(states, weight, labels)
        expected = losses.kl(torch.nn.functional.linear(states, weight), labels)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-3), "both in bfloat16, added in another order"
    actual.backward()
    assert states.grad.dtype == weight.grad.dtype == torch.float32


def test_a_fused_layer_of_another_width_is_refused():
    labels, _ = oracle.make_labels(1, 50, "topk:5:f16")
    with pytest.raises(InvalidArgument, match=r"got shape \(6, 49\); the labels have 50 classes"):
        losses.linear_kl(torch.zeros(6, 8), torch.zeros(49, 8), labels)


MEMORY = """
import resource, sys
import numpy as np, torch
from softlabels import losses
from softlabels.labels import SparseLabels

rows, classes, width = 4096, 40_000, 16
rng = np.random.default_rng(0)
labels = SparseLabels(classes, np.tile(np.arange(8), (rows, 1)), np.full((rows, 8), -3.0, np.float32), (1.0,),
                      np.full((rows, 1), np.log(0.5), np.float32))
states, weight = torch.randn(rows, width, requires_grad=True), torch.randn(classes, width, requires_grad=True)
losses.linear_kl(states[:8], weight, labels.take(np.arange(8))).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
losses.linear_kl(states, weight, labels).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_fused_layer_never_holds_all_logits():
    """4,096 rows of 40,000 classes are 625 MiB of float32 logits."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 100, f"{done.stdout} MiB"


def test_labels_of_ragged_rows_are_matched_by_position():
    labels, student = oracle.make_labels(2, 17, "topk:5:f16")
    ragged = type(labels)(**{**vars(labels), "lengths": np.array([2, 0, 4])})
    assert losses.kl(student, ragged).item() == pytest.approx(losses.kl(student, labels).item())
    with pytest.raises(InvalidArgument, match="got 5 rows; there are labels of 6"):
        losses.kl(student[:5], ragged)


@pytest.mark.parametrize("fused", [False, True])
def test_a_graph_can_be_walked_twice(fused):
    """Gradients of the forward pass are handed over to the first walk, which may change them in place."""
    labels, _ = oracle.make_labels(1, 50, "topk:5:f16")
    states, weight = torch.randn(6, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    logits = states @ weight.T
    loss = losses.linear_kl(states, weight, labels) if fused else losses.kl(logits, labels)
    first = torch.autograd.grad(loss, [states, weight], retain_graph=True)
    expected = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    second = torch.autograd.grad(3 * loss, [states, weight])
    for one, other in zip(second, expected, strict=True):
        torch.testing.assert_close(one, 3 * other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fused", [False, True])
def test_weights_of_rows_have_a_gradient(fused):
    labels, _ = oracle.make_labels(1, 50, "topk:5:f16")
    generator = torch.Generator().manual_seed(0)
    states, layer = torch.randn(6, 8, generator=generator), torch.randn(50, 8, generator=generator)
    logits = states @ layer.T
    rows = torch.stack([losses.kl(logits[row : row + 1], labels.take(np.array([row]))) for row in range(6)])
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 3.0])
    gradients = []
    for mean in (
        lambda mask: (
            losses.linear_kl(states, layer, labels, mask=mask) if fused else losses.kl(logits, labels, mask=mask)
        ),
        lambda mask: (torch.where(mask > 0, rows * mask, 0.0)).sum() / mask.sum(),
    ):
        leaf = weights.clone().requires_grad_()
        mean(leaf).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_loss_without_weight_has_no_gradient_even_if_it_is_infinite():
    labels, student = oracle.make_labels(0, 30, "dense:f32")
    leaf = student.float().masked_fill(torch.arange(30) == 3, -torch.inf).requires_grad_()
    loss = losses.kl(leaf, labels)
    assert loss.item() == float("inf")
    (0 * loss).backward()
    assert (leaf.grad == 0).all()
