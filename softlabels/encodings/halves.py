"""Checks of float16 values by their bits, several times faster than by way of float32, and widening by bits.

Most processors, and NumPy, compute with float16 only after widening it. Its bits are a sign and a magnitude, so as
integers they are in order, and all values that are not finite come last. ``python benchmarks/fidelity.py --checks``
times both ways.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGNITUDE = np.uint16(0x7FFF)
"""Bits of the magnitude."""
INFINITY = np.uint16(0x7C00)
"""Bits of infinity; those of NaN are above."""
INFINITIES = {"f16": INFINITY, "bf16": np.uint16(0x7F80)}
"""Bits of infinity by format; bfloat16 has the same order."""
SIGN = np.uint16(0x8000)
"""Bit of the sign."""
NORMAL = np.uint16(0x0400)
"""Bits of the least normal number; those of 0 and of subnormal numbers are below."""
WIDER = 13
"""Bits of the mantissa that float32 has in addition."""
WIDE_MASK = np.int32(-(2**31) + 2**28 - 2**WIDER)
"""Bits of the sign and of the shifted magnitude."""
WIDE_BIAS = np.int32((127 - 15) << 23)
"""Difference of the exponents of equal numbers."""
BLOCK = 2**16
"""Values that are widened at a time, so that intermediate results stay in a core's cache."""
MAX_SPECIAL = 1 / 64
"""Share of zeros, subnormal numbers, infinities and NaN up to which bits are faster."""


def all_finite(values: NDArray[Any], infinity: np.uint16 = INFINITY) -> bool:
    """Return True if there is neither NaN nor an infinity.

    Args:
        values: Values or their bits, of any shape.
        infinity: Bits of infinity in the format of the values.
    """
    return bool((_bits(values) & MAGNITUDE).max(initial=np.uint16(0)) < infinity)


def all_negative_and_falling(values: NDArray[Any]) -> bool:
    """Return True if every row of (B, K) starts finite, never rises, and holds neither NaN nor a positive sign.

    -infinity may come last.
    """
    bits = _bits(values)  # of negative numbers, those of smaller ones are greater
    first, last = bits[:, 0], bits[:, -1]
    return bool(
        (bits[:, 1:] >= bits[:, :-1]).all()
        and first.min(initial=SIGN) >= SIGN
        and first.max(initial=SIGN) < SIGN | INFINITY
        and last.max(initial=SIGN) <= SIGN | INFINITY
    )


def widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return (n, ...) float16 values as float32, in half of the time of ``astype``, which converts them one by one.

    Numbers are never computed with, so modes of the processor that flush subnormal numbers change nothing.

    Example:
        >>> widened(np.array([1.5, -0.25], np.float16)).tolist()
        [1.5, -0.25]
    """
    wide = np.empty(values.shape, np.float32)
    rows = max(1, BLOCK * len(values) // max(1, values.size))
    for start in range(0, len(values), rows):
        _widen(values[start : start + rows], wide[start : start + rows])
    return wide


def _widen(values: NDArray[Any], out: NDArray[np.float32]) -> None:
    # One more in the exponent makes that of infinities and NaN 0, and that of 0 and subnormal numbers 1.
    is_special = ((_bits(values) + NORMAL) & INFINITY) <= NORMAL
    count = np.count_nonzero(is_special)
    if count > MAX_SPECIAL * values.size:
        out[...] = values
        return
    bits = out.view(np.int32)
    bits[...] = values.view(values.dtype.str.replace("f", "i"))
    bits <<= WIDER
    bits &= WIDE_MASK
    bits += WIDE_BIAS
    if count:
        out[is_special] = values[is_special]


def _bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    return values.view(values.dtype.str.replace("f", "u"))
