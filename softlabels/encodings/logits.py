"""Checks of logits before they are encoded (torch side)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidLogits
from softlabels.labels import DISTRIBUTIONS, Head

if TYPE_CHECKING:
    from torch import Tensor


def checked_float(logits: Tensor, head: Head, rows: NDArray[np.int64]) -> Tensor:
    """Return ``logits`` as (B, *shape, C) float32 that can be labels.

    A class of a distribution may be ruled out by -infinity; anything else must be finite.

    Raises:
        InvalidLogits: Another shape, NaN, +infinity, or a row without any finite logit. The message names the row.
    """
    check_shape(logits, head, rows)
    values = logits.detach().float()
    flat = values.flatten(1)
    if bool(flat.sum(dim=1).isfinite().all()):
        return values  # a sum shows every NaN and infinity; one that overflows is looked at below
    is_valid = flat.isfinite().all(dim=1)
    if head.kind in DISTRIBUTIONS:
        has_finite = values.isfinite().any(dim=-1, keepdim=True).flatten(1).all(dim=1)
        is_valid = ~flat.isnan().any(dim=1) & ~flat.isposinf().any(dim=1) & has_finite
    if not bool(is_valid.all()):
        position = int(is_valid.int().argmin())
        invalid = flat[position][~flat[position].isfinite()]
        raise InvalidLogits(
            f"row {int(rows[position])}: {len(invalid)} of {flat.shape[1]} values are not finite (the first is "
            f"{float(invalid[0])}). Look for overflow in half precision or damaged weights. Committed units "
            "stay in the store"
        )
    return values


def check_shape(logits: Tensor, head: Head, rows: NDArray[np.int64]) -> None:
    """Raise InvalidLogits unless there is a logit of each class for each row."""
    expected = (len(rows), *head.position_shape, head.classes)
    if tuple(logits.shape) != expected:
        raise InvalidLogits(f"logits: got shape {tuple(logits.shape)}; expected {expected}")


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as a contiguous array on the CPU."""
    array: NDArray[Any] = tensor.contiguous().cpu().numpy()
    return array


def true_places(mask: Tensor) -> Tensor:
    """Return the places at which a mask is true, flattened, ascending; NumPy is ten times faster than torch."""
    import torch

    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero()[:, 0]
