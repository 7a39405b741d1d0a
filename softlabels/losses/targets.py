"""Soft labels on the student's device, at one temperature: the reconstructed distribution p^, in pieces or dense.

A piece of rows at a time is ever made dense, so what the losses need beside the student's logits and their gradient is
O(B K) for the labels and a few MiB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from softlabels.labels import DenseLabels, SoftLabels, SparseLabels


class Targets(Protocol):
    """What a teacher said of N rows, at one temperature."""

    def rows(self, start: int, stop: int) -> Targets:
        """Some of the rows."""

    def log_probs(self) -> Tensor:
        """Log p^, (n, C) float32; -inf where a class has no probability."""

    def cross(self, scaled: Tensor) -> Tensor:
        """Cross-entropy H(p^, q) with q = softmax(scaled), (n,), from (n, C) student logits over T."""

    def cross_gradient(self, scaled: Tensor) -> Tensor:
        """Its gradient with respect to ``scaled``, (n, C)."""

    def entropy(self) -> Tensor:
        """H(p^), (n,); of unbiased labels - sum p^ log p^."""


@dataclass(frozen=True)
class DenseTargets:
    """All logits of the teacher, over T.

    Attributes:
        scaled: (n, C) float32; a class that the teacher ruled out is -inf.
    """

    scaled: Tensor

    def rows(self, start: int, stop: int) -> DenseTargets:
        """See Targets.rows."""
        return DenseTargets(self.scaled[start:stop])

    def log_probs(self) -> Tensor:
        """See Targets.log_probs."""
        return self.scaled.log_softmax(dim=-1)

    def cross(self, scaled: Tensor) -> Tensor:
        """See Targets.cross."""
        return -(self.scaled.softmax(dim=-1) * scaled.log_softmax(dim=-1)).sum(dim=-1)

    def cross_gradient(self, scaled: Tensor) -> Tensor:
        """See Targets.cross_gradient."""
        return scaled.softmax(dim=-1) - self.scaled.softmax(dim=-1)

    def entropy(self) -> Tensor:
        """See Targets.entropy."""
        log_p = self.log_probs()
        return -torch.where(log_p.isfinite(), log_p.exp() * log_p, 0.0).sum(dim=-1)


@dataclass(frozen=True)
class SparseTargets:
    """Listed classes, and the rest: docs/fidelity.md, eq. 3.

    Attributes:
        classes: C.
        ids: (n, K) int64; padding has id 0.
        p: (n, K) float32, 0 where padded.
        log_p: (n, K) float32, -inf where padded.
        weight: (n,) float32, w: an unlisted class v has probability w pi_v; None: unlisted classes have none.
        log_pi: (M, C) float32, logs of the tail priors; None: uniform.
        which: (n,) int64, the prior of each row.
        log_bucket: (n,) float32, log of the mass of all unlisted classes as one outcome; None: they are no outcome.
    """

    classes: int
    ids: Tensor
    p: Tensor
    log_p: Tensor
    weight: Tensor | None
    log_pi: Tensor | None
    which: Tensor
    log_bucket: Tensor | None

    def rows(self, start: int, stop: int) -> SparseTargets:
        """See Targets.rows."""
        names = ("ids", "p", "log_p", "weight", "which", "log_bucket")
        whole = {name: getattr(self, name) for name in names}
        return replace(self, **{name: part[start:stop] for name, part in whole.items() if part is not None})

    def log_probs(self) -> Tensor:
        """See Targets.log_probs; a bucket is no class, so its mass is missing here."""
        if self.weight is None:
            out = self.log_p.new_full((len(self.ids), self.classes), -torch.inf)
        elif self.log_pi is None:
            out = (self.weight.log()[:, None] - math.log(self.classes)).repeat(1, self.classes)
        else:
            out = self.weight.log()[:, None] + self.log_pi[self.which]
        row, column = self.log_p.isfinite().nonzero(as_tuple=True)
        out[row, self.ids[row, column]] = self.log_p[row, column]
        return out

    def cross(self, scaled: Tensor) -> Tensor:
        """See Targets.cross: one logsumexp, one product with pi, one gather (docs/fidelity.md, eq. 7)."""
        log_normalizer = scaled.logsumexp(dim=-1)
        log_q = scaled.gather(1, self.ids) - log_normalizer[:, None]
        listed = _dot(self.p, log_q)
        if self.log_bucket is not None:
            log_q_rest = self._unlisted(scaled).logsumexp(dim=-1) - log_normalizer
            rest = torch.where(self.log_bucket.isfinite(), self.log_bucket.exp() * log_q_rest, 0.0)
            return -(listed + rest)
        if self.weight is None:
            return -listed
        mean = scaled.mean(dim=-1) if self.log_pi is None else self._own(scaled @ self.log_pi.exp().T)
        return -(listed + self.weight * (mean - log_normalizer - _dot(self._pi_listed(), log_q)))

    def cross_gradient(self, scaled: Tensor) -> Tensor:
        """See Targets.cross_gradient: (sum p^) q - p^, without p^ where nothing but the listed classes has a share."""
        if self.log_bucket is not None:
            with torch.enable_grad():
                leaf = scaled.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.cross(leaf).sum(), leaf)
            return gradient
        gradient = scaled.softmax(dim=-1)
        if self.weight is None:
            return gradient.mul_(self.p.sum(dim=-1, keepdim=True)).scatter_add_(1, self.ids, -self.p)
        weight, pi_listed = self.weight[:, None], self._pi_listed()
        total = self.p.sum(dim=-1, keepdim=True) + weight * (1 - pi_listed.sum(dim=-1, keepdim=True))
        gradient.mul_(total).sub_(
            weight * (1 / self.classes if self.log_pi is None else self.log_pi[self.which].exp_())
        )
        return gradient.scatter_add_(1, self.ids, weight * pi_listed - self.p)

    def entropy(self) -> Tensor:
        """See Targets.entropy."""
        total = _dot(self.p, self.log_p)
        if self.log_bucket is not None:
            return -total - torch.where(self.log_bucket.isfinite(), self.log_bucket.exp() * self.log_bucket, 0.0)
        if self.weight is None:
            return -total
        pi_listed = self._pi_listed().double()
        if self.log_pi is None:
            own = -math.log(self.classes) * (1 - pi_listed.sum(dim=-1))
        else:
            each = (self.log_pi.double().exp() * self.log_pi).sum(dim=-1)[self.which]
            own = each - _dot(pi_listed, self._log_pi_listed(self.log_pi).double())
        mass = self.weight * (1 - pi_listed.sum(dim=-1))
        tail = torch.where(self.weight > 0, mass * self.weight.log() + self.weight * own, 0.0)
        return (-total - tail).float()

    def outcomes(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Log q and log p^ of the listed classes and the bucket, (n, K + 1) each; padding is -inf in both."""
        if self.log_bucket is None:
            raise TypeError("these labels have no bucket")
        log_normalizer = scaled.logsumexp(dim=-1, keepdim=True)
        log_q = (scaled.gather(1, self.ids) - log_normalizer).masked_fill(self.log_p.isneginf(), -torch.inf)
        log_q_rest = self._unlisted(scaled).logsumexp(dim=-1, keepdim=True) - log_normalizer
        return torch.cat([log_q, log_q_rest], 1), torch.cat([self.log_p, self.log_bucket[:, None]], 1)

    def _unlisted(self, scaled: Tensor) -> Tensor:
        """(n, C) logits of the unlisted classes; those listed are -inf."""
        # Padding has id 0, which stays unlisted unless it is listed too: hence a maximum, not a plain scatter.
        listed = torch.zeros_like(scaled, dtype=torch.uint8)
        listed.scatter_reduce_(1, self.ids, self.log_p.isfinite().byte(), reduce="amax")
        return scaled.masked_fill(listed.bool(), -torch.inf)

    def _pi_listed(self) -> Tensor:
        """(n, K) tail prior of the listed classes, 0 where padded."""
        is_listed = self.log_p.isfinite()
        if self.log_pi is None:
            return is_listed.float() / self.classes
        return torch.where(is_listed, self._log_pi_listed(self.log_pi).exp(), 0.0)

    def _log_pi_listed(self, log_pi: Tensor) -> Tensor:
        """(n, K) of each row's own prior."""
        return log_pi[self.which[:, None], self.ids]

    def _own(self, by_prior: Tensor) -> Tensor:
        """Of (n, M) the entry of each row's own prior."""
        return by_prior.gather(1, self.which[:, None])[:, 0]


def place(labels: SoftLabels, temperature: float, device: torch.device) -> Targets:
    """Labels at ``temperature`` on ``device``.

    Raises:
        TemperatureNotStored: they hold no tail mass at this temperature.
    """
    if isinstance(labels, DenseLabels):
        values = torch.as_tensor(labels.values, device=device).float()
        return DenseTargets(values.reshape(-1, labels.classes) / temperature)
    index = labels.temperature_index(temperature)
    ids = torch.as_tensor(labels.ids, device=device).long()
    values = torch.as_tensor(labels.values, device=device).float()
    log_tail = torch.as_tensor(labels.log_tail, device=device)[:, index].float()
    log_p, weight, log_pi = values, None, None
    which = torch.zeros(len(ids), dtype=torch.int64, device=device)
    if labels.which is not None:
        which = torch.as_tensor(labels.which, device=device).long()
    if not labels.unbiased:
        scaled = values / temperature
        log_p = scaled - scaled.logsumexp(dim=-1, keepdim=True)
        if labels.tail != "renormalize":
            log_p = log_p + _log1mexp(log_tail)[:, None]
        if labels.tail in {"calibrated", "uniform"}:
            log_pi = _log_prior(labels, index, device)
            weight = _weight(log_p, ids, log_pi, which, log_tail, labels.classes)
    bucket = log_tail if labels.tail == "bucket" and not labels.unbiased else None
    return SparseTargets(labels.classes, ids, log_p.exp(), log_p, weight, log_pi, which, bucket)


def _log_prior(labels: SparseLabels, index: int, device: torch.device) -> Tensor | None:
    if labels.prior is None or labels.tail == "uniform":
        return None
    return torch.as_tensor(labels.prior[index], device=device).float().log().reshape(-1, labels.classes)


def _weight(log_p: Tensor, ids: Tensor, log_pi: Tensor | None, which: Tensor, log_tail: Tensor, classes: int) -> Tensor:
    """The factor exp(r) / (1 - pi(S)) of the prior."""
    is_listed = log_p.isfinite()
    if log_pi is None:
        pi_listed = is_listed.sum(dim=-1).double() / classes
    else:
        pi_listed = torch.where(is_listed, log_pi[which[:, None], ids].double().exp(), 0.0).sum(dim=-1)
    # The prior is nowhere 0, so what is left is 0 only where every class is listed, and then the tail is empty too.
    return (log_tail.double().exp() / (1 - pi_listed).clamp_min(1e-12)).float()


def _dot(weights: Tensor, logs: Tensor) -> Tensor:
    """Sum over the last axis of weights * logs; nothing where a weight is 0, whatever the log."""
    return torch.where(weights > 0, weights * logs, 0.0).sum(dim=-1)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012)."""
    return torch.where(x > -0.6931, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
