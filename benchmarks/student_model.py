"""The student of benchmarks/students.py: a small GPT behind a causal convolution, its optimiser and its figures."""

from __future__ import annotations

import statistics

import torch
from language_model import GPT, Shape
from torch import Tensor, nn
from torch.nn import functional

STUDENT = Shape(layers=2, width=64, vocabulary=2048)
TAPS = 4
"""Tokens that the convolution sees."""
BETAS = 0.9, 0.95
BINS = 15


class StudentGPT(GPT):
    """A GPT whose embeddings pass through a causal convolution per channel.

    It sees the last tokens from the first step on. A plain GPT learns to attend to them in a phase transition, whose
    step varies with seed and noise by far more than labels differ in a short run.
    """

    def __init__(self) -> None:
        super().__init__(STUDENT)
        self.mix = nn.Conv1d(STUDENT.width, STUDENT.width, TAPS, groups=STUDENT.width, padding=TAPS - 1, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (B, L, D) states of (B, L) token ids."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        x = x + self.mix(x.transpose(1, 2))[..., : ids.shape[1]].transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Adam:
    """AdamW as language_model.optimizer_of makes it, whose second moment may be that of another gradient.

    Args:
        model: Student.
        factored: Hold the second moment of a matrix as sums of its rows and of its columns, as Adafactor does.
    """

    def __init__(self, model: GPT, *, factored: bool = False) -> None:
        self.parameters = list(model.parameters())
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.factored = factored
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: list[Tensor], squared: list[Tensor], lr: float) -> None:
        """Update the parameters; ``squared`` are the gradients that the second moment is made of."""
        self.steps += 1
        for parameter, first, second, one, other in zip(
            self.parameters, self.first, self.second, gradients, squared, strict=True
        ):
            parameter.mul_(1 - lr * (0.1 if parameter.ndim == 2 else 0.0))
            first.lerp_(one, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(other, other, value=1 - BETAS[1])
            moment = second / (1 - BETAS[1] ** self.steps)
            if self.factored and parameter.ndim == 2:
                moment = moment.mean(1, keepdim=True) * moment.mean(0, keepdim=True) / moment.mean()
            parameter.addcdiv_(first, moment.sqrt_().add_(1e-8), value=-lr / (1 - BETAS[0] ** self.steps))


def logits_of(model: GPT, data: Tensor) -> Tensor:
    """Return the logits of whole sequences, (B * L, C), in bfloat16 products."""
    with torch.autocast("cpu", torch.bfloat16):
        return functional.linear(model(data[:, :-1]), model.embedding.weight).flatten(0, 1)


def gradient(loss: Tensor, model: GPT) -> list[Tensor]:
    """Return the gradient of each parameter, clipped to a norm of 1 in all."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.stack([one.norm() for one in gradients]).norm()
    return [one / norm.clamp_min(1.0) for one in gradients]


@torch.no_grad()
def evaluate(model: GPT, data: Tensor, teacher: Tensor) -> dict[str, float]:
    """Return loss on the true tokens, KL to the teacher, agreement and calibration error on held-out text.

    Args:
        model: Student.
        data: (N, CONTEXT + 1) tokens.
        teacher: (N, CONTEXT, C) log-probabilities of the teacher.
    """
    loss, kl, agree, confidence, hits = [], [], [], [], []
    for block, predicted in zip(data.split(8), teacher.split(8), strict=True):
        true, log_p = block[:, 1:].flatten(), predicted.flatten(0, 1)
        log_q = logits_of(model, block).float().log_softmax(-1)
        loss.append(functional.nll_loss(log_q, true).item())
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1).mean().item())
        agree.append((log_p.argmax(-1) == log_q.argmax(-1)).float().mean().item())
        top, guess = log_q.max(-1)
        confidence.append(top.exp())
        hits.append((guess == true).float())
    figures = {"loss": loss, "kl": kl, "agreement": agree}
    error = calibration_error(torch.cat(confidence), torch.cat(hits))
    return {name: statistics.mean(values) for name, values in figures.items()} | {"calibration_error": error}


def calibration_error(confidence: Tensor, hits: Tensor) -> float:
    """Return the expected calibration error of (N,) top probabilities, by bins of equal width."""
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gaps = torch.zeros(BINS).index_add_(0, bins, confidence - hits)
    return gaps.abs().sum().item() / len(bins)
