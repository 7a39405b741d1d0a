"""Checks of float16 values by their bits, several times faster than by way of float32.

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


def _bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    return values.view(values.dtype.str.replace("f", "u"))
