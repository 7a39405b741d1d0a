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
from softlabels.losses.coupling import Coupling
from softlabels.losses.log_arithmetic import dot, log1mexp
from softlabels.losses.predictions import Predictions
from softlabels.losses.priors import priors_of
from softlabels.losses.tails import BucketTail, PriorTail


class Targets(Protocol):
    """The teacher's distributions p^ of N rows at one temperature."""

    def rows(self, start: int, stop: int) -> Targets:
        """Return the targets of rows ``start`` to ``stop``."""

    def kl(self, log_q: Tensor) -> Tensor:
        """Return KL(p^ || q), (n,), from the student's log-probabilities, (n, C)."""

    def cross_entropy(self, log_q: Tensor) -> Tensor:
        """Return H(p^, q), (n,)."""

    def gradient(self, log_q: Tensor) -> Tensor:
        """Return the gradient of both with respect to the student's logits over T, (n, C): (sum p^) q - p^.

        Of dithered labels it is q - p^ + g (see ``softlabels.losses.coupling``).
        """

    def kl_and_gradient(self, student: Predictions) -> tuple[Tensor, Tensor]:
        """Return KL(p^ || q), (n,), and its gradient, (n, C); the predictions may be overwritten."""

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
        return dot(log_p.exp(), log_p - log_q)

    def cross_entropy(self, log_q: Tensor) -> Tensor:
        """See Targets.cross_entropy."""
        return -dot(self.log_probs(log_q).exp(), log_q)

    def gradient(self, log_q: Tensor) -> Tensor:
        """See Targets.gradient."""
        return log_q.exp().sub_(self.log_probs(log_q).exp_())

    def kl_and_gradient(self, student: Predictions) -> tuple[Tensor, Tensor]:
        """See Targets.kl_and_gradient."""
        teacher = Predictions.of(self._scaled())
        p = teacher.probs
        difference = torch.linalg.vecdot(p, teacher.centered.sub_(student.centered))
        value = difference + student.log_sum - teacher.log_sum
        if not bool(value.isfinite().all()):  # classes that are ruled out
            log_q = student.log_probs()
            return self.kl(log_q), self.gradient(log_q)
        return value, student.probs.sub_(p)

    def log_probs(self, log_q: Tensor) -> Tensor:
        """See Targets.log_probs."""
        return self._scaled().log_softmax(dim=-1)

    def outcomes(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """See Targets.outcomes."""
        return log_q, self.log_probs(log_q)

    def _scaled(self) -> Tensor:
        values = self.values.float()
        return values if self.temperature == 1 else values / self.temperature


@dataclass(frozen=True)
class SparseTargets:
    """Targets that list some classes of each row (docs/fidelity.md, eq. 3).

    Attributes:
        classes: Number of classes C.
        ids: (N, K) int64 class ids; padding has id 0.
        log_p: (N, K) float32 log-probabilities; -inf for padding.
        tail: Model of the remaining mass; None if the unlisted classes have no probability.
        coupling: Offsets of dithered labels, which have no tail; None: not known.
    """

    classes: int
    ids: Tensor
    log_p: Tensor
    tail: PriorTail | BucketTail | None
    coupling: Coupling | None = None

    def rows(self, start: int, stop: int) -> SparseTargets:
        """See Targets.rows."""
        tail = None if self.tail is None else self.tail.rows(start, stop)
        coupling = None if self.coupling is None else self.coupling.rows(start, stop)
        return replace(self, ids=self.ids[start:stop], log_p=self.log_p[start:stop], tail=tail, coupling=coupling)

    def kl(self, log_q: Tensor) -> Tensor:
        """See Targets.kl."""
        listed = dot(self.log_p.exp(), self.log_p - log_q.gather(1, self.ids))
        if self.coupling is not None:
            return listed + dot(self.coupling.expected_noise(log_q.exp()), log_q)
        return listed if self.tail is None else listed + self.tail.kl(log_q, self._unlisted())

    def cross_entropy(self, log_q: Tensor) -> Tensor:
        """See Targets.cross_entropy."""
        listed = -dot(self.log_p.exp(), log_q.gather(1, self.ids))
        if self.coupling is not None:
            return listed + dot(self.coupling.expected_noise(log_q.exp()), log_q)
        return listed if self.tail is None else listed + self.tail.cross_entropy(log_q, self._unlisted())

    def gradient(self, log_q: Tensor) -> Tensor:
        """See Targets.gradient."""
        p = self.log_p.exp()
        if self.coupling is not None:
            q = log_q.exp()
            return self.coupling.expected_noise(q).add_(q).scatter_add_(1, self.ids, -p)
        total, rest = p.sum(dim=-1, keepdim=True), None
        if self.tail is not None:
            rest = self.tail.probs(log_q, self._unlisted())
            total = total + rest.sum(dim=-1, keepdim=True)
        gradient = log_q.exp().mul_(total)
        if rest is not None:
            gradient.sub_(rest)
        return gradient.scatter_add_(1, self.ids, -p)

    def kl_and_gradient(self, student: Predictions) -> tuple[Tensor, Tensor]:
        """See Targets.kl_and_gradient."""
        both = None
        if self.coupling is not None:
            both = self._coupled_kl_and_gradient(student, self.coupling)
        elif self.tail is None:
            both = self._listed_kl_and_gradient(student)
        elif isinstance(self.tail, PriorTail):
            both = self.tail.kl_and_gradient(student, self.ids, self.log_p)
        if both is not None:
            return both
        log_q = student.log_probs()
        return self.kl(log_q), self.gradient(log_q)

    def _listed_kl_and_gradient(self, student: Predictions) -> tuple[Tensor, Tensor]:
        p = self.log_p.exp()
        value = dot(p, self.log_p - student.log_probs_of(self.ids))
        return value, student.probs.mul_(p.sum(dim=-1, keepdim=True)).scatter_add_(1, self.ids, -p)

    def _coupled_kl_and_gradient(self, student: Predictions, coupling: Coupling) -> tuple[Tensor, Tensor] | None:
        p = self.log_p.exp()
        value = dot(p, self.log_p - student.log_probs_of(self.ids)) + coupling.add_expected_noise(student)
        if bool(value.isnan().any()):  # classes that are ruled out
            return None
        return value, student.probs.scatter_add_(1, self.ids, -p)

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

    def value_and_gradient(self, student: Predictions) -> tuple[Tensor, Tensor]:
        """Return the loss of each row, (n,), and its gradient with respect to the student's logits over T, (n, C)."""
        ids = self.hard[:, None]
        at_1 = student if self.temperature == 1 else Predictions.of(student.centered * self.temperature)
        log_q, q = at_1.log_probs_of(ids)[:, 0], at_1.probs.clone()
        soft, gradient = self.soft.kl_and_gradient(student)
        share = (1 - self.alpha) * self.temperature
        gradient = gradient.mul_(self.alpha * self.temperature**2).add_(q, alpha=share)
        value = (self.alpha * self.temperature**2) * soft - (1 - self.alpha) * log_q
        return value, gradient.scatter_add_(1, ids, gradient.new_full((), -share).expand(ids.shape))


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
        return SparseTargets(labels.classes, ids, log_p, None, Coupling.of(labels.dither, device))
    log_mass = torch.as_tensor(labels.log_tail, device=device)[:, index].float()
    log_p = (log_p / temperature).log_softmax(dim=-1)
    if labels.tail == "renormalize":
        return SparseTargets(labels.classes, ids, log_p, None)
    log_p = log_p + log1mexp(log_mass)[:, None]
    if labels.tail == "bucket":
        return SparseTargets(labels.classes, ids, log_p, BucketTail(log_mass))
    return SparseTargets(labels.classes, ids, log_p, _prior_tail(labels, index, log_mass))


def _prior_tail(labels: SparseLabels, index: int, log_mass: Tensor) -> PriorTail:
    priors = priors_of(None if labels.tail == "uniform" else labels.prior, index, labels.classes, log_mass.device)
    if labels.prior_index is None or labels.tail == "uniform":
        prior_index = torch.zeros(len(log_mass), dtype=torch.int64, device=log_mass.device)
    else:
        prior_index = torch.as_tensor(labels.prior_index, device=log_mass.device).long()
    return PriorTail(log_mass, priors, prior_index)
