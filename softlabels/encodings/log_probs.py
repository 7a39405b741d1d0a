"""Storage of the log-probabilities of listed classes, in three ways, for any encoding that lists classes.

``f16``: each in half precision. ``q8``: 8 bits each, with the row's greatest (``top``) and the step (``scale``) in
float16; a class that is too far below the greatest to have a probability is stored as -infinity, so that fills such as
-1e4 do not widen the step. ``d2`` to ``d16``: the number of steps of 1/2 to 1/16 nat down from the value before;
descending values take small steps, which any compressor packs into one or two bits. A step of D nats costs at most
about D^2/24 nats of KL (docs/fidelity.md). The last hold a row's log-probabilities up to a constant, which the tail
mass gives back.

Arrays here are padded, (B, K); ``pad`` and ``unpad`` convert from and to the ragged columns of a store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.encodings import halves

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("f16", "q8", "d2", "d4", "d8", "d16")

RULED_OUT = {"values": -np.inf, "codes": 255, "steps": 2**16 - 1}
"""Value that stands for a log-probability of -infinity, and for padding, by column."""

LEVELS = 254
"""Codes 0 to 254 of q8 divide the range from the row's greatest to its least log-probability."""

MAX_RANGE = 64.0
"""Upper bound of that range, in nats at the highest captured temperature."""

HALF_MANTISSA, HALF_NORMAL, HALF_INFINITY = 10, 0x0400, 0x7C00
"""Bits of the mantissa of a float16, and the bits of its least normal number and of its infinity."""

MAX_PADDED = 2**28
"""Upper bound of the entries of a padded array, which one forged row of 65,535 classes would make far larger."""

MAX_ABOVE_ZERO = 1e-2
"""Largest log-probability that rounding may give."""


@dataclass(frozen=True)
class LogProbs:
    """One way to store the log-probabilities of listed classes.

    Attributes:
        name: One of NAMES.
    """

    name: str

    @property
    def steps_per_nat(self) -> int:
        """Steps per nat of the ``d`` ways; 0 for others."""
        return int(self.name[1:]) if self.name.startswith("d") else 0

    @property
    def tail_dtype(self) -> str:
        """Type of the log tail masses, as precise as the log-probabilities."""
        return "float16" if self.steps_per_nat else "float32"

    def rounded_tail(self, tails: Tensor) -> Tensor:
        """Return log tail masses as they are stored, as precise as the log-probabilities.

        The ``d`` ways keep log2(steps per nat) + 1 bits of the float16's mantissa; the others are noise that does not
        compress. The KL that this costs is at most a sixth of that of the steps: 4e-4 nats for d4 (docs/fidelity.md).

        Args:
            tails: Log of the unlisted mass, float32.
        """
        if not self.steps_per_nat:
            return tails
        import torch

        dropped = HALF_MANTISSA - self.steps_per_nat.bit_length()
        bits = tails.half().view(torch.int16).bitwise_and(0x7FFF)
        # Rounded to the nearest; a carry into the exponent is the next power of two. Masses are at most 1, so the sign
        # is that of a negative number.
        rounded = (bits + 2 ** (dropped - 1)).bitwise_and(-(2**dropped))
        is_rounded = (bits >= HALF_NORMAL) & (bits < HALF_INFINITY)  # subnormal numbers have fewer bits already
        magnitude = torch.where(is_rounded, rounded.clamp(max=HALF_INFINITY), bits)
        return -magnitude.view(torch.float16)

    def columns(self, shape: tuple[int, ...], per: str | None) -> dict[str, Column]:
        """Return the columns, the one with an entry per listed class first.

        Args:
            shape: Shape of an entry of that column: (K,), or () if it is ragged.
            per: Column that counts its entries; None if it is not ragged.
        """
        if self.steps_per_nat:
            return {"steps": Column("uint16", shape, per)}
        if self.name == "q8":
            return {"codes": Column("uint8", shape, per), "top": Column("float16"), "scale": Column("float16")}
        return {"values": Column("float16", shape, per)}

    def encode(self, log_probs: Tensor, *, max_temperature: float = 1.0) -> dict[str, NDArray[Any]]:
        """Return the arrays of (B, K) log-probabilities, descending.

        Args:
            log_probs: Log-probabilities at T = 1.
            max_temperature: Highest temperature at which the labels will be read.
        """
        from softlabels.encodings.logits import to_numpy

        if self.steps_per_nat:
            return {"steps": _differences(to_numpy(log_probs), self.steps_per_nat)}
        if self.name == "q8":
            return _quantize(log_probs, MAX_RANGE * max(1.0, max_temperature))
        return {"values": to_numpy(log_probs.half())}

    def decode(self, arrays: Arrays, *, widen: bool = True) -> NDArray[np.float32]:
        """Return (B, K) log-probabilities; those of the ``d`` ways are up to a constant per row.

        Args:
            arrays: Columns of the listed classes.
            widen: Return float32. If False, float16 that is stored is returned as it is.
        """
        if self.steps_per_nat:
            steps = arrays["steps"]
            is_out = steps == RULED_OUT["steps"]
            down = np.cumsum(np.where(is_out, np.uint16(0), steps), axis=1, dtype=np.int32)
            return np.where(is_out, np.float32(-np.inf), down * np.float32(-1 / self.steps_per_nat))
        if self.name == "q8":
            codes = arrays["codes"]
            scale, top = arrays["scale"].astype(np.float32), arrays["top"].astype(np.float32)
            return np.where(codes == RULED_OUT["codes"], np.float32(-np.inf), top[:, None] - scale[:, None] * codes)
        return arrays["values"].astype(np.float32) if widen else arrays["values"]

    def counts(self, arrays: Arrays) -> NDArray[np.int64]:
        """Return the number of classes per row that are not -infinity, (B,)."""
        name = next(iter(self.columns((), None)))
        return np.asarray((arrays[name] != RULED_OUT[name]).sum(axis=1))

    def check(self, arrays: Arrays) -> None:
        """Raise ValueError unless values are finite, at most 0 and falling, as ``encode`` writes them."""
        if self.name == "f16" and halves.all_negative_and_falling(arrays["values"]):
            return
        with np.errstate(invalid="ignore"):
            values = self.decode(arrays)
        if np.isnan(values).any() or (values > MAX_ABOVE_ZERO).any():
            raise ValueError("log-probabilities that are NaN or above 0")
        if not np.isfinite(values[:, 0]).all() or (values[:, 1:] > values[:, :-1]).any():
            raise ValueError("log-probabilities that do not fall from the first, finite one")


def _differences(log_probs: NDArray[Any], steps_per_nat: int) -> NDArray[Any]:
    """Return the steps down from the value before; rounding does not add up along a row."""
    values = log_probs.astype(np.float64)
    finite = np.isfinite(values)
    down = np.rint(np.where(finite, values[:, :1] - np.where(finite, values, 0.0), 0.0) * steps_per_nat)
    steps = np.diff(down, axis=1, prepend=0.0).clip(0, RULED_OUT["steps"] - 1)
    return np.where(finite, steps, RULED_OUT["steps"]).astype(np.uint16)


def _quantize(log_probs: Tensor, max_range: float) -> dict[str, NDArray[Any]]:
    """Return codes below the row's greatest log-probability, in steps of ``scale``."""
    import torch

    from softlabels.encodings.logits import to_numpy

    is_stored = log_probs >= log_probs[:, :1] - max_range
    top = log_probs[:, 0].half()
    low = torch.where(is_stored, log_probs, torch.inf).amin(dim=-1)
    half = torch.finfo(torch.float16)
    scale = ((top.float() - low) / LEVELS).clamp(half.tiny, half.max).half()
    codes = ((top.float()[:, None] - log_probs) / scale.float()[:, None]).round().clamp(0, LEVELS)
    codes = torch.where(is_stored, codes, float(RULED_OUT["codes"])).to(torch.uint8)
    return {"codes": to_numpy(codes), "top": to_numpy(top), "scale": to_numpy(scale)}


def pad(flat: NDArray[Any], counts: NDArray[np.integer], fill: float = 0) -> NDArray[Any]:
    """Return ragged entries as (B, K), rows filled up with ``fill``; K is the greatest count, at least 1.

    Raises:
        ValueError: See padded_width.
    """
    width = padded_width(counts)
    out = np.full((len(counts), width), fill, flat.dtype)
    out[np.arange(width) < counts[:, None]] = flat
    return out


def padded_width(counts: NDArray[np.integer]) -> int:
    """Return the width of rows with so many entries when padded, at least 1.

    Raises:
        ValueError: Rows too many and too uneven to lie in memory together.
    """
    width = max(1, int(counts.max())) if len(counts) else 1
    if width * len(counts) > MAX_PADDED:
        raise ValueError(f"{len(counts):,} rows of up to {width:,} classes, too many to decode at once")
    return width


def unpad(padded: NDArray[Any], counts: NDArray[np.integer]) -> NDArray[Any]:
    """Return the first ``counts`` entries of each row of (B, K), one after the other."""
    return padded[np.arange(padded.shape[1]) < counts[:, None]]
