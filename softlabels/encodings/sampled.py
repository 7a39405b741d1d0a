"""``sampled`` and ``threshold``: a few weighted classes a row whose expectation is the teacher's distribution.

Labels that leave classes out teach the student that those never happen, or happen as often as elsewhere; labels that
are a sample are right on average in every context. Both encodings are unbiased, class by class:

``sampled:N`` draws N classes with replacement, in proportion to p^E (E = 1 by default: RS-KD, arXiv 2503.16870), and
keeps ids with their counts, and importance weights where E is not 1.

``threshold:TAU`` keeps each class with p >= TAU by its probability, and draws among the others: class v with
probability p_v / TAU, and then for TAU. One uniform offset a row, crossed with the cumulated inclusion probabilities
(systematic sampling), makes the number of drawn classes as even as can be, so a row sums to within TAU of 1. The
squared error, sum of p (TAU - p) over the small classes, is the least that so many ids can have: an equal TAU for all
rows is what balances the error against ids (Cohen, Duffield, Kaplan, Lund, Thorup 2009). Drawn ids need no value, and
the others' probabilities are rounded at random to one of LEVELS, so that rounding has no bias either.

What was drawn holds at one temperature, that of the head, and follows from the seed of the store (draws.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import COUNT, Arrays, Column
from softlabels.encodings.log_probs import pad, padded_width, unpad
from softlabels.encodings.protocol import Encoded, id_dtype, require_single_distribution
from softlabels.encodings.topk import require_distinct
from softlabels.errors import InvalidArgument
from softlabels.labels import Head, SparseLabels
from softlabels.rng import uniforms

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.codebook import Codebook

OFFSET = 2**40
"""Counter of a row's one uniform offset; those below are class ids or numbers of draws."""
MOST_LEVELS = 255


@dataclass(frozen=True)
class Sampled:
    """Draws with replacement (RS-KD).

    Attributes:
        draws: N, how many a row.
        exponent: E; classes are drawn in proportion to p^E.
    """

    draws: int
    exponent: float = 1.0

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"sampled:{self.draws}" + ("" if self.exponent == 1 else f":{self.exponent:g}")

    @property
    def priors(self) -> int:
        """There is no tail."""
        return 1

    @property
    def has_tail(self) -> bool:
        """Nothing is left out on average."""
        return False

    def columns(self, head: Head) -> dict[str, Column]:
        """``count`` of the row's distinct classes, ``ids``, ``draws`` of each, and log importance ``weights``."""
        _require_one_temperature(self.spec, head)
        columns = {
            COUNT: Column("uint16"),
            "ids": Column(id_dtype(head.classes), per=COUNT),
            "draws": Column("uint8" if self.draws < 2**8 else "uint16", per=COUNT),
        }
        return columns if self.exponent == 1 else columns | {"weights": Column("float32", per=COUNT)}

    def typical_entries(self, head: Head) -> float:
        """Half of the draws repeat another."""
        return min(head.classes, max(1.0, 0.5 * self.draws))

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
        """See Encoding.encode."""
        from softlabels.encodings.blocks import in_blocks

        return in_blocks(self._encode_block, logits, head, rows, words=words, residual=residual, codebook=codebook)

    def _encode_block(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        words: NDArray[np.uint64],
        residual: bool,  # noqa: FBT001
        codebook: Codebook | None,
    ) -> Encoded:
        import torch

        from softlabels.encodings.listing import relative
        from softlabels.encodings.logits import checked_float, to_numpy
        from softlabels.encodings.systematic import crossings, cumulate

        values, temperature = checked_float(logits, head, rows), head.temperatures[0]
        greatest = values.amax(dim=-1, keepdim=True)
        along = cumulate(relative(values, greatest, temperature / self.exponent).exp_())
        u = torch.from_numpy(uniforms(words[:, None], np.arange(self.draws)[None, :])).to(values.device)
        drawn = crossings(along, u * along.total)
        ids = np.sort(to_numpy(drawn), axis=1)
        first = np.diff(ids, axis=1, prepend=-1) != 0
        counts = first.sum(axis=1).astype(np.uint16)
        places = np.append(np.flatnonzero(first), first.size)
        arrays: dict[str, NDArray[Any]] = {
            COUNT: counts,
            "ids": ids[first].astype(id_dtype(head.classes)),
            "draws": np.diff(places).astype(self.columns(head)["draws"].dtype),
        }
        if self.exponent != 1:
            row = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(values.device)
            column = torch.from_numpy(ids[first]).to(values.device)
            less = (values[row, column] - greatest[row, 0]) / temperature
            normalizers = relative(values, greatest, temperature).logsumexp(dim=-1) - along.total[:, 0].log()
            arrays["weights"] = to_numpy((less * (1 - self.exponent) - normalizers[row]).float())
        return Encoded(arrays)

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See Encoding.decode."""
        log_weights = np.log(arrays["draws"].astype(np.float32) / np.float32(self.draws))
        if self.exponent != 1:
            log_weights = log_weights + arrays["weights"].astype(np.float32)
        return _sample(arrays[COUNT], arrays["ids"], pad(log_weights, arrays[COUNT], -np.inf), head, widen=widen)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Ids and counts are what an encoder could have written: see Encoding.check."""
        counts, draws = arrays[COUNT], arrays["draws"]
        _check_ids(arrays["ids"], counts, head)
        total = np.bincount(np.repeat(np.arange(len(counts)), counts), draws, minlength=len(counts))
        if (counts < 1).any() or (draws < 1).any() or (total != self.draws).any():
            raise ValueError(f"a row that does not hold {self.draws} draws")
        if "weights" in arrays and not np.isfinite(arrays["weights"]).all():
            raise ValueError("importance weights that are not finite")


@dataclass(frozen=True)
class Threshold:
    """Classes of probability ``tau`` or more, and a systematic sample of the rest.

    Attributes:
        tau: the threshold.
        levels: a kept probability is tau^(code / levels), code 0 to levels.
    """

    tau: float
    levels: int

    @staticmethod
    def usual_levels(tau: float) -> int:
        """Levels whose rounding adds a hundredth or two to the error of sampling, at most 255."""
        return min(MOST_LEVELS, max(1, math.ceil(-math.log(tau) / math.sqrt(tau / 10))))

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"threshold:{self.tau:g}:{self.levels}"

    @property
    def priors(self) -> int:
        """There is no tail."""
        return 1

    @property
    def has_tail(self) -> bool:
        """Nothing is left out on average."""
        return False

    def columns(self, head: Head) -> dict[str, Column]:
        """``count`` of the row's classes, ``ids``, and ``codes`` of the first ``listed`` of them."""
        _require_one_temperature(self.spec, head)
        return {
            COUNT: Column("uint16"),
            "ids": Column(id_dtype(head.classes), per=COUNT),
            "listed": Column("uint16"),
            "codes": Column("uint8", per="listed"),
        }

    def typical_entries(self, head: Head) -> float:
        """A row of all small classes has 1 / tau."""
        return min(head.classes, max(1.0, 0.4 / self.tau))

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
        """See Encoding.encode."""
        from softlabels.encodings.blocks import in_blocks

        return in_blocks(self._encode_block, logits, head, rows, words=words, residual=residual, codebook=codebook)

    def _encode_block(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        words: NDArray[np.uint64],
        residual: bool,  # noqa: FBT001
        codebook: Codebook | None,
    ) -> Encoded:
        import torch

        from softlabels.encodings.listing import at_least
        from softlabels.encodings.logits import checked_float, to_numpy
        from softlabels.encodings.systematic import STRETCH, crossings, cumulate

        values, temperature = checked_float(logits, head, rows), head.temperatures[0]
        # A class this close to the threshold is kept, as the threshold: none that is drawn can be met twice.
        listing = at_least(values, self.tau * (1 - 2 * STRETCH), temperature=temperature, argmax=False)
        masses = listing.masses(temperature)
        # Included where a multiple of TAU lies within u + its cumulated probability.
        along, unit = cumulate(masses.weights), self.tau / masses.scale.double()[:, None]
        u = torch.from_numpy(uniforms(words, np.array([OFFSET]))).to(values.device)[:, None]
        drawn_counts = (along.total / unit + u).floor().long()[:, 0]
        most = max([1, *drawn_counts.tolist()])
        targets = (torch.arange(1, most + 1, device=values.device) - u) * unit
        drawn = to_numpy(crossings(along, targets))
        listed, drawn_many = to_numpy(listing.counts), to_numpy(drawn_counts)
        ids = np.concatenate([to_numpy(listing.ids), drawn], axis=1)
        width = listing.ids.shape[1]
        is_kept = np.concatenate(
            [np.arange(width) < listed[:, None], np.arange(drawn.shape[1]) < drawn_many[:, None]], axis=1
        )
        codes = self._codes(to_numpy(listing.log_probs(temperature)), to_numpy(listing.ids), words)
        return Encoded({
            COUNT: is_kept.sum(axis=1).astype(np.uint16),
            "ids": ids[is_kept].astype(id_dtype(head.classes)),
            "listed": listed.astype(np.uint16),
            "codes": unpad(codes, listed),
        })  # fmt: skip

    def _codes(
        self, log_p: NDArray[np.float32], ids: NDArray[np.int64], words: NDArray[np.uint64]
    ) -> NDArray[np.uint8]:
        """Probabilities rounded up or down to a level so that the mean is right; (B, K) codes."""
        step = math.log(self.tau) / self.levels
        with np.errstate(invalid="ignore"):
            exact = np.where(np.isfinite(log_p), log_p.astype(np.float64) / step, 0.0).clip(0, self.levels)
        upper = np.floor(exact).clip(max=self.levels - 1)  # the greater probability has the smaller code
        high, low = np.exp(upper * step), np.exp((upper + 1) * step)
        chance = (np.exp(exact * step) - low) / (high - low)
        codes: NDArray[np.uint8] = np.where(uniforms(words[:, None], ids) < chance, upper, upper + 1).astype(np.uint8)
        return codes

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See Encoding.decode."""
        counts, listed = arrays[COUNT], arrays["listed"]
        step = np.float32(math.log(self.tau) / self.levels)
        values = pad(np.full(len(arrays["ids"]), np.float32(math.log(self.tau))), counts, -np.inf)
        values[np.arange(values.shape[1]) < listed[:, None]] = arrays["codes"] * step
        return _sample(counts, arrays["ids"], values.astype(np.float32), head, widen=widen)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Ids and codes are what an encoder could have written: see Encoding.check."""
        counts, listed = arrays[COUNT], arrays["listed"]
        _check_ids(arrays["ids"], counts, head)
        if (listed > counts).any():
            raise ValueError("more probabilities than classes in a row")
        if arrays["codes"].size and int(arrays["codes"].max()) > self.levels:
            raise ValueError(f"a code above {self.levels}")


def _sample(
    counts: NDArray[np.integer], ids: NDArray[Any], values: NDArray[np.float32], head: Head, *, widen: bool
) -> SparseLabels:
    padded = pad(ids, counts)
    return SparseLabels(
        classes=head.classes,
        ids=padded.astype(np.int64) if widen else padded,
        values=values,
        temperatures=head.temperatures[:1],
        log_tail=np.full((len(counts), 1), -np.inf, np.float32),
        unbiased=True,
    )


def _check_ids(ids: NDArray[Any], counts: NDArray[np.integer], head: Head) -> None:
    if ids.size and int(ids.max()) >= head.classes:
        raise ValueError(f"class id {int(ids.max())}, but there are {head.classes} classes")
    padded_width(counts)
    require_distinct(ids, counts)


def _require_one_temperature(spec: str, head: Head) -> None:
    require_single_distribution(spec, head)
    if len(head.temperatures) > 1:
        named = ", ".join(f"{t:g}" for t in head.temperatures)
        raise InvalidArgument(
            f"{spec} holds at the one temperature it is drawn at, but {named} were asked for; name one, or use topk or "
            "adaptive, which are exact at several"
        )
