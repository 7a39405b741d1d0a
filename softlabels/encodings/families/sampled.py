"""``sampled:N``: N classes per row drawn with replacement, in proportion to p^E (RS-KD, arXiv 2503.16870).

Stored are ids with their counts, and importance weights where E is not 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import COUNT, Arrays, Column
from softlabels.encodings.encoding import Block, Encoded, id_dtype
from softlabels.encodings.items import ItemEncoding
from softlabels.encodings.log_probs import pad
from softlabels.encodings.option_parsers import integer, require_count
from softlabels.encodings.samples import check_sampled_ids, require_one_temperature, sample_labels
from softlabels.labels import Head, SparseLabels
from softlabels.rng import uniforms

MAX_DRAWS = 2**16 - 1
MAX_EXPONENT = 4.0
MAX_LOG_WEIGHT = 80.0
"""Upper bound of a log importance weight; sums of such weights are finite in float32."""


@dataclass(frozen=True)
class Sampled(ItemEncoding):
    """Draws with replacement.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels.encodings import Sampled
        >>> from softlabels.labels import Head
        >>> encoding, head = Sampled(8), Head(encoding="sampled:8", classes=5)
        >>> encoded = encoding.encode(torch.zeros(2, 5), head, np.arange(2))
        >>> np.exp(encoding.decode(encoded.arrays, head).log_probs()).sum(axis=1).round(3).tolist()
        [1.0, 1.0]

    Attributes:
        draws: Number of draws per row, N.
        exponent: Exponent E of the probabilities that classes are drawn in proportion to.
    """

    name: ClassVar[str] = "sampled"
    form: ClassVar[str] = "sampled:N[:EXPONENT]"
    example: ClassVar[str] = "sampled:32"

    draws: int
    exponent: float = 1.0

    @classmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """See Encoding.from_options."""
        require_count(options, 1, 2)
        exponent = float(options[1]) if len(options) > 1 else 1.0
        if not 0 < exponent <= MAX_EXPONENT:
            raise ValueError(f"got an exponent of {exponent:g}; expected one above 0 and at most {MAX_EXPONENT:g}")
        return cls(integer(options[0], 1, MAX_DRAWS), float(f"{exponent:g}"))

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"sampled:{self.draws}" + ("" if self.exponent == 1 else f":{self.exponent:g}")

    def item_columns(self, head: Head) -> dict[str, Column]:
        """Return ``count`` of a row's distinct classes, ``ids``, ``draws`` of each, and log importance ``weights``."""
        require_one_temperature(self.spec, head)
        columns = {
            COUNT: Column("uint16"),
            "ids": Column(id_dtype(head.classes), per=COUNT),
            "draws": Column("uint8" if self.draws < 2**8 else "uint16", per=COUNT),
        }
        return columns if self.exponent == 1 else columns | {"weights": Column("float32", per=COUNT)}

    def typical_entries(self, head: Head) -> float:
        """Return an estimate: half of the draws repeat another."""
        return min(head.classes, max(1.0, 0.5 * self.draws))

    def encode_items(self, block: Block) -> Encoded:
        """See ItemEncoding.encode_items."""
        import torch

        from softlabels.encodings.listing import relative
        from softlabels.encodings.logits import to_numpy
        from softlabels.encodings.systematic import crossings, cumulate

        values, temperature = block.values, block.head.temperatures[0]
        greatest = values.amax(dim=-1, keepdim=True)
        cumulated = cumulate(relative(values, greatest, temperature / self.exponent).exp_())
        u = torch.from_numpy(uniforms(block.words[:, None], np.arange(self.draws)[None, :])).to(values.device)
        ids = np.sort(to_numpy(crossings(cumulated, u * cumulated.total)), axis=1)
        # Equal draws are neighbours now: the first of each run stands for all, and its length is their count.
        is_first = np.diff(ids, axis=1, prepend=-1) != 0
        counts = is_first.sum(axis=1).astype(np.uint16)
        starts = np.append(np.flatnonzero(is_first), is_first.size)
        arrays: dict[str, NDArray[Any]] = {
            COUNT: counts,
            "ids": ids[is_first].astype(id_dtype(block.head.classes)),
            "draws": np.diff(starts).astype(self.item_columns(block.head)["draws"].dtype),
        }
        if self.exponent != 1:
            row = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(values.device)
            column = torch.from_numpy(ids[is_first]).to(values.device)
            scaled = (values[row, column] - greatest[row, 0]) / temperature
            normalizers = relative(values, greatest, temperature).logsumexp(dim=-1) - cumulated.total[:, 0].log()
            arrays["weights"] = to_numpy((scaled * (1 - self.exponent) - normalizers[row]).float())
        return Encoded(arrays)

    def decode_items(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See ItemEncoding.decode_items."""
        log_weights = np.log(arrays["draws"].astype(np.float32) / np.float32(self.draws))
        if self.exponent != 1:
            log_weights = log_weights + arrays["weights"].astype(np.float32)
        return sample_labels(arrays[COUNT], arrays["ids"], pad(log_weights, arrays[COUNT], -np.inf), head, widen=widen)

    def check_items(self, arrays: Arrays, head: Head) -> None:
        """See ItemEncoding.check_items."""
        counts, draws = arrays[COUNT], arrays["draws"]
        check_sampled_ids(arrays["ids"], counts, head)
        total = np.bincount(np.repeat(np.arange(len(counts)), counts), draws, minlength=len(counts))
        if (counts < 1).any() or (draws < 1).any() or (total != self.draws).any():
            raise ValueError(f"a row that does not hold {self.draws} draws")
        if "weights" in arrays and not (np.abs(arrays["weights"]) <= MAX_LOG_WEIGHT).all():
            raise ValueError("importance weights that are not finite, or out of range")


ENCODING = Sampled
