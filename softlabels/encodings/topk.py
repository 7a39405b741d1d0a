"""``topk``: the K likeliest classes with their log-probabilities, and the mass of the rest at each temperature.

Per row (docs/fidelity.md, section 1): class ids at their true width, descending by probability, so that a prefix is the
smaller top-k and the first is the arg-max; log-probabilities at T = 1 normalised over all classes; log tail mass
r_T = logsumexp over the complement, never 1 - sum, which cancels. With r_T the listed classes are exact at T.

``q8`` keeps 8 bits a log-probability: the row's greatest, ``top``, and the step, ``scale``, in float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings.protocol import Arrays, Column, Encoded
from softlabels.errors import InvalidArgument
from softlabels.labels import Head, SparseLabels

if TYPE_CHECKING:
    from torch import Tensor

RULED_OUT = 255
LEVELS = 254
ABOVE_ZERO = 1e-2
"""How far rounding may lift a log-probability above 0."""


@dataclass(frozen=True)
class TopK:
    """The K likeliest classes.

    Attributes:
        k: how many.
        dtype: of the log-probabilities, ``f16`` or ``q8``.
    """

    k: int
    dtype: str = "f16"

    DTYPES: ClassVar[tuple[str, ...]] = ("f16", "q8")

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"topk:{self.k}:{self.dtype}"

    @property
    def has_tail(self) -> bool:
        """The other classes."""
        return True

    def columns(self, head: Head) -> dict[str, Column]:
        """``ids``, ``values`` (or ``codes``, ``top``, ``scale``) and ``tail``."""
        if head.position_shape:
            raise InvalidArgument(
                f"{self.spec} keeps one distribution a row, or tokens in ragged rows; this head has shape "
                f"{head.shape}. Use dense, or Head(shape=(None,))"
            )
        width = "uint8" if head.classes <= 2**8 else "uint16" if head.classes <= 2**16 else "uint32"
        columns = {"ids": Column(width, (self.k,)), "tail": Column("float32", (len(head.temperatures),))}
        if self.dtype == "q8":
            return columns | {"codes": Column("uint8", (self.k,)), "top": Column("float16"), "scale": Column("float16")}
        return columns | {"values": Column("float16", (self.k,))}

    def encode(self, logits: Tensor, head: Head, rows: NDArray[np.int64], *, residual: bool = False) -> Encoded:
        """See Encoding.encode."""
        import torch

        from softlabels.encodings.logits import checked_float, to_numpy

        values = checked_float(logits, head, rows)
        top, ids = _descending(*values.topk(self.k, dim=-1))
        rest = values.scatter(-1, ids, -torch.inf)
        tails, residuals, normalizer = [], [], None
        for temperature in head.temperatures:
            log_all, tail, unlisted = _tail(top / temperature, rest / temperature, residual=residual)
            tails.append(tail)
            if unlisted is not None:
                residuals.append(unlisted)
            if temperature == 1:
                normalizer = log_all
        if normalizer is None:
            normalizer, _, _ = _tail(top, rest, residual=False)
        log_probs = top - normalizer[:, None]
        width = np.dtype(self.columns(head)["ids"].dtype)
        arrays = {
            "ids": to_numpy(ids).astype(width),
            "tail": to_numpy(torch.stack(tails, dim=-1)),
            **(_quantize(log_probs) if self.dtype == "q8" else {"values": to_numpy(log_probs.half())}),
        }
        summed = to_numpy(torch.stack(residuals)).astype(np.float64) if residuals else None
        return Encoded(arrays, summed)

    def decode(self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None) -> SparseLabels:
        """See Encoding.decode."""
        return SparseLabels(
            classes=head.classes,
            ids=arrays["ids"].astype(np.int64),
            values=self._values(arrays),
            temperatures=head.temperatures,
            log_tail=arrays["tail"].astype(np.float32),
            tail=head.tail,
            prior=prior,
        )

    def _values(self, arrays: Arrays) -> NDArray[np.float32]:
        """(B, K) float32 log-probabilities."""
        if self.dtype == "f16":
            return arrays["values"].astype(np.float32)
        codes = arrays["codes"]
        scale, top = arrays["scale"].astype(np.float32), arrays["top"].astype(np.float32)
        return np.where(codes == RULED_OUT, np.float32(-np.inf), top[:, None] - scale[:, None] * codes)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Ids and values are what an encoder could have written: see Encoding.check."""
        ids, tail = arrays["ids"], arrays["tail"]
        if ids.size and int(ids.max()) >= head.classes:
            raise ValueError(f"class id {int(ids.max())}, but there are {head.classes} classes")
        ordered = np.sort(ids, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("a class listed twice in one row")
        with np.errstate(invalid="ignore"):
            values = self._values(arrays)
        if np.isnan(values).any() or (values > ABOVE_ZERO).any():
            raise ValueError("log-probabilities that are NaN or above 0")
        if not np.isfinite(values[:, 0]).all() or (values[:, 1:] > values[:, :-1]).any():
            raise ValueError("log-probabilities that do not fall from the first, finite one")
        if np.isnan(tail).any() or (tail > ABOVE_ZERO).any():
            raise ValueError("tail masses that are NaN or above 1")


def _tail(top: Tensor, rest: Tensor, *, residual: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log of each row's normaliser and of its unlisted mass, and the sum over rows of unlisted probabilities.

    One exponential a class and temperature: the normaliser of all classes is that of the listed ones and of the rest.

    Args:
        top: (B, K) listed logits over T.
        rest: (B, C) logits over T, -inf where listed.
        residual: whether to sum.
    """
    import torch

    shift = rest.amax(dim=-1, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, 0.0)
    weights = (rest - shift).exp()
    log_rest = weights.sum(dim=-1).log() + shift[:, 0]
    normalizer = torch.logaddexp(top.logsumexp(dim=-1), log_rest)
    unlisted = (shift[:, 0] - normalizer).exp() @ weights if residual else None
    return normalizer, log_rest - normalizer, unlisted


def _descending(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Values descending; equal ones by ascending id, so that equal rows are stored equally on any device."""
    by_id = ids.argsort(dim=-1)
    values, ids = values.gather(-1, by_id), ids.gather(-1, by_id)
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def _quantize(log_probs: Tensor) -> dict[str, NDArray[np.generic]]:
    """Codes below the row's greatest log-probability, in steps of ``scale``; 255 stands for -infinity."""
    import torch

    from softlabels.encodings.logits import to_numpy

    finite = log_probs.isfinite()
    top = log_probs[:, 0].half()
    low = torch.where(finite, log_probs, torch.inf).amin(dim=-1)
    # float16 holds steps down to 6e-8; the nearest float16 above keeps the last code at or under 254.
    scale = ((top.float() - low).clamp_min(0) / LEVELS).half()
    scale = torch.where(scale > 0, scale, torch.finfo(torch.float16).tiny).half()
    codes = ((top.float()[:, None] - log_probs) / scale.float()[:, None]).round().clamp(0, LEVELS)
    codes = torch.where(finite, codes, float(RULED_OUT)).to(torch.uint8)
    return {"codes": to_numpy(codes), "top": to_numpy(top), "scale": to_numpy(scale)}
