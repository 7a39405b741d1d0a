"""Optimisers: the updates of torch.optim, to the bit."""

import pytest
import torch
from torch import nn

from softlabels.training.optimizers import SGD, AdamW

PAIRS = {
    "adamw": (
        lambda parameters: AdamW(parameters, lr=0.1, weight_decay=0.02),
        lambda parameters, fused: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.02, fused=fused),
    ),
    "sgd": (
        lambda parameters: SGD(parameters, lr=0.1, momentum=0.8, weight_decay=0.02),
        lambda parameters, fused: torch.optim.SGD(parameters, lr=0.1, momentum=0.8, weight_decay=0.02, fused=fused),
    ),
    "sgd without momentum": (
        lambda parameters: SGD(parameters, lr=0.1, momentum=0.0, weight_decay=0.0),
        lambda parameters, fused: torch.optim.SGD(parameters, lr=0.1, fused=fused),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("transposed", [False, True])
def test_updates_are_those_of_torch(name, transposed):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(37, 5, generator=generator)
    start = start.T if transposed else start
    parameters = [nn.Parameter(start.clone(memory_format=torch.preserve_format)) for _ in range(2)]
    ours, reference = PAIRS[name]
    optimizers = [ours([parameters[0]]), reference([parameters[1]], not transposed)]
    for step in range(5):
        gradient = torch.randn(start.shape, generator=generator)
        for parameter, optimizer in zip(parameters, optimizers, strict=True):
            # A gradient in another order than its parameter must not be taken for one in the same order.
            parameter.grad = gradient.clone()
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
            optimizer.zero_grad()
            assert parameter.grad is None
    assert torch.equal(*parameters)
    assert not torch.equal(parameters[0], start)


def test_a_parameter_without_a_gradient_does_not_change():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdamW([used, unused], lr=0.1, weight_decay=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert list(optimizer.state) == [used]


def test_a_scaler_of_losses_skips_a_step_that_overflows():
    weight = nn.Parameter(torch.ones(2))
    optimizer, scaler = AdamW([weight], lr=0.1, weight_decay=0.0), torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor, expected in ((float("inf"), [1.0, 1.0]), (1.0, [0.9, 0.9])):
        optimizer.zero_grad()
        scaler.scale((factor * weight).sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == pytest.approx(expected)
    assert scaler.get_scale() == 2.0
