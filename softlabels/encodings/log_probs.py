"""How the log-probabilities of listed classes are kept: three ways, for any encoding that lists classes.

``f16``: each in half precision. ``q8``: 8 bits each, the row's greatest (``top``) and the step (``scale``) in float16.
``d2`` to ``d16``: the number of steps of 1/2 to 1/16 nat down from the one before; descending values take small steps,
which any compressor packs into one or two bits. A step of D nats costs at most about D^2/24 nats of KL
(docs/fidelity.md). The last hold a row's log-probabilities up to a constant, which the tail mass gives back.

Arrays here are padded, (B, K); ``pad`` and ``unpad`` go to and from the ragged columns of a store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.encodings import halves

if TYPE_CHECKING:
    from torch import Tensor

RULED_OUT = {"values": -np.inf, "codes": 255, "steps": 2**16 - 1}
"""What stands for a log-probability of -infinity, by column; padding too."""

LEVELS = 254
MOST_PADDED = 2**28
"""Entries of one padded array; a forged row of 65,535 classes among many short ones would ask for terabytes."""
ABOVE_ZERO = 1e-2
"""How far rounding may lift a log-probability above 0."""

NAMES = "f16|q8|d2|d4|d8|d16"


@dataclass(frozen=True)
class LogProbs:
    """A way to keep the log-probabilities of listed classes.

    Attributes:
        name: one of NAMES.
    """

    name: str

    @property
    def steps_a_nat(self) -> int:
        """Of the ``d`` ways; 0 for others."""
        match = re.fullmatch(r"d([0-9]+)", self.name)
        return int(match[1]) if match else 0

    @property
    def tail_dtype(self) -> str:
        """Of the log tail masses, as precise as the rest."""
        return "float16" if self.steps_a_nat else "float32"

    def columns(self, shape: tuple[int, ...], per: str | None) -> dict[str, Column]:
        """The columns, the one with an entry a listed class first.

        Args:
            shape: of an entry of that column: (K,), or () where it is ragged.
            per: the column that counts its entries.
        """
        if self.steps_a_nat:
            return {"steps": Column("uint16", shape, per)}
        if self.name == "q8":
            return {"codes": Column("uint8", shape, per), "top": Column("float16"), "scale": Column("float16")}
        return {"values": Column("float16", shape, per)}

    def encode(self, log_probs: Tensor) -> dict[str, NDArray[Any]]:
        """Arrays of (B, K) log-probabilities, descending."""
        from softlabels.encodings.logits import to_numpy

        if self.steps_a_nat:
            return {"steps": _differences(to_numpy(log_probs), self.steps_a_nat)}
        return _quantize(log_probs) if self.name == "q8" else {"values": to_numpy(log_probs.half())}

    def decode(self, arrays: Arrays, *, widen: bool = True) -> NDArray[np.float32]:
        """Return (B, K) log-probabilities; those of the ``d`` ways are up to a constant per row.

        Args:
            arrays: Columns of the listed classes.
            widen: Return float32. If False, float16 that is stored is returned as it is.
        """
        if self.steps_a_nat:
            steps = arrays["steps"]
            is_out = steps == RULED_OUT["steps"]
            down = np.cumsum(np.where(is_out, np.uint16(0), steps), axis=1, dtype=np.int32)
            return np.where(is_out, np.float32(-np.inf), down * np.float32(-1 / self.steps_a_nat))
        if self.name == "q8":
            codes = arrays["codes"]
            scale, top = arrays["scale"].astype(np.float32), arrays["top"].astype(np.float32)
            return np.where(codes == RULED_OUT["codes"], np.float32(-np.inf), top[:, None] - scale[:, None] * codes)
        return arrays["values"].astype(np.float32) if widen else arrays["values"]

    def check(self, arrays: Arrays) -> None:
        """Raise ValueError where values cannot have come from ``encode``."""
        if self.name == "f16" and halves.all_negative_and_falling(arrays["values"]):
            return
        with np.errstate(invalid="ignore"):
            values = self.decode(arrays)
        if np.isnan(values).any() or (values > ABOVE_ZERO).any():
            raise ValueError("log-probabilities that are NaN or above 0")
        if not np.isfinite(values[:, 0]).all() or (values[:, 1:] > values[:, :-1]).any():
            raise ValueError("log-probabilities that do not fall from the first, finite one")


def _differences(log_probs: NDArray[Any], steps_a_nat: int) -> NDArray[Any]:
    """Steps down from the value before; rounding does not add up along a row."""
    values = log_probs.astype(np.float64)
    finite = np.isfinite(values)
    down = np.rint(np.where(finite, values[:, :1] - np.where(finite, values, 0.0), 0.0) * steps_a_nat)
    steps = np.diff(down, axis=1, prepend=0.0).clip(0, RULED_OUT["steps"] - 1)
    return np.where(finite, steps, RULED_OUT["steps"]).astype(np.uint16)


def _quantize(log_probs: Tensor) -> dict[str, NDArray[Any]]:
    """Codes below the row's greatest log-probability, in steps of ``scale``."""
    import torch

    from softlabels.encodings.logits import to_numpy

    finite = log_probs.isfinite()
    top = log_probs[:, 0].half()
    low = torch.where(finite, log_probs, torch.inf).amin(dim=-1)
    half = torch.finfo(torch.float16)
    scale = ((top.float() - low) / LEVELS).clamp(half.tiny, half.max).half()
    codes = ((top.float()[:, None] - log_probs) / scale.float()[:, None]).round().clamp(0, LEVELS)
    codes = torch.where(finite, codes, float(RULED_OUT["codes"])).to(torch.uint8)
    return {"codes": to_numpy(codes), "top": to_numpy(top), "scale": to_numpy(scale)}


def pad(flat: NDArray[Any], counts: NDArray[np.integer], fill: float = 0) -> NDArray[Any]:
    """Ragged entries as (B, K), rows filled up with ``fill``; K is the greatest count, at least 1.

    Raises:
        ValueError: see padded_width.
    """
    width = padded_width(counts)
    out = np.full((len(counts), width), fill, flat.dtype)
    out[np.arange(width) < counts[:, None]] = flat
    return out


def padded_width(counts: NDArray[np.integer]) -> int:
    """How wide rows of so many entries are when padded, at least 1.

    Raises:
        ValueError: rows too many and too uneven to lie in memory together.
    """
    width = max(1, int(counts.max())) if len(counts) else 1
    if width * len(counts) > MOST_PADDED:
        raise ValueError(f"{len(counts):,} rows of up to {width:,} classes, too many to decode at once")
    return width


def unpad(padded: NDArray[Any], counts: NDArray[np.integer]) -> NDArray[Any]:
    """The first ``counts`` entries of each row of (B, K), one after the other."""
    return padded[np.arange(padded.shape[1]) < counts[:, None]]
