"""The tail prior: the distribution of the probability that rows do not list, from sums over rows.

Its material is two numbers per class and temperature, Encoded.residual, which add up over batches and units: the
probability that rows leave to the class, and the share of an even spread. NumPy alone, since stores are sealed and
merged without torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIFORM_SHARE = 0.01
"""Share of a uniform distribution in the tail prior, so that no class has probability 0."""


def exposure(
    log_tail: NDArray[np.floating], row: NDArray[np.integer], column: NDArray[np.integer], classes: int
) -> NDArray[np.float64]:
    """Return (T, C) sums over rows of C times an even spread of each row's unlisted mass over its unlisted classes.

    Args:
        log_tail: (B, T) log of the unlisted mass.
        row: (n,) row of each listed class.
        column: (n,) id of each listed class.
        classes: Number of classes C.
    """
    unlisted = classes - np.bincount(row, minlength=len(log_tail))
    mass = np.exp(log_tail.astype(np.float64)) * (classes / np.maximum(unlisted, 1))[:, None]
    listed = [np.bincount(column, of_rows[row], minlength=classes) for of_rows in mass.T]
    spread: NDArray[np.float64] = np.maximum(mass.sum(axis=0)[:, None] - np.stack(listed), 0.0)
    return spread


def tail_prior(sums: Iterable[NDArray[np.floating[Any]]], classes: int) -> NDArray[np.float32]:
    """Return the tail prior, (len(temperatures), C), from the sums of units.

    It is one step, from an even start, of the iteration that leads to the prior of least KL (docs/fidelity.md, eq. 4;
    Hunter 2004). It is at least as good as an even spread, which the mean residual is not if some classes are often
    listed.

    Args:
        sums: (2, len(temperatures), C) sums of each unit, added in the order of the iterable.
        classes: Number of classes C.

    Raises:
        ValueError: There are no sums.
    """
    total: NDArray[np.float64] | None = None
    for of_unit in sums:
        total = of_unit.astype(np.float64) if total is None else total + of_unit
    if total is None:
        raise ValueError("no unit carries sums for the tail prior")
    ratio = np.divide(total[0], total[1], out=np.zeros_like(total[0]), where=total[1] > 0)
    mass = ratio.sum(axis=1, keepdims=True)
    share = np.divide(ratio, mass, out=np.full_like(ratio, 1.0 / classes), where=mass > 0)
    prior: NDArray[np.float32] = ((1 - UNIFORM_SHARE) * share + UNIFORM_SHARE / classes).astype(np.float32)
    return prior


def sums_of(
    prior: NDArray[np.float32], exposure: NDArray[np.float64], mass: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return sums (2, T, C) from which tail_prior makes ``prior``, for rows whose own sums are no longer known.

    Args:
        prior: (T, C) tail prior.
        exposure: (T, C), the second of the sums.
        mass: (T,) mass that the rows do not list.
    """
    share = np.maximum(prior.astype(np.float64) - UNIFORM_SHARE / prior.shape[1], 0) * exposure
    total = share.sum(axis=1)
    return np.stack([share * np.divide(mass, total, out=np.zeros_like(total), where=total > 0)[:, None], exposure])
