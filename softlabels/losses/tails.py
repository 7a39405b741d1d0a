"""Models of the mass that a row's listed classes leave: a prior over the unlisted classes, or one bucket of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from softlabels.losses.log_arithmetic import FINITE, dot, logsumexp, times
from softlabels.losses.predictions import Predictions
from softlabels.losses.priors import Priors

STRIP = {"cpu": 2**16}
"""Probabilities of priors that are gathered together, by type of device."""
STRIP_ELSEWHERE = 2**24
"""The same on other devices."""
MIN_REST = 1e-6
"""Share of a prior that unlisted classes must have for sums over them to be differences of sums over all."""


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
        priors: The priors.
        prior_index: (N,) int64, index of each row's prior.
    """

    log_mass: Tensor
    priors: Priors
    prior_index: Tensor

    def rows(self, start: int, stop: int) -> PriorTail:
        """See Tail.rows."""
        return PriorTail(self.log_mass[start:stop], self.priors, self.prior_index[start:stop])

    def kl(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.kl: exp(r) log w + w sum over unlisted v of pi_v (log pi_v - log q_v), w the factor of the prior."""
        log_prior = self._log_prior()
        share, log_weight = self._spread(log_prior, log_q, unlisted)
        apart = (share * (log_prior - log_q.clamp_min(FINITE))).sum(dim=-1)
        mass = log_weight.exp() * share.sum(dim=-1)
        return times(mass, log_weight) + log_weight.exp() * apart

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

    def kl_and_gradient(self, student: Predictions, ids: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return KL(p^ || q), (n,), and its gradient, (n, C), without a mask of the unlisted classes.

        Sums of the prior over unlisted classes are differences, in float64, of those over all and over listed ones. The
        sum of its products with log q takes logits whose listed entries are 0. None, with the predictions as they were,
        where that is not exact: the student rules a class out, the listed classes have almost all of the prior, or the
        first entry of a row is padding.

        Args:
            student: Predictions of the student, which are overwritten.
            ids: (n, K) listed classes.
            log_p: (n, K) their log-probabilities, -inf for padding.
        """
        is_padding = log_p.isneginf()
        total = self._of_rows(self.priors.total)
        listed = self.priors.probs[self.prior_index[:, None], ids].double().masked_fill_(is_padding, 0.0)
        rest = total - listed.sum(dim=-1)
        if bool((is_padding[:, 0] | (rest < MIN_REST * total)).any()):
            return None
        slots = torch.where(is_padding, ids[:, :1], ids)
        logits = student.centered.gather(1, slots)
        student.centered.scatter_(1, slots, 0.0)
        products = torch.cat([_row_products(student.centered[rows], probs) for rows, probs in self._strips()])
        if not bool(products.isfinite().all() & logits.isfinite().all()):
            student.centered.scatter_(1, slots, logits)
            return None
        log_weight = self.log_mass - rest.log()
        weight = log_weight.exp()
        apart = self._of_rows(self.priors.entropy) - torch.special.xlogy(listed, listed).sum(dim=-1)
        apart += rest * student.log_sum - products
        p, log_q = log_p.exp(), logits - student.log_sum[:, None]
        value = dot(p, log_p - log_q) + times(self.log_mass.exp(), log_weight) + times(weight, apart)
        gradient, factors = student.probs, weight.float()[:, None]
        for rows, probs in self._strips():
            gradient[rows].addcmul_(probs, factors[rows], value=-1)
        at_listed = log_q.exp_().sub_(p)
        return value.float(), gradient.scatter_(1, slots, torch.where(is_padding, at_listed[:, :1], at_listed))

    def _strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows with their priors, a few at a time: gathered priors then stay in the processor's cache."""
        count, (priors, classes) = len(self.prior_index), self.priors.probs.shape
        if priors == 1:
            yield slice(count), self.priors.probs
            return
        step = max(1, STRIP.get(self.log_mass.device.type, STRIP_ELSEWHERE) // classes)
        for start in range(0, count, step):
            rows = slice(start, start + step)
            yield rows, self.priors.probs.index_select(0, self.prior_index[rows])

    def _log_prior(self) -> Tensor:
        """Return the log prior of each row, (n, C), or one that broadcasts to that shape."""
        return self._of_rows(self.priors.log_probs)

    def _of_rows(self, values: Tensor) -> Tensor:
        """Return values of priors, (M, ...), by row, (n, ...); (1, ...) of one prior."""
        return values if len(values) == 1 else values.index_select(0, self.prior_index)

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
        return times(self.log_mass.exp(), self.log_mass - self.log_rest(log_q, unlisted))

    def cross_entropy(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.cross_entropy."""
        return -times(self.log_mass.exp(), self.log_rest(log_q, unlisted))

    def probs(self, log_q: Tensor, unlisted: Tensor) -> Tensor:
        """See Tail.probs: the mass, split among the unlisted classes as the student splits its own."""
        rest = self.log_rest(log_q, unlisted)
        excess = torch.where(rest.isfinite(), self.log_mass - rest, -torch.inf)
        return torch.where(unlisted, log_q + excess[:, None], -torch.inf).exp_()

    @staticmethod
    def log_rest(log_q: Tensor, unlisted: Tensor) -> Tensor:
        """Return the student's log-probability of the bucket, (n,)."""
        return logsumexp(torch.where(unlisted, log_q, -torch.inf))


def _row_products(logs: Tensor, priors: Tensor) -> Tensor:
    """Return the sum over classes of logs, (n, C), times priors, (n, C) or (1, C)."""
    return logs @ priors[0] if len(priors) == 1 else torch.linalg.vecdot(logs, priors)
