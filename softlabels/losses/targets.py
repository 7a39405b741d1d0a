"""Soft labels on the student's device at one temperature: the teacher's distribution p^, block by block.

Labels of N rows stay as they are stored, O(N K) numbers for sparse ones. A dense (n, C) array exists for one block of
rows at a time. Every method takes the student's log-probabilities log q of the block, because classes that the student
rules out (log q = -inf) take no share of the tail: the tail prior is restricted to the classes that are left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from softlabels.labels import DenseLabels, SoftLabels, SparseLabels

FINITE = -1e30
"""Stand-in for a log-probability of -inf that is multiplied by 0."""


class Targets(Protocol):
    """The teacher's distributions p^ of N rows at one temperature."""

    def rows(self, start: int, stop: int) -> Targets:
        """Return the targets of rows ``start`` to ``stop``."""

    def kl(self, log_q: Tensor) -> Tensor:
        """Return KL(p^ || q), (n,), from the student's log-probabilities, (n, C)."""

    def cross_entropy(self, log_q: Tensor) -> Tensor:
        """Return H(p^, q), (n,)."""

    def gradient(self, log_q: Tensor) -> Tensor:
        """Return the gradient of both with respect to the student's logits over T, (n, C): (sum p^) q - p^."""

    def log_probs(self, log_q: Tensor) -> Tensor:
        """Return log p^, (n, C) float32; -inf for a class without probability."""

    def outcomes(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """Return log q and log p^ of the outcomes that are told apart, (n, outcomes) each: classes, or a bucket too."""


@dataclass(frozen=True)
class DenseTargets:
    """Targets with a logit for every class.

    Attributes:
        values: (N, C) logits of any float dtype; -inf for a class that the teacher rules out.
        temperature: Temperature T.
    """

    values: Tensor
    temperature: float

    def rows(self, start: int, stop: int) -> DenseTargets:
        """See Targets.rows."""
        return DenseTargets(self.values[start:stop], self.temperature)

    def kl(self, log_q: Tensor) -> Tensor:
        """See Targets.kl."""
        log_p = self.log_probs(log_q)
        return _dot(log_p.exp(), log_p - log_q)

    def cross_entropy(self, log_q: Tensor) -> Tensor:
        """See Targets.cross_entropy."""
        return -_dot(self.log_probs(log_q).exp(), log_q)

    def gradient(self, log_q: Tensor) -> Tensor:
        """See Targets.gradient."""
        return log_q.exp().sub_(self.log_probs(log_q).exp_())

    def log_probs(self, log_q: Tensor) -> Tensor:
        """See Targets.log_probs."""
        return (self.values.float() / self.temperature).log_softmax(dim=-1)

    def outcomes(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """See Targets.outcomes."""
        return log_q, self.log_probs(log_q)


class Tail(Protocol):
    """Model of the mass that a row's listed classes leave."""

    def rows(self, start: int, stop: int) -> Tail:
        """Return the tails of rows ``start`` to ``stop``."""

    def kl(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """Return the share of the unlisted classes in KL(p^ || q), (n,).

        Args:
            log_q: (n, C) log-probabilities of the student.
            unlisted: (n, C) bool, the classes that are not listed.
        """

    def cross_entropy(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """Return the share of the unlisted classes in H(p^, q), (n,); arguments as for ``kl``."""

    def probs(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """Return p^ of the unlisted classes for the gradient, (n, C), 0 for listed ones; arguments as for ``kl``."""


@dataclass(frozen=True)
class PriorTail:
    """A tail that follows a prior over the unlisted classes (docs/fidelity.md, eq. 3).

    Attributes:
        log_mass: (N,) float32, log of the unlisted mass.
        log_prior: (M, C) float32, logs of the priors; (M, 1) where they are uniform.
        prior_index: (N,) int64, index of each row's prior.
    """

    log_mass: Tensor
    log_prior: Tensor
    prior_index: Tensor

    def rows(self, start: int, stop: int) -> PriorTail:
        """See Tail.rows."""
        return PriorTail(self.log_mass[start:stop], self.log_prior, self.prior_index[start:stop])

    def kl(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.kl: exp(r) log w + w sum over unlisted v of pi_v (log pi_v - log q_v), w the factor of the prior."""
        log_prior = self._log_prior()
        share, log_weight = self._spread(log_prior, log_q, unlisted)
        apart = (share * (log_prior - log_q.clamp_min(FINITE))).sum(dim=-1)
        mass = log_weight.exp() * share.sum(dim=-1)
        return _times(mass, log_weight) + log_weight.exp() * apart

    def cross_entropy(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.cross_entropy."""
        share, log_weight = self._spread(self._log_prior(), log_q, unlisted)
        return -log_weight.exp() * (share * log_q.clamp_min(FINITE)).sum(dim=-1)

    def probs(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.probs."""
        share, log_weight = self._spread(self._log_prior(), log_q, unlisted)
        return share.mul_(log_weight.exp()[:, None])

    def log_probs(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """Return log p^ of the unlisted classes, (n, C), -inf for listed ones; arguments as for ``kl``."""
        log_prior = self._log_prior()
        _, log_weight = self._spread(log_prior, log_q, unlisted)
        is_open = unlisted & (log_q > -torch.inf)
        return torch.where(is_open, log_prior + log_weight[:, None], -torch.inf)

    def _log_prior(self) -> Tensor:
        """Return the log prior of each row, (n, C), or one that broadcasts to that shape."""
        return self.log_prior if len(self.log_prior) == 1 else self.log_prior[self.prior_index]

    def _spread(self, log_prior: Tensor, log_q: Tensor, unlisted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prior of the open classes, (n, C), and the log of its factor w = exp(r) / sum, (n,).

        Open classes are unlisted and not ruled out by the student. The mass of a row without any is dropped.
        """
        share = torch.where(unlisted & (log_q > -torch.inf), log_prior.exp(), 0.0)
        total = share.sum(dim=-1)
        return share, torch.where(total > 0, self.log_mass - total.log(), -torch.inf)


@dataclass(frozen=True)
class BucketTail:
    """A tail that is one outcome: any of the unlisted classes.

    Attributes:
        log_mass: (N,) float32, log of its probability.
    """

    log_mass: Tensor

    def rows(self, start: int, stop: int) -> BucketTail:
        """See Tail.rows."""
        return BucketTail(self.log_mass[start:stop])

    def kl(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.kl."""
        return _times(self.log_mass.exp(), self.log_mass - self.log_rest(log_q, unlisted))

    def cross_entropy(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.cross_entropy."""
        return -_times(self.log_mass.exp(), self.log_rest(log_q, unlisted))

    def probs(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.probs: the mass, split among the unlisted classes as the student splits its own."""
        rest = self.log_rest(log_q, unlisted)
        excess = torch.where(rest.isfinite(), self.log_mass - rest, -torch.inf)
        return torch.where(unlisted, log_q + excess[:, None], -torch.inf).exp_()

    @staticmethod
    def log_rest(log_q: Tensor, unlisted: Tensor) -> Tensor:
        """Return the student's log-probability of the bucket, (n,)."""
        return logsumexp(torch.where(unlisted, log_q, -torch.inf))


@dataclass(frozen=True)
class SparseTargets:
    """Targets that list some classes of each row (docs/fidelity.md, eq. 3).

    Attributes:
        classes: Number of classes C.
        ids: (N, K) int64 class ids; padding has id 0.
        log_p: (N, K) float32 log-probabilities; -inf for padding.
        tail: Model of the remaining mass; None if the unlisted classes have no probability.
    """

    classes: int
    ids: Tensor
    log_p: Tensor
    tail: PriorTail | BucketTail | None

    def rows(self, start: int, stop: int) -> SparseTargets:
        """See Targets.rows."""
        tail = None if self.tail is None else self.tail.rows(start, stop)
        return replace(self, ids=self.ids[start:stop], log_p=self.log_p[start:stop], tail=tail)

    def kl(self, log_q: Tensor) -> Tensor:
        """See Targets.kl."""
        listed = _dot(self.log_p.exp(), self.log_p - log_q.gather(1, self.ids))
        return listed if self.tail is None else listed + self.tail.kl(log_q, self._unlisted())

    def cross_entropy(self, log_q: Tensor) -> Tensor:
        """See Targets.cross_entropy."""
        listed = -_dot(self.log_p.exp(), log_q.gather(1, self.ids))
        return listed if self.tail is None else listed + self.tail.cross_entropy(log_q, self._unlisted())

    def gradient(self, log_q: Tensor) -> Tensor:
        """See Targets.gradient."""
        p = self.log_p.exp()
        total, rest = p.sum(dim=-1, keepdim=True), None
        if self.tail is not None:
            rest = self.tail.probs(log_q, self._unlisted())
            total = total + rest.sum(dim=-1, keepdim=True)
        gradient = log_q.exp().mul_(total)
        if rest is not None:
            gradient.sub_(rest)
        return gradient.scatter_add_(1, self.ids, -p)

    def log_probs(self, log_q: Tensor) -> Tensor:
        """See Targets.log_probs; the mass of a bucket, which is no class, is missing."""
        if isinstance(self.tail, PriorTail):
            unlisted = self.tail.log_probs(log_q, self._unlisted())
        else:
            unlisted = self.log_p.new_full((len(self.ids), self.classes), -torch.inf)
        # Padding goes to a column of its own, which is cut off.
        out = torch.nn.functional.pad(unlisted, (0, 1))
        return out.scatter_(1, self._slots(), self.log_p)[:, : self.classes]

    def outcomes(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """See Targets.outcomes."""
        if not isinstance(self.tail, BucketTail):
            return log_q, self.log_probs(log_q)
        listed = log_q.gather(1, self.ids).masked_fill(self.log_p.isneginf(), -torch.inf)
        rest = self.tail.log_rest(log_q, self._unlisted())
        return torch.cat([listed, rest[:, None]], 1), torch.cat([self.log_p, self.tail.log_mass[:, None]], 1)

    def _slots(self) -> Tensor:
        """Return the ids, (n, K), with C in place of padding."""
        return self.ids.masked_fill(self.log_p.isneginf(), self.classes)

    def _unlisted(self) -> Tensor:
        """Return a mask of the classes that are not listed, (n, C) bool."""
        mask = torch.ones((len(self.ids), self.classes + 1), dtype=torch.bool, device=self.ids.device)
        return mask.scatter_(1, self._slots(), value=False)[:, : self.classes]


@dataclass(frozen=True)
class MixedTargets:
    """Soft labels at T and a hard label of each row, for alpha * T^2 * KL + (1 - alpha) * cross-entropy.

    Attributes:
        soft: Soft labels.
        hard: (N,) int64 class ids.
        alpha: Weight of the soft labels, 0 to 1.
        temperature: Temperature T of the soft labels.
    """

    soft: Targets
    hard: Tensor
    alpha: float
    temperature: float

    def rows(self, start: int, stop: int) -> MixedTargets:
        """See Targets.rows."""
        return replace(self, soft=self.soft.rows(start, stop), hard=self.hard[start:stop])

    def value(self, log_q: Tensor) -> Tensor:
        """Return the loss of each row, (n,), from the student's log-probabilities at T, (n, C)."""
        soft = (self.alpha * self.temperature**2) * self.soft.kl(log_q)
        return soft - (1 - self.alpha) * self._at_1(log_q).gather(1, self.hard[:, None])[:, 0]

    def gradient(self, log_q: Tensor) -> Tensor:
        """Return the gradient of the loss with respect to the student's logits over T, (n, C)."""
        gradient = self.soft.gradient(log_q).mul_(self.alpha * self.temperature**2)
        share = (1 - self.alpha) * self.temperature
        gradient.add_(self._at_1(log_q).exp(), alpha=share)
        ids = self.hard[:, None]
        return gradient.scatter_add_(1, ids, gradient.new_full((), -share).expand(ids.shape))

    def _at_1(self, log_q: Tensor) -> Tensor:
        return log_q if self.temperature == 1 else (log_q * self.temperature).log_softmax(dim=-1)


def place(labels: SoftLabels, temperature: float, device: torch.device) -> Targets:
    """Return labels at ``temperature`` as targets on ``device``.

    Args:
        labels: Labels of a distribution; their arrays may be NumPy arrays or tensors of any width.
        temperature: Temperature T.
        device: Device of the student's logits.

    Raises:
        TemperatureNotStored: The labels hold no tail mass at this temperature.
    """
    if isinstance(labels, DenseLabels):
        values = torch.as_tensor(labels.values, device=device)
        return DenseTargets(values.reshape(-1, labels.classes), temperature)
    index = labels.temperature_index(temperature)
    ids = torch.as_tensor(labels.ids, device=device).long()
    log_p = torch.as_tensor(labels.values, device=device).float()
    if labels.unbiased:
        return SparseTargets(labels.classes, ids, log_p, None)
    log_mass = torch.as_tensor(labels.log_tail, device=device)[:, index].float()
    log_p = (log_p / temperature).log_softmax(dim=-1)
    if labels.tail == "renormalize":
        return SparseTargets(labels.classes, ids, log_p, None)
    log_p = log_p + _log1mexp(log_mass)[:, None]
    if labels.tail == "bucket":
        return SparseTargets(labels.classes, ids, log_p, BucketTail(log_mass))
    return SparseTargets(labels.classes, ids, log_p, _prior_tail(labels, index, log_mass))


def _prior_tail(labels: SparseLabels, index: int, log_mass: Tensor) -> PriorTail:
    if labels.prior is None or labels.tail == "uniform":
        log_prior = log_mass.new_zeros((1, 1))
    else:
        prior = torch.as_tensor(labels.prior[index], device=log_mass.device).float()
        log_prior = prior.clamp_min(torch.finfo(torch.float32).tiny).log().reshape(-1, labels.classes)
    if labels.prior_index is None:
        prior_index = torch.zeros(len(log_mass), dtype=torch.int64, device=log_mass.device)
    else:
        prior_index = torch.as_tensor(labels.prior_index, device=log_mass.device).long()
    return PriorTail(log_mass, log_prior, prior_index)


def logsumexp(logs: Tensor) -> Tensor:
    """Return the log of the sum of exponentials over the last axis; -inf, with gradient 0, where every entry is."""
    top = logs.detach().amax(dim=-1)
    shift = torch.where(top.isneginf(), 0.0, top)
    total = (logs - shift[..., None]).exp().sum(dim=-1)
    return torch.where(total == 0, -torch.inf, torch.where(total == 0, 1.0, total).log() + shift)


def _times(weights: Tensor, logs: Tensor) -> Tensor:
    """Return weights * logs; 0 where the weight is, whatever the log."""
    return torch.where(weights == 0, 0.0, weights * logs)


def _dot(weights: Tensor, logs: Tensor) -> Tensor:
    """Return the sum over the last axis of weights * logs; a weight of 0 adds 0, whatever the log."""
    return _times(weights, logs).sum(dim=-1)


def _log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012)."""
    return torch.where(x > -0.6931, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
