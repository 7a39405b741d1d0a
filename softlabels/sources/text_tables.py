"""Text in the columns of a table: one column, a pair of columns, or chats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from softlabels.errors import ColumnMissing, InvalidArgument, InvalidData
from softlabels.sources.arrow_types import is_list, is_text, value_type
from softlabels.sources.class_labels import ClassLabels, LabelReader, recorded_names
from softlabels.sources.column_roles import LABEL_NAMES, SPLIT_NAME, InputOption, LabelOption, require_column
from softlabels.sources.protocol import Columns
from softlabels.sources.split_names import SplitReader, Splits
from softlabels.sources.tables import Table
from softlabels.sources.text_source import TextSource
from softlabels.text import as_tokenizer
from softlabels.text.documents import chat_encoder, check_texts, pair_encoder, text_encoder
from softlabels.text.options import TextOptions

TEXT_NAMES = ("text", "messages", "conversation", "input", "inputs", "sentence", "document", "content")
BLOCK_ROWS = 512
ENCODERS = {"text": text_encoder, "pairs": pair_encoder, "chats": chat_encoder}


@dataclass(frozen=True)
class TextColumns:
    """Columns of text of a table.

    Attributes:
        table: The rows.
        names: Column of text or chats, or a pair of columns of text.
        kind: Kind of the documents.
    """

    table: Table
    names: tuple[str, ...]
    kind: Literal["text", "pairs", "chats"]

    @classmethod
    def of(cls, table: Table, names: tuple[str, ...]) -> Self:
        """Return the columns with the kind that their types show.

        Args:
            table: The rows.
            names: One or two columns.

        Raises:
            InvalidData: A column holds something else than text or chats.
        """
        types = [value_type(table.schema.field(name).type) for name in names]
        if len(names) == 1 and is_list(types[0]):
            return cls(table, names, "chats")
        for name, column_type in zip(names, types, strict=True):
            if not is_text(column_type):
                raise InvalidData(
                    f"{table.name}, row 0, column {name!r}: not a text, got {column_type}; expected characters. Decode "
                    "bytes, or name another column with input="
                )
        return cls(table, names, "pairs" if len(names) == 2 else "text")

    def blocks(self) -> Iterator[list[Any]]:
        """Yield the documents in blocks."""
        for start in range(0, len(self.table), BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, len(self.table)), dtype=np.int64)
            read = self.table.read(rows, self.names)
            values = [read.column(name).to_pylist() for name in self.names]
            if self.kind == "pairs":
                yield [list(pair) for pair in zip(*values, strict=True)]
            else:
                yield [_without_nulls(document) for document in values[0]]

    def texts(self) -> Iterator[str]:
        """Yield all texts, to train a tokenizer on.

        Raises:
            InvalidArgument: The documents are chats.
        """
        if self.kind == "chats":
            raise InvalidArgument(
                f"{self.table.name}, column {self.names[0]!r}: chats need a tokenizer with a template; expected a "
                "directory with a tokenizer.json, not bpe"
            )
        for row, document in enumerate(document for block in self.blocks() for document in block):
            texts = document if self.kind == "pairs" else [document]
            check_texts(texts, row, self.table.name, step=0)
            yield from texts


def open_text_table(
    spec: str, table: Table, options: TextOptions, *, input_columns: InputOption, label_column: LabelOption
) -> TextSource:
    """Return the source of text in a table.

    Args:
        spec: DATA as the user typed it.
        table: The rows.
        options: Options of the text.
        input_columns: Column of text or chats, or a pair of columns; None: the first of TEXT_NAMES, or the only text
            column.
        label_column: Column of hard labels; False if there is none; None to look for one of LABEL_NAMES.

    Raises:
        ColumnMissing: A named column is not there, or nothing can be the text.
        InvalidArgument: More than two columns were named.
        InvalidData: A value is null, empty or of another type; names the row.
    """
    columns = _roles(table, input_columns, label_column)
    table = table.select(columns.used())
    text = TextColumns.of(table, columns.inputs)
    tokenizer = as_tokenizer(options.tokenizer, text.texts)
    encode = ENCODERS[text.kind](tokenizer, options, table.name)
    labels, splits = _labels_and_splits(table, columns)
    return TextSource(
        spec, text.blocks, encode, tokenizer, options, columns, kind=text.kind, labels=labels, splits=splits
    )


def _roles(table: Table, input_columns: InputOption, label_column: LabelOption) -> Columns:
    """Return the roles of the columns."""
    names = list(table.schema.names)
    inputs = _input_columns(table.schema, table.name, input_columns)
    usual = next((name for name in LABEL_NAMES if name in names and name not in inputs), None)
    label = usual if label_column is None else label_column or None
    if label is not None:
        require_column(label, names, table.name)
    split = SPLIT_NAME if SPLIT_NAME in names and SPLIT_NAME not in {*inputs, label} else None
    return Columns(inputs=inputs, label=label, split=split)


def _input_columns(schema: pa.Schema, name: str, option: InputOption) -> tuple[str, ...]:
    """Return the column of text, or the pair of columns."""
    names = list(schema.names)
    if option is not None:
        columns = tuple(option)
        if isinstance(option, str):
            columns = (option,) if option in names else tuple(column.strip() for column in option.split(","))
        if len(columns) not in {1, 2}:
            raise InvalidArgument(f"{name}: text is in one column or a pair, got {', '.join(columns)}")
        for column in columns:
            require_column(column, names, name)
        return columns
    usual = [column for column in TEXT_NAMES if column in names]
    texts = [column for column in names if is_text(value_type(schema.field(column).type))]
    texts = [column for column in texts if column not in {*LABEL_NAMES, SPLIT_NAME, "id"}]
    if usual or len(texts) == 1:
        return ((usual or texts)[0],)
    raise ColumnMissing(
        f"{name}: no column can be the text; expected one named {', '.join(TEXT_NAMES)}, or a single column of text; "
        f"it has: {', '.join(names)}. Name one with input="
    )


def _without_nulls(document: Any) -> Any:
    """Return a chat without the fields that Arrow adds as null; other documents are returned unchanged."""
    if not isinstance(document, list):
        return document
    return [
        {name: value for name, value in message.items() if value is not None} if isinstance(message, dict) else message
        for message in document
    ]


def _labels_and_splits(table: Table, columns: Columns) -> tuple[ClassLabels | None, Splits | None]:
    """Return the hard labels and the splits of all rows."""
    labels = splits = None
    roles: Sequence[str] = [name for name in (columns.label, columns.split) if name is not None]
    if columns.label is not None:
        recorded = recorded_names(table.schema.metadata, columns.label)
        labels = LabelReader(len(table), f"{table.name}, column {columns.label!r}", recorded)
    if columns.split is not None:
        splits = SplitReader(len(table), f"{table.name}, column {columns.split!r}")
    for start in range(0, len(table) if roles else 0, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(table)), dtype=np.int64)
        read = table.read(rows, roles)
        for reader, name in ((labels, columns.label), (splits, columns.split)):
            if reader is not None and name is not None:
                reader.append(pa.concat_arrays(read.column(name).chunks), start)
    return None if labels is None else labels.finish(), None if splits is None else splits.finish()
