"""``dense``: every value, as float32, float16, bfloat16, or 8 bits with a scale and an offset a row.

For few classes, for regression and embeddings, and as the truth other encodings are measured against. bfloat16 has no
NumPy type: its bits are kept as ``values_bf16``, uint16, the upper half of the float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.encodings import halves
from softlabels.encodings.protocol import Encoded
from softlabels.errors import InvalidLogits
from softlabels.labels import DISTRIBUTIONS, DenseLabels, Head

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.codebook import Codebook

RULED_OUT = 255
"""The q8 code of -infinity."""

LEVELS = 254
"""Codes 0 to 254 divide the range from the row's least to its greatest finite value."""

WIDEST = 1e30
"""Such a range comes of classes ruled out by float32's least number; nothing would be left of the others."""


@dataclass(frozen=True)
class Dense:
    """Every value of the head.

    Attributes:
        dtype: ``f32``, ``f16``, ``bf16`` or ``q8``.
    """

    dtype: str = "f16"

    DTYPES: ClassVar[tuple[str, ...]] = ("f32", "f16", "bf16", "q8")

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"dense:{self.dtype}"

    @property
    def priors(self) -> int:
        """There is no tail."""
        return 1

    @property
    def has_tail(self) -> bool:
        """Nothing goes unlisted."""
        return False

    def columns(self, head: Head) -> dict[str, Column]:
        """``values``, or ``codes`` with ``scale`` and ``offset``."""
        shape = (*head.position_shape, head.classes)
        if self.dtype == "q8":
            return {
                "codes": Column("uint8", shape),
                "scale": Column("float32", head.position_shape),
                "offset": Column("float32", head.position_shape),
            }
        if self.dtype == "bf16":
            return {"values_bf16": Column("uint16", shape)}
        return {"values": Column({"f32": "float32", "f16": "float16"}[self.dtype], shape)}

    def typical_entries(self, head: Head) -> float:
        """No column is ragged."""
        return 1.0

    def encode(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        *,
        words: NDArray[np.uint64] | None = None,
        residual: bool = False,
        codebook: Codebook | None = None,
    ) -> Encoded:
        """See Encoding.encode.

        Raises:
            InvalidLogits: also where a value is too large for the dtype.
        """
        import torch

        from softlabels.encodings.logits import checked_float, to_numpy

        values = checked_float(logits, head, rows)
        if self.dtype == "q8":
            return Encoded(_quantize(values, rows))
        stored = values.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[self.dtype])
        overflow = (stored.isinf() & values.isfinite()).flatten(1).any(dim=1)
        if bool(overflow.any()):
            position = int(overflow.int().argmax())
            wider = "dense:f32" if self.dtype == "bf16" else "dense:f32 or dense:bf16"
            raise InvalidLogits(
                f"row {int(rows[position])}: a value of {float(values[position].abs().max()):.6g} is too large for "
                f"{self.dtype}; use --encoding {wider}"
            )
        if self.dtype == "bf16":
            return Encoded({"values_bf16": to_numpy(stored.view(torch.uint16))})
        return Encoded({"values": to_numpy(stored)})

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> DenseLabels:
        """See Encoding.decode."""
        if self.dtype == "q8":
            codes = arrays["codes"]
            values = codes * arrays["scale"][..., None] + arrays["offset"][..., None]
            return DenseLabels(np.where(codes == RULED_OUT, np.float32(-np.inf), values).astype(np.float32), head.kind)
        if self.dtype == "bf16":
            bits = arrays["values_bf16"].astype(np.uint32) << 16
            return DenseLabels(bits.view(np.float32), head.kind)
        values = arrays["values"]
        return DenseLabels(values.astype(np.float32) if widen else values, head.kind)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Values are what an encoder could have written: see Encoding.check."""
        if self.dtype == "f16" and halves.all_finite(arrays["values"]):
            return
        values = self.decode(arrays, head).values
        if head.kind not in DISTRIBUTIONS:
            if not np.isfinite(values).all():
                raise ValueError("values that are not finite")
            return
        top = values.max(axis=-1)
        if not np.isfinite(top).all():  # NaN anywhere, +inf anywhere, or a row of -inf
            raise ValueError("logits with NaN, infinity, or a row without any finite value")


def _quantize(values: Tensor, rows: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    """Codes, scale and offset of (B, *shape, C) float32: value = offset + scale * code, in 255 equal steps.

    Raises:
        InvalidLogits: a row spans more than WIDEST; names it.
    """
    import torch

    from softlabels.encodings.logits import to_numpy

    finite = values.isfinite()
    low = torch.where(finite, values, torch.inf).amin(dim=-1)
    high = torch.where(finite, values, -torch.inf).amax(dim=-1)
    span = high - low
    if bool((span > WIDEST).any()):
        position = int(span.reshape(len(rows), -1).amax(dim=1).argmax())
        raise InvalidLogits(
            f"row {int(rows[position])}: its values span {float(span.max()):.3g}, more than 8 bits can tell apart; use "
            "--encoding dense:f32, or rule classes out by -infinity"
        )
    scale = (span / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    codes = ((values / scale[..., None] - (low / scale)[..., None]).round()).clamp(0, LEVELS)
    codes = torch.where(finite, codes, float(RULED_OUT)).to(torch.uint8)
    return {"codes": to_numpy(codes), "scale": to_numpy(scale), "offset": to_numpy(low)}
