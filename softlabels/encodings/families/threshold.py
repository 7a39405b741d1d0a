"""``threshold:TAU``: the classes with p >= TAU by their probability, and a sample of the others.

Another class v is drawn with probability p_v / TAU, and then stands for TAU. One uniform offset per row, crossed with
the cumulated inclusion probabilities (systematic sampling), makes the number of drawn classes as even as can be, so a
row sums to within TAU of 1. The squared error, sum of p (TAU - p) over the small classes, is the least that so many ids
can have: an equal TAU for all rows balances the error against ids (Cohen, Duffield, Kaplan, Lund, Thorup 2009). Drawn
ids need no value, and the others' probabilities are rounded at random to one of LEVELS, so that rounding has no bias
either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import COUNT, Arrays, Column
from softlabels.encodings.encoding import Block, Encoded, id_dtype
from softlabels.encodings.items import ItemEncoding
from softlabels.encodings.log_probs import pad
from softlabels.encodings.options import integer, probability, require_count
from softlabels.encodings.samples import check_sampled_ids, require_one_temperature, sample_labels
from softlabels.labels import Head, SparseLabels
from softlabels.rng import uniforms

LISTED = "listed"
"""Column that counts the classes of a row that have a probability of their own."""

OFFSET = 2**40
"""Counter of a row's one uniform offset; those below are class ids."""

MAX_LEVELS = 255

SUM_TOLERANCE = 1e-2
"""Slack of the check that a row's weights sum to 1, beside that of drawing and rounding."""


@dataclass(frozen=True)
class Threshold(ItemEncoding):
    """Classes of probability ``tau`` or more, and a systematic sample of the rest.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels.encodings import Threshold
        >>> from softlabels.labels import Head
        >>> encoding, head = Threshold(0.25, 9), Head(encoding="threshold:0.25:9", classes=100)
        >>> encoded = encoding.encode(torch.zeros(1, 100), head, np.arange(1))
        >>> encoding.decode(encoded.arrays, head).ids.shape  # four classes of weight 0.25
        (1, 4)

    Attributes:
        tau: Threshold probability.
        levels: Number of levels; a stored probability is tau^(code / levels), with a code from 0 to levels.
    """

    name: ClassVar[str] = "threshold"
    form: ClassVar[str] = "threshold:TAU[:LEVELS]"
    block_elements: ClassVar[int] = 2**22

    tau: float
    levels: int

    @classmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """See Encoding.from_options."""
        require_count(options, 1, 2)
        tau = probability(options[0])
        if tau == 1:
            raise ValueError("got a threshold of 1; expected a smaller one")
        return cls(tau, integer(options[1], 1, MAX_LEVELS) if len(options) > 1 else cls.usual_levels(tau))

    @staticmethod
    def usual_levels(tau: float) -> int:
        """Return the default number of levels, whose rounding adds one or two hundredths to the error of sampling."""
        return min(MAX_LEVELS, max(1, math.ceil(-math.log(tau) / math.sqrt(tau / 10))))

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"threshold:{self.tau:g}:{self.levels}"

    @property
    def _step(self) -> float:
        """Difference of log-probabilities from one level to the next, below 0."""
        return math.log(self.tau) / self.levels

    def item_columns(self, head: Head) -> dict[str, Column]:
        """Return ``count`` of the row's classes, ``ids``, and ``codes`` of the first ``listed`` of them."""
        require_one_temperature(self.spec, head)
        return {
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
        import torch

        from softlabels.encodings.listing import relative
        from softlabels.encodings.logits import to_numpy
        from softlabels.encodings.systematic import STRETCH, crossings, cumulate

        values, temperature = block.values, block.head.temperatures[0]
        if temperature != 1:
            values = relative(values, values.amax(dim=-1, keepdim=True), temperature)
        # A class this close to the threshold is listed, as the threshold: none that is drawn can be met twice.
        *listing, rest = cumulate(values.softmax(dim=-1)).take(self.tau * (1 - 2 * STRETCH))
        row, ids, p = map(to_numpy, listing)
        order = np.lexsort((ids, -p, row))
        row, ids, p = row[order], ids[order], p[order]
        # A class is drawn if a multiple of tau lies within u + its cumulated probability.
        u = torch.from_numpy(uniforms(block.words, np.array([OFFSET]))).to(values.device)[:, None]
        draws = (rest.total / self.tau + u).floor().long()
        steps = torch.arange(1, max(1, int(draws.max()) if len(draws) else 1) + 1, device=values.device)
        drawn_ids = to_numpy(crossings(rest, (steps - u) * self.tau, steps <= draws))
        drawn = to_numpy(draws[:, 0])
        drawn_row = np.repeat(np.arange(len(drawn)), drawn)
        of_row = np.argsort(np.concatenate([row, drawn_row]), kind="stable")
        listed = np.bincount(row, minlength=len(drawn))
        return Encoded({
            COUNT: (listed + drawn).astype(np.uint16),
            "ids": np.concatenate([ids, drawn_ids])[of_row].astype(id_dtype(block.head.classes)),
            LISTED: listed.astype(np.uint16),
            "codes": self._codes(np.log(p.astype(np.float64)), ids, block.words[row]),
        })  # fmt: skip

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
        return sample_labels(counts, arrays["ids"], values.astype(np.float32), head, widen=widen)

    def check_items(self, arrays: Arrays, head: Head) -> None:
        """See ItemEncoding.check_items."""
        counts, listed, codes = arrays[COUNT], arrays[LISTED], arrays["codes"]
        check_sampled_ids(arrays["ids"], counts, head)
        if (listed > counts).any():
            raise ValueError("more probabilities than classes in a row")
        if codes.size and int(codes.max()) > self.levels:
            raise ValueError(f"a code above {self.levels}")
        row = np.repeat(np.arange(len(listed)), listed)
        drawn = self.tau * (counts.astype(np.int64) - listed)
        total = drawn + np.bincount(row, np.exp(codes * self._step), minlength=len(listed))
        # Drawing changes a row's sum by up to tau, and rounding each listed probability by up to one level.
        level = math.exp(-self._step)
        if (total > level + self.tau + SUM_TOLERANCE).any() or (total < 1 / level - self.tau - SUM_TOLERANCE).any():
            raise ValueError("weights of a row that do not sum to 1")


ENCODING = Threshold
