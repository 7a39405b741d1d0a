"""JSON lines files: read into memory once, with the types that Arrow infers from all rows.

Arrow reads a whole number beyond 64 bits as floating point and a text like "2024-01-01" as a time. Ids, labels and
splits are exempt: text stays text, and ids of numbers are their digits as they stand in the file.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.json

from softlabels.errors import InvalidData
from softlabels.sources.column_roles import LABEL_NAMES, SPLIT_NAME
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest, reading
from softlabels.sources.tables import MemoryTable

BLOCK_BYTES = 2**20
MAX_LINE_BYTES = 2**30
"""Bytes of the longest line."""
BOM = b"\xef\xbb\xbf"


def open_json_lines(path: Path, name: str, id_column: str | None, label_column: str | None) -> MemoryTable:
    """Return the rows of a JSON lines file.

    Args:
        path: The file.
        name: Its name in messages.
        id_column: Column whose values are read as text, as they stand.
        label_column: Column of labels; None if those with the usual names are meant.

    Raises:
        InvalidData: A line is not a JSON object, is too long, or values of a column differ in type.
    """
    with reading(name, "JSON lines"):
        block_bytes = max(BLOCK_BYTES, _longest_line(path, name) + 1)
        table = _read(path, block_bytes, {})
        usual = {column for column in table.column_names if column.strip().casefold() in {*LABEL_NAMES, SPLIT_NAME}}
        kinds = dict(zip(table.column_names, table.schema.types, strict=True))
        times = {c: pa.string() for c in {id_column, label_column, *usual} & {*kinds} if pa.types.is_temporal(kinds[c])}
        if times:
            table = _read(path, block_bytes, times)
    if id_column is not None and pa.types.is_floating(kinds.get(id_column, pa.null())):
        place = table.column_names.index(id_column)
        table = table.set_column(place, id_column, _literal_values(path, name, id_column))
    return MemoryTable(name, table, (open_json_lines, (path, name, id_column, label_column)))


def _read(path: Path, block_bytes: int, types: dict[str, pa.DataType]) -> pa.Table:
    with path.open("rb") as file:
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        return pyarrow.json.read_json(
            file,
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=block_bytes),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=pa.schema(types) if types else None),
        )


def _longest_line(path: Path, name: str) -> int:
    """Return the bytes of the longest line, in one pass over the file.

    Arrow crashes on a block of lines that are all ``null``, so every line must begin with a brace.
    """
    longest = current = row = 0
    is_blank = True  # the line so far
    with path.open("rb") as file:
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        while block := file.read(BLOCK_BYTES):
            lines = block.split(b"\n")
            for number, line in enumerate(lines):
                if number:
                    longest, current, is_blank = max(longest, current), 0, True
                    row += 1
                if is_blank and line[:1] != b"{" and (start := line.lstrip()[:20]) and start[:1] != b"{":
                    raise InvalidData(
                        f"{name}, line {row + 1}: expected one JSON object per line, got "
                        f"{start.decode(errors='replace')!r}. Correct or remove that line"
                    )
                current += len(line)
                is_blank = is_blank and not line.strip()
            if max(longest, current) > MAX_LINE_BYTES:
                raise InvalidData(
                    f"{name}: a line has more than {MAX_LINE_BYTES:,} bytes; expected one JSON object per line"
                )
    return max(longest, current) + 1


def _literal_values(path: Path, name: str, column: str) -> pa.Array:
    """Return a column of numbers as the text that stands in the file."""
    values: list[str | None] = []
    with path.open("rb") as file:
        for line in file:
            text = line.removeprefix(BOM).strip()
            if not text:
                continue
            try:
                value = json.loads(text, parse_int=str, parse_float=str).get(column)
            except (ValueError, RecursionError) as error:
                raise InvalidData(f"{name}, row {len(values)}: expected one JSON object per line: {error}") from error
            if value is not None and not isinstance(value, str):
                raise InvalidData(f"{name}, row {len(values)}: an id must be text or a number, got {value!r}")
            values.append(value)
    return pa.array(values, pa.string())


def _open(request: OpenRequest) -> Source:
    return request.source(open_json_lines(request.path, request.spec, request.id, request.label or None))


KIND = DataKind(name="JSON lines", suffixes=(".jsonl",), open=_open)
