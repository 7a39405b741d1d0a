"""The source of text: rows of token ids, from a text file or from columns of a table.

Opening tokenises all documents once, see softlabels.text.corpus. Rows are named by their token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.keys import KEY_BYTES, content_keys
from softlabels.sources.class_labels import ClassLabels
from softlabels.sources.keyed_source import KeyedSource
from softlabels.sources.protocol import Columns
from softlabels.sources.split_names import Splits
from softlabels.sources.structure import Ragged
from softlabels.store.format.token_inputs import TokenInputs
from softlabels.text import Corpus, Tokenizer, TokenRows, by_document, pack, tokenize
from softlabels.text.documents import Encode
from softlabels.text.options import TextOptions
from softlabels.text.rows import LABELLED, SECOND, pack_groups

Blocks = Callable[[], Iterator[Sequence[Any]]]
"""Returns the documents in blocks, the same each time."""


class TextSource(KeyedSource):
    """A source of text; see Source for its members.

    Args:
        spec: DATA as the user typed it.
        blocks: Returns the documents.
        encode: Tokenises the documents of a block.
        tokenizer: The tokenizer.
        options: Options of the text.
        columns: Roles of the columns.
        kind: Kind of the documents: text, pairs or chats.
        labels: Hard labels of the documents; None without any.
        splits: Splits of the documents; None without any.

    Raises:
        InvalidData: There is no document, or a row has fewer than two tokens; names the row.
    """

    def __init__(
        self,
        spec: str,
        blocks: Blocks,
        encode: Encode,
        tokenizer: Tokenizer,
        options: TextOptions,
        columns: Columns,
        *,
        kind: str = "text",
        labels: ClassLabels | None = None,
        splits: Splits | None = None,
    ) -> None:
        settings = options.settings(tokenizer, kind)
        corpus = tokenize(blocks, encode, dtype=tokenizer.dtype, settings=settings)
        if len(corpus) == 0:
            raise InvalidData(f"{spec}: no documents, got an empty file; expected text")
        self.tokenizer = tokenizer
        self.options = options
        self._kind = kind
        self._rows, splits = _rows_of(corpus, spec, options.pack, splits)
        keys = [content_keys(self._rows.row(row)[0][None])[0] for row in range(len(self._rows))]
        super().__init__(
            spec,
            columns,
            np.array(keys, np.uint8).reshape(-1, KEY_BYTES),
            labels=labels if options.pack is None else None,
            splits=splits,
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Tokens of the longest row."""
        return (self._rows.longest,)

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return np.dtype(np.int64)

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows."""
        return int(self._rows.bounds[-1])

    def token_inputs(self, written_by: str | None = None) -> TokenInputs:
        """Return the section of a store that holds these tokens.

        Args:
            written_by: Digest or name of the model that wrote the text; None if unknown.
        """
        return TokenInputs(vocabulary=self.tokenizer.size, tokenizer=self.tokenizer.digest, written_by=written_by)

    def check_positions(self, limit: int, model: str) -> None:
        """Raise InvalidData if a row has more tokens than a model has positions; names the row.

        Args:
            limit: Positions of the model.
            model: Name of the model for the message.
        """
        longest = int(np.diff(self._rows.bounds).argmax())
        if self._rows.longest > limit:
            raise InvalidData(
                f"{self._spec}, row {longest}: too long for {model}, got {self._rows.longest} tokens; expected at most "
                f"{limit}. Use pack={limit}, or truncate with max_tokens={limit}"
            )

    def inputs(self, rows: NDArray[np.int64]) -> Ragged:
        """Return the token ids and marks of ``rows``."""
        pairs = [self._row(int(row)) for row in rows]
        lengths = np.array([len(ids) for ids, _ in pairs], np.int64)
        ids = np.concatenate([np.empty(0, np.int64), *[ids for ids, _ in pairs]])
        marks = np.concatenate([np.empty(0, np.uint8), *[marks for _, marks in pairs]])
        return Ragged(ids, lengths, marks)

    def _row(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the ids and marks of a row, as the target of the labels sets them."""
        ids, marks = self._rows.row(row)
        if self.options.target == "next":
            return ids, marks
        marks &= ~np.uint8(LABELLED)
        if self.options.target == "token":
            marks |= np.uint8(LABELLED)
        if self._kind == "pairs" and self._rows.corpus.written is not None:
            start = int(self._rows.bounds[row])
            marks[self._rows.corpus.written[start : start + len(ids)]] |= np.uint8(SECOND)
        return ids, marks


def _rows_of(corpus: Corpus, spec: str, length: int | None, splits: Splits | None) -> tuple[TokenRows, Splits | None]:
    """Return the rows of documents, and their splits; a packed row holds documents of one split."""
    if length is None:
        return by_document(corpus, spec), splits
    if splits is None:
        return pack(corpus, length), None
    rows, codes = pack_groups(corpus, length, splits.codes)
    return rows, replace(splits, codes=codes.astype(np.int16))
