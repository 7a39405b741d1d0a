"""``counts:N``: N draws per row on average, stored as counts under the ranks of the row's codeword.

A class of probability p is drawn floor(N p + u) times, so the labels are unbiased. Its offset u is known to the reader
(``softlabels.encodings.dither``), and losses round the student by the same one, which takes most of the noise out of
the gradient (``softlabels.losses.coupling``). With a ``floor``, the distribution of the row's codeword, times a share
s, lies under all classes. Of each class of probability ``floor`` or more only the excess over it is drawn, by
systematic draws, so that the sum of both is p on average. Classes below the floor follow the codeword, which students
learn in place of the teacher (docs/fidelity.md, sections 9 and 10).

A class id takes two bytes in a vocabulary. Its rank in the order of the row's codeword takes few bits, since the
codeword knows which classes are likely here. Ranks are stored ascending as gaps of single bytes, which a Huffman code
(zstd) packs near their entropy; ``near`` entries have ranks below 256, ``far`` ones a gap of blocks of 256 ranks and an
offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column, row_sums
from softlabels.encodings.codebook import classes_by_rank
from softlabels.encodings.dither import DITHER, Draws, draw
from softlabels.encodings.encoding import Block, Encoded, id_dtype
from softlabels.encodings.items import ItemEncoding
from softlabels.encodings.log_probs import padded_width
from softlabels.encodings.option_parsers import integer, probability, require_count
from softlabels.encodings.rank_layout import NEAR, WIDE_CLASSES, far_ranks, near_ranks, ranked
from softlabels.encodings.samples import require_one_temperature
from softlabels.labels import Dither, Head, SparseLabels
from softlabels.rng import uniforms

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.codebook import Codebook

PRIOR = "prior"
MAX_DRAWS = 255
"""Upper bound of the draws per row, and of the classes that are drawn: each is one byte."""
MAX_DITHERED = 200
"""Upper bound of the draws per row that dither makes. About N classes are drawn, and a row that draws more than
MAX_DRAWS takes another offset: at 255 draws this is a third of flat rows, which lose 3 % of their probability."""
MAX_PRIORS = 256
USUAL_PRIORS = 64
MIN_REST = 1e-6
"""Lower bound of the probability that a codeword leaves to classes without an excess; rounding may take it to 0."""


@dataclass(frozen=True)
class Counts(ItemEncoding):
    """Counts of draws.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import encodings
        >>> from softlabels.encodings import codebook
        >>> from softlabels.labels import Head
        >>> encoding = encodings.parse("counts:20:0.01:2", classes=50)
        >>> head = Head(encoding=encoding.spec, classes=50)
        >>> logits = 3 * torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
        >>> book = codebook.fit(encoding, head, [logits])
        >>> arrays = encoding.encode(logits, head, np.arange(100), codebook=book).arrays
        >>> np.exp(encoding.decode(arrays, head, book.priors).log_probs()).sum(axis=1).round(3).min()
        np.float32(1.0)

    Attributes:
        draws: Number of draws per row, N; those that fall below the floor are not made.
        floor: Probability below which a class is left to the codeword's prior; 0: none, and labels are unbiased.
        priors: Number of codewords M.
        first_rule: True in stores of the first rule, whose draws are systematic: N of a row without a floor; with one,
            all of p is drawn, and what the draws leave goes to the classes that are not listed.
    """

    name: ClassVar[str] = "counts"
    form: ClassVar[str] = "counts:N[:FLOOR[:M]] (N: draws; FLOOR: least probability drawn, 0; M: number of codewords)"
    example: ClassVar[str] = "counts:14"

    draws: int
    floor: float = 0.0
    priors: int = USUAL_PRIORS
    first_rule: bool = False

    @classmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """See Encoding.from_options."""
        require_count(options, 1, 4)
        floor = 0.0 if len(options) < 2 or options[1] == "0" else probability(options[1])
        if floor == 1:
            raise ValueError("got a floor of 1; expected a smaller one")
        priors = integer(options[2], 2, MAX_PRIORS) if len(options) > 2 else USUAL_PRIORS
        first_rule = len(options) == 3
        encoding = cls(integer(options[0], 1, MAX_DRAWS), floor, priors, first_rule=first_rule)
        if len(options) > 3 and options[3] != encoding.rule:
            raise ValueError(f"got {options[3]!r} behind the number of codewords; expected {encoding.rule!r}")
        if encoding.dithered and encoding.draws > MAX_DITHERED:
            raise ValueError(f"got {encoding.draws} draws; expected at most {MAX_DITHERED} without a floor")
        return encoding

    @property
    def rule(self) -> str:
        """Last word of the specification: the rule of the draws; empty for the first one."""
        return "" if self.first_rule else "excess" if self.floor else "dither"

    @property
    def dithered(self) -> bool:
        """True if readers know the offsets of the draws."""
        return self.rule == "dither"

    @property
    def excess(self) -> bool:
        """True if the excess over the codeword is drawn."""
        return self.rule == "excess"

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"counts:{self.draws}:{self.floor:g}:{self.priors}" + (f":{self.rule}" if self.rule else "")

    @property
    def current(self) -> Self:
        """See Encoding.current."""
        return replace(self, first_rule=False)

    @property
    def has_tail(self) -> bool:
        """True if classes below the floor are left to the prior."""
        return self.floor > 0

    def item_columns(self, head: Head) -> dict[str, Column]:
        """Return the row's codeword, and for near and far entries their number, ranks and draws less one."""
        require_one_temperature(self.spec, head)
        blocks = "uint8" if head.classes <= WIDE_CLASSES else "uint16" if head.classes <= WIDE_CLASSES**2 else "uint32"
        dither = {DITHER: Column("uint32")} if self.dithered else {}
        return dither | {
            PRIOR: Column("uint8", packed=True),
            "near": Column("uint8", packed=True),
            "near_gaps": Column("uint8", per="near", packed=True),
            "near_draws": Column("uint8", per="near", packed=True),
            "far": Column("uint8", packed=True),
            "far_blocks": Column(blocks, per="far", packed=True),
            "far_offsets": Column("uint8", per="far", packed=True),
            "far_draws": Column("uint8", per="far", packed=True),
        }

    def typical_entries(self, head: Head) -> float:
        """Return an estimate of the entries per row, near ones and far ones each."""
        return min(head.classes, max(1.0, 0.2 * self.draws))

    def entries(self, arrays: Arrays, head: Head) -> int:
        """See Encoding.entries."""
        return int(arrays["near_gaps"].size + arrays["far_offsets"].size)

    def pilot_distributions(self, logits: Tensor, head: Head, rows: NDArray[np.int64]) -> list[Tensor]:
        """See Encoding.pilot_distributions: the whole distribution, which orders the classes and models the tail."""
        from softlabels.encodings.logits import checked_float

        values = checked_float(logits, head, rows)
        return [(values / temperature).softmax(dim=-1) for temperature in head.temperatures]

    def encode_items(self, block: Block) -> Encoded:
        """See ItemEncoding.encode_items."""
        if block.codebook is None:
            raise ValueError(f"{self.spec}: needs a codebook")
        method = self._draw_above_floor if self.floor else self._draw_dithered if self.dithered else self._draw_all
        prior, offsets, draws = method(block, block.codebook)
        ranks = block.codebook.ranks[prior[draws.row], draws.ids].astype(np.int64)
        order = np.argsort(draws.row * block.head.classes + ranks)
        entries = ranked(draws.row[order], ranks[order], draws.counts[order], rows=len(prior))
        arrays: Arrays = {PRIOR: prior, **entries} if offsets is None else {DITHER: offsets, PRIOR: prior, **entries}
        return Encoded(
            {name: arrays[name].astype(column.dtype) for name, column in self.item_columns(block.head).items()}
        )

    def _draw_dithered(self, block: Block, codebook: Codebook) -> _Drawn:
        """Draw from all classes, each by its own offset."""
        from softlabels.encodings.listing import relative

        values = block.values
        weights = relative(values, values.amax(dim=-1, keepdim=True), block.head.temperatures[0]).exp_()
        prior = codebook.nearest_to(weights)
        scale = (self.draws / weights.sum(dim=-1, keepdim=True).double()).float()
        offsets, draws = draw(weights, scale, block.counters, MAX_DRAWS)
        # Rounding may take N p of a class above N.
        return prior, offsets, draws._replace(counts=np.minimum(draws.counts, self.draws))

    def _draw_above_floor(self, block: Block, codebook: Codebook) -> _Drawn:
        """Draw from the classes of probability ``floor`` or more, likeliest first."""
        from softlabels.encodings.listing import at_least
        from softlabels.encodings.logits import to_numpy

        temperature = block.head.temperatures[0]
        listing = at_least(block.values, self.floor, temperature=temperature, argmax=False)
        prior, ids = codebook.nearest(listing, temperature), to_numpy(listing.ids)
        p = np.exp(to_numpy(listing.log_probs(temperature)).astype(np.float64))
        if self.excess:
            below = np.exp(to_numpy(listing.masses(temperature).log_tail).astype(np.float64))
            p = excess_over(p, np.where(p > 0, codebook.priors[0][prior[:, None], ids], 0.0), below)
        u = uniforms(block.words, np.zeros(1, np.int64))
        # Rounding may take the sum of a row that lists all of its probability above 1.
        crossed = np.floor(np.minimum(self.draws * np.cumsum(p, axis=1), self.draws) + u[:, None])
        drawn = np.diff(np.minimum(crossed, self.draws), axis=1, prepend=0).astype(np.int64)
        row, column = np.nonzero(drawn)
        return prior, None, Draws(row, ids[row, column], drawn[row, column])

    def _draw_all(self, block: Block, codebook: Codebook) -> _Drawn:
        """Draw from all classes, in the order of their ids."""
        import torch

        from softlabels.encodings.listing import relative
        from softlabels.encodings.logits import to_numpy
        from softlabels.encodings.systematic import crossings, cumulate

        values, temperature = block.values, block.head.temperatures[0]
        weights = relative(values, values.amax(dim=-1, keepdim=True), temperature).exp_()
        prior = codebook.nearest_to(weights)
        cumulated, u = cumulate(weights), uniforms(block.words, np.zeros(1, np.int64))
        steps = (torch.arange(1, self.draws + 1) - torch.from_numpy(u)[:, None]).to(values.device) / self.draws
        ids = to_numpy(crossings(cumulated, steps * cumulated.total))
        # Equal draws are neighbours: the first of each run stands for all.
        row, column = np.nonzero(np.diff(ids, axis=1, prepend=-1))
        places = row * self.draws + column
        return prior, None, Draws(row, ids[row, column], np.diff(places, append=ids.size))

    def decode_items(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See ItemEncoding.decode_items.

        Classes are in no order. A row without draws, which a flat distribution has, lists the likeliest class of its
        codeword with the probability that it has there; of unbiased labels it lists none.
        """
        if prior is None:
            raise ValueError(f"{self.spec}: ids are ranks under a codeword, and there is no codebook")
        codewords, near, far = arrays[PRIOR], arrays["near"].astype(np.int64), arrays["far"].astype(np.int64)
        column = np.arange(padded_width(near + far))
        is_near = column < near[:, None]
        is_far = (column < (near + far)[:, None]) & ~is_near
        by_rank, unbiased = classes_by_rank(prior), self.floor == 0
        ids = np.zeros(is_near.shape, id_dtype(head.classes))
        counts = np.zeros(is_near.shape, np.uint8)
        # Probability of the listed classes by the codeword, for those that are more than their draws.
        under = np.zeros(is_near.shape, np.float32)
        for is_entry, number, ranks, less_one in (
            (is_near, near, near_ranks(arrays), arrays["near_draws"]),
            (is_far, far, far_ranks(arrays), arrays["far_draws"]),
        ):
            places = np.repeat(codewords.astype(np.int64) * head.classes, number) + ranks
            ids[is_entry] = by_rank.classes.take(places)
            counts[is_entry] = less_one + np.uint8(1)
            if self.excess and not unbiased:
                under[is_entry] = by_rank.probabilities.take(places)
        drawn = counts.sum(axis=1, dtype=np.int64)
        if not unbiased:
            is_empty = np.flatnonzero(drawn == 0)
            ids[is_empty, 0] = by_rank.classes[codewords[is_empty], 0]
            under[is_empty, 0] = by_rank.probabilities[codewords[is_empty], 0]
        share = np.maximum(1 - drawn / self.draws, 0)
        with np.errstate(divide="ignore"):
            log_weights = np.log(self._weights[counts] + share[:, None] * under)
            log_tail = np.log(share * (1 - under.sum(axis=1, dtype=np.float64))).astype(np.float32)[:, None]
        # Values of labels with a tail are log-probabilities at T = 1, those of unbiased ones log-weights.
        values = log_weights if unbiased else head.temperatures[0] * log_weights
        return SparseLabels(
            classes=head.classes,
            ids=ids.astype(np.int64) if widen else ids,
            values=values.astype(np.float32),
            temperatures=head.temperatures,
            log_tail=np.full_like(log_tail, -np.inf) if unbiased else log_tail,
            tail=head.tail,
            prior=None if unbiased else prior,
            unbiased=unbiased,
            drawn=not unbiased,
            prior_index=None if unbiased else codewords,
            dither=Dither(1 / self.draws, arrays[DITHER].astype(np.int64)) if self.dithered else None,
        )

    @property
    def _weights(self) -> NDArray[np.float64]:
        """Share n / N for every number n of draws, (256,)."""
        return np.arange(MAX_DRAWS + 1) / self.draws

    def check_items(self, arrays: Arrays, head: Head) -> None:
        """See ItemEncoding.check_items."""
        near, far = arrays["near"].astype(np.int64), arrays["far"].astype(np.int64)
        padded_width(near + far)
        if arrays[PRIOR].size and int(arrays[PRIOR].max()) >= self.priors:
            raise ValueError(f"codeword {int(arrays[PRIOR].max())}, but there are {self.priors}")
        of_near, of_far = near_ranks(arrays), far_ranks(arrays)
        if of_near.size and int(of_near.max()) >= min(NEAR, head.classes):
            raise ValueError(f"a near class of rank {int(of_near.max())}")
        if of_far.size and int(of_far.max()) >= head.classes:
            raise ValueError(f"a class of rank {int(of_far.max())}, but there are {head.classes} classes")
        is_same_row = np.diff(np.repeat(np.arange(len(far)), far)) == 0
        if (np.diff(of_far)[is_same_row] <= 0).any():
            raise ValueError("far classes of a row that do not ascend by rank")
        entries = near + far
        if entries.size and int(entries.max()) > MAX_DRAWS:
            raise ValueError(f"a row of {int(entries.max())} classes, but there are at most {MAX_DRAWS}")
        drawn = row_sums(arrays["near_draws"], near) + row_sums(arrays["far_draws"], far) + entries
        if self.dithered:
            is_possible = drawn - entries < self.draws  # floor(N p + u) is below N p + 1
        else:
            is_possible = drawn <= self.draws if self.floor else drawn == self.draws
        if not is_possible.all():
            raise ValueError(f"a row that does not hold {self.draws} draws" + (" or fewer" if self.floor else ""))


ENCODING = Counts


_Drawn: TypeAlias = "tuple[NDArray[np.uint8], NDArray[np.uint32] | None, Draws]"
"""Codeword and offset of each row, (B,), and the draws of all; None if readers do not know the offsets."""


def excess_over(p: NDArray[np.float64], pi: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the excess of p over a share of the codeword, (B, K); with that share it sums to 1.

    The share s solves s + sum over v of max(p_v - s pi_v, 0) = 1 by Newton's method from above. Each step solves it for
    the classes with an excess, and a smaller share has no fewer of them, so it ends.

    Args:
        p: (B, K) probabilities of the listed classes, 0 for padding.
        pi: (B, K) those that the codeword gives to them, 0 for padding.
        below: (B,) probability of all other classes.
    """
    is_above = p > 0
    while True:
        rest = np.maximum(1 - np.where(is_above, pi, 0.0).sum(axis=1), MIN_REST)
        share = np.minimum((below + np.where(is_above, 0.0, p).sum(axis=1)) / rest, 1.0)
        excess = p - share[:, None] * pi
        if ((excess > 0) == is_above).all():
            return np.asarray(np.where(is_above, excess, 0.0))
        is_above = excess > 0
