"""Interface of an encoding: named columns, an encoder where the logits are, and a decoder that needs NumPy alone.

An encoding is one frozen dataclass that derives from ``Encoding``, in a module of ``softlabels/encodings/families``. It
implements ``encode_block``; ``Encoding.encode`` checks the logits, draws the random words, and splits the batch.

A batch is encoded a few rows at a time, so that intermediate results stay in a core's cache. A batch of a language
model's logits is tens of MiB, and each pass over it from memory, or each fresh page, costs as much as an exponential.
On accelerators a batch is encoded at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.labels import Head, SoftLabels
from softlabels.rng import counters as counters_of
from softlabels.rng import words as words_of

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.codebook import Codebook

MAX_MARKS = 128
"""Places per listed class up to which marks are faster than sorting."""


@dataclass(frozen=True)
class Encoded:
    """Encoded batch.

    Attributes:
        arrays: Columns by name, on the CPU.
        residual: (2, len(temperatures), C) float64, the sums over rows that a tail prior is made of: p_T of the classes
            that a row does not list, and C times an even spread of each row's unlisted mass. None unless requested, or
            if the encoding lists every class.
    """

    arrays: dict[str, NDArray[Any]]
    residual: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Block:
    """Rows to encode together.

    Attributes:
        values: (B, *head.position_shape, C) float32 logits, checked to be encodable.
        head: Head of the logits.
        rows: (B,) absolute row numbers, for messages.
        words: (B,) uint64, the seeds of all random numbers of an item.
        counters: (B,) uint32, numbers of the items, from which dither follows; neighbours have successive ones.
        residual: True if the sums for the tail prior are requested.
        codebook: Tail priors to choose from, or None.
    """

    values: Tensor
    head: Head
    rows: NDArray[np.int64]
    words: NDArray[np.uint64]
    counters: NDArray[np.uint32]
    residual: bool
    codebook: Codebook | None


class Encoding(ABC):
    """A family of columns with its exact decoder. Subclasses are frozen dataclasses that hold their options."""

    name: ClassVar[str]
    """First word of the specification."""
    form: ClassVar[str]
    """Grammar of the specification, for messages."""
    example: ClassVar[str]
    """A specification for 7 classes or more, for messages and the suites over all encodings."""
    block_elements: ClassVar[int] = 2**20
    """Logits per block on a CPU. Encodings of few passes, and of many small operations per block, take larger ones."""

    @classmethod
    @abstractmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """Return the encoding for a head of ``classes`` classes with the options of a specification.

        Raises:
            ValueError: Options that do not follow ``form``.
            InvalidArgument: Options that do not fit the number of classes.
        """

    @property
    @abstractmethod
    def spec(self) -> str:
        """Canonical specification, which parses to this encoding."""

    @property
    def current(self) -> Encoding:
        """Encoding that a new store is given for this one; another one if a later rule has replaced it."""
        return self

    @property
    def has_tail(self) -> bool:
        """True if some probability mass may be unlisted."""
        return False

    @property
    def priors(self) -> int:
        """Number of tail priors in the codebook that rows choose from; 1 without a codebook."""
        return 1

    @property
    def standardizes(self) -> bool:
        """True if the codebook holds the mean and the deviation of each dimension in place of tail priors."""
        return False

    @abstractmethod
    def columns(self, head: Head) -> dict[str, Column]:
        """Return the columns of ``head`` by name, a counting column before those it counts.

        Raises:
            InvalidArgument: The encoding does not support such a head.
        """

    def typical_entries(self, head: Head) -> float:
        """Return an estimate of the entries per item of ragged columns, for sizing units."""
        return 1.0

    def entries(self, arrays: Arrays, head: Head) -> int:
        """Return the number of classes that rows list, all of them together.

        Args:
            arrays: Columns of the rows.
            head: Head that the columns belong to.
        """
        return int(arrays["ids"].size)

    def encode(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        *,
        words: NDArray[np.uint64] | None = None,
        counters: NDArray[np.uint32] | None = None,
        residual: bool = False,
        codebook: Codebook | None = None,
    ) -> Encoded:
        """Encode a batch on the device that holds it.

        Example:
            >>> import numpy as np, torch
            >>> from softlabels import encodings
            >>> from softlabels.labels import Head
            >>> encoding = encodings.parse("topk:2", classes=4)
            >>> head = Head(encoding=encoding.spec, classes=4)
            >>> encoding.encode(torch.tensor([[0.0, 5.0, 1.0, 2.0]]), head, np.arange(1)).arrays["ids"].tolist()
            [[1, 3]]

        Args:
            logits: (B, *head.position_shape, C), any float dtype, any device.
            head: Head of the logits.
            rows: (B,) absolute row numbers, for messages.
            words: (B,) uint64, the seeds of all random numbers of an item (rng.words). None: from ``rows``.
            counters: (B,) uint32, numbers of the items in the sequence of their dither (rng.counters). None: from
                ``rows``.
            residual: Also return the sums for the tail prior.
            codebook: Tail priors to choose from, for encodings with ``priors`` above 1.

        Raises:
            InvalidLogits: NaN, +infinity, a row of -infinity alone, or another shape. The message names the row.
        """
        from softlabels.encodings.logits import check_shape, checked_float

        check_shape(logits, head, rows)
        words = words_of(0, rows) if words is None else words
        counters = counters_of(0, rows) if counters is None else counters
        step = max(1, len(rows))
        if logits.device.type == "cpu":
            step = max(1, self.block_elements // max(1, logits[:1].numel()))
        encoded = []
        for start in range(0, max(1, len(rows)), step):
            block = slice(start, start + step)
            values = checked_float(logits[block], head, rows[block])
            numbers = rows[block], words[block], counters[block]
            encoded.append(self.encode_block(Block(values, head, *numbers, residual, codebook)))
        return _join(encoded)

    @abstractmethod
    def encode_block(self, block: Block) -> Encoded:
        """Encode some rows; arguments and errors as for ``encode``."""

    def pilot_distributions(self, logits: Tensor, head: Head, rows: NDArray[np.int64]) -> list[Tensor]:
        """Return what a codebook of this encoding is fitted to, (B, C) for each temperature of the head.

        Args:
            logits: (B, C) logits of a pilot.
            head: Head of the logits.
            rows: (B,) numbers of the pilot's rows, for messages.

        Raises:
            InvalidLogits: See ``encode``.
        """
        raise NotImplementedError(f"{self.spec}: has no codebook")

    @abstractmethod
    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SoftLabels:
        """Decode the columns of a head into labels.

        This is the only decoder of an encoding. A reader for NumPy uses ``widen=True``. A reader that copies labels to
        an accelerator uses ``widen=False``, wraps the arrays as tensors, and leaves widening to the losses, which do it
        on the device: two to four times fewer bytes are moved.

        Args:
            arrays: Columns of the head that pass ``check``, in native byte order.
            head: Head that the columns belong to.
            prior: Tail prior of the store, (len(temperatures), C) float32, or its codebook, (len(temperatures), M, C).
                None if the store has neither.
            widen: Return ids as int64 and values as float32. If False, ids and values that are stored as they are used
                keep their stored dtype and memory; values that have to be computed are float32 in both cases.

        Returns:
            Labels of all rows. Both settings of ``widen`` give equal numbers.

        Raises:
            ValueError: Rows too many and too uneven to be padded to the longest in memory.
        """

    @abstractmethod
    def check(self, arrays: Arrays, head: Head) -> None:
        """Raise ValueError unless every row of the columns decodes to a distribution (or finite numbers)."""


def _join(encoded: list[Encoded]) -> Encoded:
    """Return the rows of blocks one after the other, and their sums added up."""
    if len(encoded) == 1:
        return encoded[0]
    arrays = {name: np.concatenate([block.arrays[name] for block in encoded]) for name in encoded[0].arrays}
    sums = [block.residual for block in encoded if block.residual is not None]
    return Encoded(arrays, np.sum(sums, axis=0) if sums else None)


def id_dtype(classes: int) -> str:
    """Return the name of the narrowest unsigned type that holds every class id."""
    return "uint8" if classes <= 2**8 else "uint16" if classes <= 2**16 else "uint32"


def row_bytes(encoding: Encoding, head: Head) -> float:
    """Return an estimate of the bytes per row (per position of ragged rows) before compression.

    Example:
        >>> from softlabels import encodings
        >>> from softlabels.labels import Head
        >>> encoding = encodings.parse("topk:32", classes=1000)
        >>> encodings.row_bytes(encoding, Head(encoding=encoding.spec, classes=1000))
        132.0
    """
    entries = encoding.typical_entries(head) * math.prod(head.position_shape)
    columns = encoding.columns(head).values()
    return float(sum(column.entry_bytes * (1 if column.per is None else entries) for column in columns))


def check_ids(ids: NDArray[Any], head: Head) -> None:
    """Raise ValueError unless every id is that of a class."""
    if ids.size and int(ids.max()) >= head.classes:
        raise ValueError(f"class id {int(ids.max())}, but there are {head.classes} classes")


def check_distinct(ids: NDArray[Any], counts: NDArray[np.integer]) -> None:
    """Raise ValueError if a row of ragged ids lists a class twice.

    Each row and id has a place. Marks of all places are set, or the places are sorted, whichever is faster
    (``python benchmarks/fidelity.py --checks``).
    """
    if not len(ids):
        return
    span = int(ids.max()) + 1
    size = len(counts) * span
    kind = np.uint32 if size < 2**32 else np.uint64  # narrow numbers are sorted twice as fast
    places = np.repeat(np.arange(0, size, span, dtype=kind), counts) + ids.astype(kind)
    if size <= MAX_MARKS * len(ids):
        marks = np.zeros(size, np.bool_)
        marks[places] = True
        is_repeated = bool(np.count_nonzero(marks) < len(places))
    else:
        places.sort()
        is_repeated = bool((places[1:] == places[:-1]).any())
    if is_repeated:
        raise ValueError("a class listed twice in one row")
