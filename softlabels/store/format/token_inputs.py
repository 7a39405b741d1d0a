"""Inputs of a store of text: the token ids of every row and their marks, so that students train from the store alone.

The columns are ragged: ``inputs/length`` counts the tokens of a row, ``inputs/ids`` and ``inputs/marks`` have one entry
per token. Mark 1 begins a document, mark 2 is set at the positions that ragged heads have entries for, mark 4 belongs
to the second text of a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Column
from softlabels.errors import InvalidArgument
from softlabels.store.format.fields import Fields

INPUTS = "inputs"
"""Feature that a store with inputs requires, and the group of their columns."""

LENGTH, IDS, MARKS = f"{INPUTS}/length", f"{INPUTS}/ids", f"{INPUTS}/marks"
LABELLED = 2
MAX_MARK = 7
MAX_VOCABULARY = 2**31 - 1
DTYPES = ("uint16", "uint32")
MAX_AUTHOR = 200
"""Characters of the name of who wrote the text."""


@dataclass(frozen=True, kw_only=True)
class TokenInputs:
    """The ``inputs`` section of a descriptor.

    Attributes:
        vocabulary: Number of token ids.
        tokenizer: Digest of the tokenizer, whose document the store holds; None if the ids came without a tokenizer.
        written_by: Digest or name of the model that wrote the text; None if unknown.

    Raises:
        InvalidArgument: A value is out of range.

    Example:
        >>> TokenInputs(vocabulary=50_257).dtype
        'uint16'
    """

    vocabulary: int
    tokenizer: str | None = None
    written_by: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.vocabulary <= MAX_VOCABULARY:
            raise InvalidArgument(f"vocabulary of the inputs: got {self.vocabulary}; expected 1 to {MAX_VOCABULARY:,}")
        if self.written_by is not None and not 1 <= len(self.written_by) <= MAX_AUTHOR:
            raise InvalidArgument(
                f"written_by: got {len(self.written_by)} characters; expected 1 to {MAX_AUTHOR}. Use a digest or a name"
            )

    @property
    def dtype(self) -> str:
        """The dtype of the ids: the narrowest that holds the vocabulary."""
        return DTYPES[0] if self.vocabulary <= 2**16 else DTYPES[1]

    def columns(self) -> dict[str, Column]:
        """Return the columns of the inputs, in the order of writing."""
        return {LENGTH: Column("uint32"), IDS: Column(self.dtype, per=LENGTH), MARKS: Column("uint8", per=LENGTH)}

    def to_json(self) -> dict[str, Any]:
        """Return the section as the descriptor holds it."""
        value = {"kind": "tokens", "vocabulary": self.vocabulary, "dtype": self.dtype, "tokenizer": self.tokenizer}
        return value if self.written_by is None else value | {"written_by": self.written_by}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Return the section in an untrusted document.

        Raises:
            ValueError: A field is missing, of another type or out of range.
        """
        if fields.text("kind") != "tokens":
            raise ValueError(f"{fields.path('kind')}: got {fields.text('kind')!r}; expected tokens")
        inputs = cls(
            vocabulary=fields.integer("vocabulary", 1, MAX_VOCABULARY),
            tokenizer=fields.optional_hash("tokenizer"),
            written_by=fields.optional_text("written_by"),
        )
        if fields.text("dtype") != inputs.dtype:
            raise ValueError(f"{fields.path('dtype')}: got {fields.text('dtype')!r}; expected {inputs.dtype}")
        return inputs

    def check(self, columns: Mapping[str, NDArray[Any]], lengths: Mapping[str, NDArray[Any]]) -> None:
        """Raise ValueError for values that no encoder writes, if all columns of the inputs are there.

        Args:
            columns: Columns of some rows.
            lengths: Positions per row of each ragged head that was read, (B,).

        Raises:
            ValueError: An id is not in the vocabulary, a mark is unknown, or a head has another number of positions
                than are marked.
        """
        if not {LENGTH, IDS, MARKS} <= set(columns):
            return
        ids, marks = columns[IDS], columns[MARKS]
        if ids.size and int(ids.max()) >= self.vocabulary:
            raise ValueError(f"token id {int(ids.max())} is not below the vocabulary of {self.vocabulary}")
        if marks.size and int(marks.max()) > MAX_MARK:
            raise ValueError(f"mark {int(marks.max())} is above {MAX_MARK}")
        ends = np.cumsum(columns[LENGTH], dtype=np.int64)
        labelled = np.concatenate([[0], np.cumsum((marks & LABELLED) > 0, dtype=np.int64)])[np.concatenate([[0], ends])]
        for head, counts in lengths.items():
            if not np.array_equal(np.diff(labelled), counts):
                row = int(np.flatnonzero(np.diff(labelled) != counts)[0])
                raise ValueError(
                    f"head {head!r} has {int(counts[row])} positions in row {row} of the chunk, but "
                    f"{int(np.diff(labelled)[row])} are marked"
                )
