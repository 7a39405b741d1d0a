"""``dense``: every value, as float32, float16, bfloat16, or 8 bits with a scale and an offset per row.

It is for few classes, for regression and embeddings, and the truth that other encodings are measured against. bfloat16
has no NumPy type: its bits are stored as ``values_bf16``, uint16, the upper half of the float32.

The range of an embedding is often that of a few dimensions with a large mean or deviation, and 8 bits leave few codes
to the others. ``q8:scaled`` stores (value - mean) / deviation in 8 bits, with the mean and the deviation of each
dimension of a pilot. They are the codebook of the store.

In 8 bits, classes that the teacher rules out by a finite fill such as -1e4 are stored as -infinity. A range that
included them would leave no codes for the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.encodings import halves
from softlabels.encodings.encoding import Block, Encoded, Encoding
from softlabels.encodings.option_parsers import choice, require_count
from softlabels.errors import InvalidArgument, InvalidLogits
from softlabels.labels import DISTRIBUTIONS, DenseLabels, Head

if TYPE_CHECKING:
    from torch import Tensor

RULED_OUT = 255
"""The q8 code of -infinity."""

LEVELS = 254
"""Codes 0 to 254 divide the range from the row's least to its greatest finite value."""

MIN_FILL_GAP = 64.0
"""Least gap above a fill, in nats at the head's highest temperature; a class that far below has no probability."""

MIN_FILL_RATIO = 8.0
"""Least ratio of that gap to the range of the values above it."""

MAX_RANGE = 1e30
"""Upper bound of a row's range in 8 bits; the differences of larger values overflow float32."""

MAX_SCALED = 1e6
"""Upper bound of a value less the mean of its dimension, in deviations."""

SCALED = "scaled"
"""Option of ``q8``: values relative to the mean and the deviation of their dimension."""


@dataclass(frozen=True)
class Dense(Encoding):
    """Every value of the head.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels.encodings import Dense
        >>> from softlabels.labels import Head
        >>> encoding, head = Dense("f16"), Head(encoding="dense:f16", classes=3)
        >>> encoded = encoding.encode(torch.tensor([[1.0, 2.0, -torch.inf]]), head, np.arange(1))
        >>> encoding.decode(encoded.arrays, head).values.tolist()
        [[1.0, 2.0, -inf]]

    Attributes:
        dtype: Storage of the values: ``f32``, ``f16``, ``bf16`` or ``q8``.
        standardizes: If True, values are stored relative to the mean and the deviation of their dimension.
    """

    name: ClassVar[str] = "dense"
    DTYPES: ClassVar[tuple[str, ...]] = ("f32", "f16", "bf16", "q8")
    form: ClassVar[str] = "dense[:f32|f16|bf16|q8[:scaled]]"
    example: ClassVar[str] = "dense:f16"

    dtype: str = "f16"
    standardizes: bool = False

    @classmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """See Encoding.from_options."""
        require_count(options, 0, 2)
        dtype = choice(options[0], cls.DTYPES) if options else "f16"
        if len(options) == 2:
            choice(dtype, ("q8",))
            choice(options[1], (SCALED,))
        return cls(dtype, len(options) == 2)

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"dense:{self.dtype}:{SCALED}" if self.standardizes else f"dense:{self.dtype}"

    @property
    def priors(self) -> int:
        """Rows of the codebook: mean and deviation of each dimension; 1 without a codebook."""
        return 2 if self.standardizes else 1

    def columns(self, head: Head) -> dict[str, Column]:
        """Return ``values``, or ``codes`` with ``scale`` and ``offset``.

        Args:
            head: The head.

        Raises:
            InvalidArgument: The encoding is for numbers, and the head is a distribution.
        """
        if self.standardizes and head.kind in DISTRIBUTIONS:
            raise InvalidArgument(
                f"encoding {self.spec!r}: it is for numbers, got a head of kind {head.kind}; expected embedding or "
                "regression. Use dense:q8"
            )
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

    def entries(self, arrays: Arrays, head: Head) -> int:
        """See Encoding.entries: every class."""
        return len(next(iter(arrays.values()))) * math.prod(head.position_shape) * head.classes

    def encode_block(self, block: Block) -> Encoded:
        """See Encoding.encode_block.

        Raises:
            InvalidLogits: A value is too large for the dtype.
        """
        import torch

        from softlabels.encodings.logits import to_numpy

        if self.standardizes:
            block = replace(block, values=_standardize(block))
        if self.dtype == "q8":
            return Encoded(_quantize(block))
        stored = block.values.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[self.dtype])
        array = to_numpy(stored.view(torch.uint16) if self.dtype == "bf16" else stored)
        if self.dtype != "f32" and not halves.all_finite(array, halves.INFINITIES[self.dtype]):
            self._check_range(block, stored)
        return Encoded({"values_bf16" if self.dtype == "bf16" else "values": array})

    def _check_range(self, block: Block, stored: Tensor) -> None:
        """Raise InvalidLogits if a finite value of a block became infinite when it was rounded; names the row."""
        overflow = (stored.isinf() & block.values.isfinite()).flatten(1).any(dim=1)
        if bool(overflow.any()):
            position = int(overflow.int().argmax())
            wider = "encoding='dense:f32'" + ("" if self.dtype == "bf16" else " or encoding='dense:bf16'")
            raise InvalidLogits(
                f"row {int(block.rows[position])}: a value of {float(block.values[position].abs().max()):.6g} is too "
                f"large for {self.dtype}. Use {wider}"
            )

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> DenseLabels:
        """See Encoding.decode."""
        if self.dtype == "q8":
            codes = arrays["codes"]
            values = codes * arrays["scale"][..., None] + arrays["offset"][..., None]
            if self.standardizes:
                if prior is None:
                    raise ValueError(f"{self.spec}: the mean and the deviation of each dimension are missing")
                return DenseLabels(values * prior[0, 1] + prior[0, 0], head.kind)
            return DenseLabels(np.where(codes == RULED_OUT, np.float32(-np.inf), values).astype(np.float32), head.kind)
        if self.dtype == "bf16":
            bits = arrays["values_bf16"].astype(np.uint32) << 16
            return DenseLabels(bits.view(np.float32), head.kind)
        values = arrays["values"]
        if widen:
            values = halves.widened(values) if self.dtype == "f16" else values.astype(np.float32)
        return DenseLabels(values, head.kind)

    def check(self, arrays: Arrays, head: Head) -> None:
        """See Encoding.check."""
        if self.dtype == "f16" and halves.all_finite(arrays["values"]):
            return
        with np.errstate(invalid="ignore"):  # a signalling NaN, when it is widened
            if self.dtype == "q8":
                offset, scale = arrays["offset"].astype(np.float64), arrays["scale"].astype(np.float64)
                if not ((scale >= 0) & (np.abs(offset) + LEVELS * scale < np.finfo(np.float32).max)).all():
                    raise ValueError("a scale or offset that is not finite, or out of range")
                if self.standardizes:  # finite then, whatever the codebook of a store holds
                    if not (np.abs(offset) + (LEVELS + 1) * scale <= 4 * MAX_SCALED).all():
                        raise ValueError("values too far from the mean of their dimension")
                    return
            values = self.decode(arrays, head).values
        if head.kind not in DISTRIBUTIONS:
            if not np.isfinite(values).all():
                raise ValueError("values that are not finite")
            return
        top = values.max(axis=-1)
        if not np.isfinite(top).all():  # NaN anywhere, +inf anywhere, or a row of -inf
            raise ValueError("logits with NaN, infinity, or a row without any finite value")


ENCODING = Dense


def _standardize(block: Block) -> Tensor:
    """Return the values of a block less the mean of their dimension, in its deviations.

    Raises:
        InvalidLogits: A value is more than MAX_SCALED deviations from the mean. The message names its row.
    """
    import torch

    if block.codebook is None:
        raise ValueError(f"{block.head.encoding}: needs the mean and the deviation of each dimension")
    mean, deviation = (torch.from_numpy(row).to(block.values.device) for row in block.codebook.priors[0])
    values = (block.values - mean) / deviation
    distance = values.reshape(len(block.rows), -1).abs().amax(dim=1)
    if bool((distance > MAX_SCALED).any()):
        position = int(distance.argmax())
        raise InvalidLogits(
            f"row {int(block.rows[position])}: a value is {float(distance[position]):.3g} deviations from the mean of "
            f"its dimension, more than {MAX_SCALED:g}. Use encoding='dense:f32'"
        )
    return values


def _quantize(block: Block) -> dict[str, NDArray[np.generic]]:
    """Return codes, scale and offset of (B, *shape, C) values: value = offset + scale * code, in 255 equal steps.

    Raises:
        InvalidLogits: A row has a range of more than MAX_RANGE. The message names it.
    """
    import torch

    from softlabels.encodings.logits import to_numpy

    values = block.values
    if block.head.kind in DISTRIBUTIONS:
        values = _without_fills(values, MIN_FILL_GAP * max(1.0, *block.head.temperatures))
    finite = values.isfinite()
    low = torch.where(finite, values, torch.inf).amin(dim=-1)
    high = torch.where(finite, values, -torch.inf).amax(dim=-1)
    span = high - low
    if bool((span > MAX_RANGE).any()):
        position = int(span.reshape(len(block.rows), -1).amax(dim=1).argmax())
        raise InvalidLogits(
            f"row {int(block.rows[position])}: its values span {float(span.max()):.3g}, more than 8 bits can tell "
            "apart. Use encoding='dense:f32', or rule classes out by -infinity"
        )
    scale = (span / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    codes = ((values / scale[..., None] - (low / scale)[..., None]).round()).clamp(0, LEVELS)
    codes = torch.where(finite, codes, float(RULED_OUT)).to(torch.uint8)
    return {"codes": to_numpy(codes), "scale": to_numpy(scale), "offset": to_numpy(low)}


def _without_fills(values: Tensor, least_gap: float) -> Tensor:
    """Return logits, (..., C), with -infinity in place of the values below a wide gap.

    A gap is wide if it is above ``least_gap`` and above MIN_FILL_RATIO times the range of the values above it, which
    must be more than one. Such values are fills that rule classes out; a single dominant class makes no gap wide.
    """
    import torch

    flat = values.reshape(-1, values.shape[-1])
    highest = flat.amax(dim=-1)
    lowest = torch.where(flat.isneginf(), torch.inf, flat).amin(dim=-1)
    suspects = (highest - lowest > least_gap).nonzero()[:, 0]  # few rows, if any, are sorted
    if not len(suspects):
        return values
    falling = flat[suspects].double().sort(dim=-1, descending=True).values
    gaps, ranges = falling[:, :-1] - falling[:, 1:], falling[:, :1] - falling[:, :-1]
    is_wide = (gaps > least_gap) & (gaps > MIN_FILL_RATIO * ranges) & (ranges > 0)
    # The first wide gap from the top; its upper edge is the least value that is stored. -inf - -inf is NaN: never wide.
    edge = torch.where(is_wide, falling[:, :-1], -torch.inf).amax(dim=-1)
    cleaned = flat.clone()
    cleaned[suspects] = flat[suspects].masked_fill(flat[suspects] < edge[:, None], -torch.inf)
    return cleaned.reshape(values.shape)
