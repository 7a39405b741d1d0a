"""``threshold:TAU``: the classes with p >= TAU by their probability, and a sample of the others.

Another class v is drawn with probability p_v / TAU, and then stands for TAU. The squared error, sum of p (TAU - p) over
the small classes, is the least that so many ids can have: an equal TAU for all rows balances the error against ids
(Cohen, Duffield, Kaplan, Lund, Thorup 2009). Drawn ids need no value, and the others' probabilities are rounded at
random to one of LEVELS, so that rounding has no bias either.

A class is drawn by an offset of its own that readers know (``softlabels.encodings.dither``), so losses can take most of
the noise out of the gradient. By the first rule, one uniform offset per row is crossed with the cumulated inclusion
probabilities (systematic sampling), and a row sums to within TAU of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import COUNT, Arrays, Column, blocks, ranges, row_sums
from softlabels.encodings.dither import DITHER, class_offsets, draw
from softlabels.encodings.encoding import Block, Encoded, id_dtype
from softlabels.encodings.items import ItemEncoding
from softlabels.encodings.log_probs import pad
from softlabels.encodings.option_parsers import integer, probability, require_count
from softlabels.encodings.samples import check_sampled_ids, require_one_temperature, sample_labels
from softlabels.labels import Dither, Head, SparseLabels
from softlabels.rng import uniforms

if TYPE_CHECKING:
    from torch import Tensor

LISTED = "listed"
"""Column that counts the classes of a row that have a probability of their own."""

OFFSET = 2**40
"""Counter of a row's one uniform offset; those below are class ids."""

MAX_LEVELS = 255
MAX_ENTRIES = 2**16 - 1
RULE = "dither"
"""Last word of the specification if readers know the offsets of the draws."""

SUM_TOLERANCE = 1e-2
"""Slack of the checks of a row's sum, beside that of drawing and rounding."""

CHECKED_ENTRIES = 2**17
"""Classes that are checked together, so that intermediate results stay in a core's cache."""


@dataclass(frozen=True)
class Threshold(ItemEncoding):
    """Classes of probability ``tau`` or more, and a sample of the rest.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels.encodings import Threshold
        >>> from softlabels.labels import Head
        >>> encoding, head = Threshold(0.25, 9), Head(encoding="threshold:0.25:9:dither", classes=100)
        >>> encoded = encoding.encode(torch.zeros(1, 100), head, np.arange(1))
        >>> encoding.decode(encoded.arrays, head).ids.tolist()  # three of weight 0.25, on average four
        [[28, 62, 83]]

    Attributes:
        tau: Threshold probability.
        levels: Number of levels; a stored probability is tau^(code / levels), with a code from 0 to levels.
        first_rule: True in stores of the first rule, whose draws are systematic.
    """

    name: ClassVar[str] = "threshold"
    form: ClassVar[str] = "threshold:TAU[:LEVELS]"
    example: ClassVar[str] = "threshold:0.05"
    block_elements: ClassVar[int] = 2**20

    tau: float
    levels: int
    first_rule: bool = False

    @classmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """See Encoding.from_options."""
        require_count(options, 1, 3)
        tau = probability(options[0])
        if tau == 1:
            raise ValueError("got a threshold of 1; expected a smaller one")
        if len(options) > 2 and options[2] != RULE:
            raise ValueError(f"got {options[2]!r} behind the number of levels; expected {RULE!r}")
        levels = integer(options[1], 1, MAX_LEVELS) if len(options) > 1 else cls.usual_levels(tau)
        return cls(tau, levels, first_rule=len(options) == 2)

    @staticmethod
    def usual_levels(tau: float) -> int:
        """Return the default number of levels, whose rounding adds one or two hundredths to the error of sampling."""
        return min(MAX_LEVELS, max(1, math.ceil(-math.log(tau) / math.sqrt(tau / 10))))

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"threshold:{self.tau:g}:{self.levels}" + ("" if self.first_rule else f":{RULE}")

    @property
    def current(self) -> Self:
        """See Encoding.current."""
        return replace(self, first_rule=False)

    @property
    def _step(self) -> float:
        """Difference of log-probabilities from one level to the next, below 0."""
        return math.log(self.tau) / self.levels

    def item_columns(self, head: Head) -> dict[str, Column]:
        """Return ``count`` of the row's classes, ``ids``, and ``codes`` of the first ``listed`` of them."""
        require_one_temperature(self.spec, head)
        dither = {} if self.first_rule else {DITHER: Column("uint32")}
        return dither | {
            COUNT: Column("uint16"),
            "ids": Column(id_dtype(head.classes), per=COUNT),
            LISTED: Column("uint16"),
            "codes": Column("uint8", per=LISTED),
        }

    def typical_entries(self, head: Head) -> float:
        """Return an estimate; a row of small classes alone has 1 / tau."""
        return min(head.classes, max(1.0, 0.4 / self.tau))

    def encode_items(self, block: Block) -> Encoded:
        """See ItemEncoding.encode_items."""
        from softlabels.encodings.listing import relative

        values, temperature = block.values, block.head.temperatures[0]
        if temperature != 1:
            values = relative(values, values.amax(dim=-1, keepdim=True), temperature)
        offsets, listed, drawn = (self._draw_systematic if self.first_rule else self._draw)(
            values.softmax(dim=-1), block
        )
        order = np.lexsort((listed.ids, -listed.p, listed.row))
        row, ids, p = listed.row[order], listed.ids[order], listed.p[order]
        of_row = np.argsort(np.concatenate([row, drawn.row]), kind="stable")
        counts, listings = (np.bincount(rows, minlength=len(values)) for rows in (drawn.row, row))
        encoded = {
            COUNT: (listings + counts).astype(np.uint16),
            "ids": np.concatenate([ids, drawn.ids])[of_row].astype(id_dtype(block.head.classes)),
            LISTED: listings.astype(np.uint16),
            "codes": self._codes(np.log(p.astype(np.float64)), ids, block.words[row]),
        }
        return Encoded(encoded if offsets is None else {DITHER: offsets, **encoded})

    def _draw(self, p: Tensor, block: Block) -> _Drawn:
        """List classes of (B, C) probabilities, and draw others by their own offsets."""
        import torch

        from softlabels.encodings.logits import to_numpy

        offsets, draws = draw(p, p.new_full((len(p), 1), 1 / self.tau), block.counters, MAX_ENTRIES)
        places = torch.from_numpy(draws.row * p.shape[1] + draws.ids).to(p.device)
        weights = to_numpy(p.reshape(-1)[places])
        is_listed = weights >= np.float32(self.tau)
        listed, drawn = (
            _Classes(draws.row[chosen], draws.ids[chosen], weights[chosen]) for chosen in (is_listed, ~is_listed)
        )
        return offsets, listed, drawn

    def _draw_systematic(self, p: Tensor, block: Block) -> _Drawn:
        """List classes of (B, C) probabilities, and draw others by one offset of the row."""
        import torch

        from softlabels.encodings.logits import to_numpy
        from softlabels.encodings.systematic import STRETCH, crossings, cumulate

        # A class this close to the threshold is listed, as the threshold: none that is drawn can be met twice.
        *listing, rest = cumulate(p).take(self.tau * (1 - 2 * STRETCH))
        # A class is drawn if a multiple of tau lies within u + its cumulated probability.
        u = torch.from_numpy(uniforms(block.words, np.array([OFFSET]))).to(p.device)[:, None]
        draws = (rest.total / self.tau + u).floor().long()
        steps = torch.arange(1, max(1, int(draws.max()) if len(draws) else 1) + 1, device=p.device)
        drawn_ids = to_numpy(crossings(rest, (steps - u) * self.tau, steps <= draws))
        row = np.repeat(np.arange(len(draws)), to_numpy(draws[:, 0]))
        return None, _Classes(*map(to_numpy, listing)), _Classes(row, drawn_ids, drawn_ids)

    def _codes(
        self, log_p: NDArray[np.float64], ids: NDArray[np.int64], words: NDArray[np.uint64]
    ) -> NDArray[np.uint8]:
        """Return (n,) codes of probabilities rounded up or down to a level, so that the mean is right."""
        exact = (log_p / self._step).clip(0, self.levels)
        upper = np.floor(exact).clip(max=self.levels - 1)  # the greater probability has the smaller code
        high, low = np.exp(upper * self._step), np.exp((upper + 1) * self._step)
        chance = (np.exp(exact * self._step) - low) / (high - low)
        codes: NDArray[np.uint8] = np.where(uniforms(words, ids) < chance, upper, upper + 1).astype(np.uint8)
        return codes

    def decode_items(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See ItemEncoding.decode_items."""
        counts, listed = arrays[COUNT], arrays[LISTED]
        values = pad(np.full(len(arrays["ids"]), np.float32(math.log(self.tau))), counts, -np.inf)
        values[np.arange(values.shape[1]) < listed[:, None]] = arrays["codes"] * np.float32(self._step)
        labels = sample_labels(counts, arrays["ids"], values.astype(np.float32), head, widen=widen)
        return labels if self.first_rule else replace(labels, dither=Dither(self.tau, arrays[DITHER].astype(np.int64)))

    def check_items(self, arrays: Arrays, head: Head) -> None:
        """See ItemEncoding.check_items."""
        counts, listed, codes = arrays[COUNT], arrays[LISTED], arrays["codes"]
        check_sampled_ids(arrays["ids"], counts, head)
        if (listed > counts).any():
            raise ValueError("more probabilities than classes in a row")
        if codes.size and int(codes.max()) > self.levels:
            raise ValueError(f"a code above {self.levels}")
        if not self.first_rule:
            for block in blocks(arrays, self.item_columns(head), COUNT, CHECKED_ENTRIES):
                if (self._least_sums(block) > 1 + SUM_TOLERANCE).any():
                    raise ValueError("classes of a row whose probabilities would sum to above 1")
            return
        # Rounding changes each listed probability by up to one level, and drawing a row's sum by up to tau.
        level, listed = math.exp(-self._step), listed.astype(np.int64)
        total = row_sums(np.exp(codes * self._step), listed) + self.tau * (counts - listed)
        if ((total > level + self.tau + SUM_TOLERANCE) | (total < 1 / level - self.tau - SUM_TOLERANCE)).any():
            raise ValueError("weights of a row that do not sum to 1")

    def _least_sums(self, arrays: Arrays) -> NDArray[np.float64]:
        """Return the sum of the least probabilities by which the classes of each row are drawn or listed, (B,)."""
        counts, listed = arrays[COUNT].astype(np.int64), arrays[LISTED].astype(np.int64)
        # In parts of 2^32; modulo that, so an offset of 0 counts as no probability.
        least = np.negative(class_offsets(np.repeat(arrays[DITHER], counts), arrays["ids"]))
        least[ranges(np.cumsum(counts) - counts, listed)] = 0
        # A listed probability is rounded up by less than a level, and is the threshold at least.
        of_code = np.exp(np.minimum(np.arange(1, MAX_LEVELS + 2), self.levels) * self._step)
        return row_sums(of_code[arrays["codes"]], listed) + row_sums(least, counts) * (self.tau / 2**32)


class _Classes(NamedTuple):
    """Classes of rows: row, class and a number of each, (n,)."""

    row: NDArray[np.int64]
    ids: NDArray[np.int64]
    p: NDArray[Any]


_Drawn: TypeAlias = "tuple[NDArray[np.uint32] | None, _Classes, _Classes]"
"""Offset of each row, None if readers do not know it; classes with their probabilities; and those that are drawn."""

ENCODING = Threshold
