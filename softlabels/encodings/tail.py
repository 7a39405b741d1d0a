"""The tail prior: how the probability that rows do not list is spread, from sums over rows.

Its material is two numbers a class and temperature, Encoded.residual, that add up over batches and units: what rows
left to the class, and what an even spread would have. NumPy alone: stores are sealed and merged without torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIFORM_SHARE = 0.01
"""Of the tail prior, so that no class has probability 0."""


def exposure(
    log_tail: NDArray[np.floating], row: NDArray[np.integer], column: NDArray[np.integer], classes: int
) -> NDArray[np.float64]:
    """What a class would be given of the rows' unlisted mass if each spread it evenly, times C: (T, C).

    Args:
        log_tail: (B, T) log of the unlisted mass.
        row: (n,) of each listed class.
        column: (n,) the class.
        classes: C.
    """
    unlisted = classes - np.bincount(row, minlength=len(log_tail))
    mass = np.exp(log_tail.astype(np.float64)) * (classes / np.maximum(unlisted, 1))[:, None]
    listed = [np.bincount(column, one[row], minlength=classes) for one in mass.T]
    found: NDArray[np.float64] = np.maximum(mass.sum(axis=0)[:, None] - np.stack(listed), 0.0)
    return found


def tail_prior(sums: Iterable[NDArray[np.floating[Any]]], classes: int) -> NDArray[np.float32]:
    """The tail prior (len(temperatures), C) from units' sums (2, len(temperatures), C), in the order given.

    One step, from an even start, of the iteration that leads to the prior of least KL (docs/fidelity.md, eq. 4; Hunter
    2004): at least as good as an even spread, which the mean residual is not where some classes are often listed.
    """
    total: NDArray[np.float64] | None = None
    for part in sums:
        total = part.astype(np.float64) if total is None else total + part
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
    """Sums (2, T, C) that tail_prior would make ``prior`` of, where those of the rows are no longer known.

    Args:
        prior: (T, C).
        exposure: (T, C), the second of the sums.
        mass: (T,) that the rows do not list.
    """
    share = np.maximum(prior.astype(np.float64) - UNIFORM_SHARE / prior.shape[1], 0) * exposure
    whole = share.sum(axis=1)
    return np.stack([share * np.divide(mass, whole, out=np.zeros_like(whole), where=whole > 0)[:, None], exposure])
