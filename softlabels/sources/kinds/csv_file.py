"""CSV files: read into memory once, with the types that Arrow infers from all rows.

The first line names the columns. Ids and splits are read as text. A column that is a number in most rows but text in
some ("?", "1,000", "12 %") is reported, not dropped.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from softlabels.errors import InvalidData
from softlabels.sources.arrow_types import is_text
from softlabels.sources.column_roles import INPUT_NAMES, LABEL_NAMES, SPLIT_NAME, check_unique
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest, reading
from softlabels.sources.tables import MemoryTable

BLOCK_BYTES = 2**20
MAX_BLOCK_BYTES = 2**30
"""Bytes of the longest row."""
MAX_HEADER_BYTES = 64 * 2**20
"""Bytes of the longest first line."""
DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
NUMBER_LIKE = (
    r"^\s*[$€£]?\s*[+-]?(\d{1,3}([, '_]\d{3})+|\d{1,3}(\.\d{3})+,|\d+)?([.,]?\d+)?\.?([eE][+-]?\d+)?\s*[%€]?\s*$"
)
"""Text that people mean as a number: 12, 1,000, 1.000,5, 1 000.5, 0,5, $3, 12 %."""
MIN_NUMBERS = 0.5
"""Share of the values of a text column that look like numbers from which on the column is reported."""


def open_csv(path: Path, name: str, id_column: str | None) -> MemoryTable:
    """Return the rows of a CSV file.

    Args:
        path: The file.
        name: Its name in messages.
        id_column: Column whose values are read as text, as they stand.

    Raises:
        InvalidData: The file has no header, another delimiter or encoding, or rows of unequal length.
    """
    with reading(name, "CSV"), path.open("rb") as file:
        blank_lines, header = _read_header(file, name)
    names = _unique_names(header, {id_column, *LABEL_NAMES, *INPUT_NAMES, SPLIT_NAME})
    check_unique(names, name)
    text = {column: pa.string() for column in names if column == id_column or column.casefold() == SPLIT_NAME}
    table = _read_rows(path, name, names, blank_lines, text)
    _check_header(header, table, name)
    _check_quotes(path, table, name)
    return MemoryTable(name, table, (open_csv, (path, name, id_column)))


def number_like_columns(table: pa.Table) -> dict[str, str]:
    """Return the text columns whose values are mostly numbers, with an example of a value that is none."""
    odd = {}
    for column in table.column_names:
        values = table.column(column)
        if is_text(values.type):
            values = values.filter(pc.not_equal(pc.utf8_trim_whitespace(values), ""))
            like = np.asarray(pc.match_substring_regex(values, NUMBER_LIKE))
            if len(like) and like.mean() >= MIN_NUMBERS:
                plain = np.asarray(pc.match_substring_regex(values, f"^{NUMBER.pattern}$"))
                odd[column] = f"most values are numbers, but not {values[int(plain.argmin())].as_py()!r}"
    return odd


def _read_header(file: io.BufferedReader, name: str) -> tuple[int, list[str]]:
    """Return the number of blank lines before the header, and its cells without surrounding blanks."""
    if file.peek(2)[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise InvalidData(f"{name}: unsupported encoding UTF-16; expected UTF-8. Save the file as UTF-8")
    lines = io.TextIOWrapper(io.BytesIO(file.read(MAX_HEADER_BYTES)), "utf-8-sig", errors="replace", newline="")
    csv.field_size_limit(MAX_HEADER_BYTES)
    blank_lines = 0
    try:
        for cells in csv.reader(lines):
            if cells:
                break
            blank_lines += 1
        else:
            raise InvalidData(f"{name}: the data has no rows")
    except csv.Error as error:
        raise InvalidData(f"{name}: the header cannot be read: {error}") from error
    for delimiter, word in DELIMITERS.items():
        if len(cells) == 1 and delimiter in cells[0]:
            raise InvalidData(f"{name}: columns are separated by {word}; expected commas. Save the file with commas")
    return blank_lines, [cell.strip() for cell in cells]


def _unique_names(header: Sequence[str], roles: Collection[str | None]) -> list[str]:
    """Return column names: blank ones as pandas calls them, repeated ones with a number unless they name a role."""
    seen: Counter[str] = Counter()
    names = []
    for number, cell in enumerate(header):
        seen[cell] += 1
        if not cell:
            names.append(f"Unnamed: {number}")
        else:
            names.append(cell if seen[cell] == 1 or cell.casefold() in roles else f"{cell}.{seen[cell] - 1}")
    return names


def _read_rows(path: Path, name: str, names: Sequence[str], blank_lines: int, text: dict[str, pa.DataType]) -> pa.Table:
    block_bytes = BLOCK_BYTES
    while True:
        try:
            return pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False,
                    block_size=block_bytes,
                    skip_rows=blank_lines,
                    column_names=list(names),
                    skip_rows_after_names=1,
                ),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types=text),
            )
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or block_bytes >= MAX_BLOCK_BYTES:
                raise InvalidData(f"{name}: cannot be read as CSV: {error}. Is the file complete?") from error
            block_bytes *= 32
        except (pa.ArrowException, OSError) as error:
            raise InvalidData(f"{name}: cannot be read as CSV: {error}. Is the file complete?") from error


def _check_header(header: Sequence[str], table: pa.Table, name: str) -> None:
    """Raise if the first line holds data: numbers, other than those by which pandas names columns.

    Raises:
        InvalidData: There is no header.
    """
    numeric = [cell for cell in header if NUMBER.fullmatch(cell)]
    if not numeric:
        return
    integers = [int(cell) for cell in numeric if cell.isdecimal()]
    consecutive = len(integers) == len(numeric) and integers == list(range(integers[0], integers[0] + len(integers)))
    if len(numeric) == len([cell for cell in header if cell]):
        named = consecutive and integers[0] in {0, 1} and len(integers) > 2
    else:
        named = consecutive and not any(
            cell and is_text(column.type) and pc.any(pc.equal(column, cell)).as_py()
            for cell, column in zip(header, table.columns, strict=True)
        )
    if not named:
        raise InvalidData(
            f"{name}, line 1: expected names of columns, got the values {', '.join(header[:5])}. "
            "Add a first line with names, such as x1,x2,label"
        )


def _check_quotes(path: Path, table: pa.Table, name: str) -> None:
    """Raise if a quote is not closed: then the last row holds the rest of the file.

    Raises:
        InvalidData: The number of quotes is odd, and a value of the last row spans lines.
    """
    last = [column[-1].as_py() for column in table.columns if len(column) and is_text(column.type)]
    if any("\n" in value for value in last if value is not None):
        with path.open("rb") as file:
            quotes = sum(block.count(b'"') for block in iter(lambda: file.read(BLOCK_BYTES), b""))
        if quotes % 2:
            raise InvalidData(f"{name}, row {len(table) - 1}: a quote is not closed. Is the file complete?")


def _open(request: OpenRequest) -> Source:
    table = open_csv(request.path, request.spec, request.id)
    return request.source(table, number_like_columns(table.rows))


KIND = DataKind(name="CSV", suffixes=(".csv",), open=_open)
