"""Sizes of the pages of a Parquet file, read from their headers before anything is decoded.

The footer may claim fewer values than the pages hold, a page may expand to any size, and a dictionary of one long text
may stand for millions of them. Arrow acts on the headers of the pages, so these decide how much memory a row group
takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from softlabels.store.format import thrift

DICTIONARY_PAGE = 2
DICTIONARY_ENCODINGS = {2, 8}
DELTA_BYTE_ARRAY = 7
"""Encoding in which a text continues the one before it, so that a few bytes may stand for a long one."""
TYPE, UNCOMPRESSED, COMPRESSED = 1, 2, 3
VALUES = 1
DATA_HEADERS = {5: 2, 8: 4}
"""Fields of the header of a data page, version 1 and 2, and that of the encoding within."""
HEADER_BYTES = (2**10, 2**16, 2**20)
"""Sizes in which a header is looked for; one without statistics has about 30 bytes."""
MAX_HEADER_VALUES = 256


@dataclass
class PageSizes:
    """Sizes of the pages of a column in a row group, in bytes after decompression.

    Attributes:
        values: Number of values in the data pages, or in the footer if that is more.
        largest: Size of the largest page.
        plain: Size of the data pages whose values stand in them.
        coded: Upper bound of the values that stand in a dictionary.
        continued: Upper bound of the values that continue others.
        entry: Upper bound of a value of varying size.
    """

    values: int
    largest: int = 0
    plain: int = 0
    coded: int = 0
    continued: int = 0
    entry: int = 0


def page_sizes(file: pa.NativeFile, column: pq.ColumnChunkMetaData) -> PageSizes:
    """Return the sizes of the pages of a column in a row group.

    Args:
        file: The file.
        column: Description of the column in the footer.

    Raises:
        ValueError: A header is damaged.
    """
    sizes = PageSizes(values=column.num_values)
    dictionary = values = 0
    offset: int = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < offset:
        offset = column.dictionary_page_offset
    end = offset + column.total_compressed_size
    while offset < end and values < column.num_values:  # Arrow ends at the same page
        header, length = _header(file, offset)
        size, compressed = thrift.number(header, UNCOMPRESSED), thrift.number(header, COMPRESSED)
        if size < 0 or compressed < 0:
            raise ValueError(f"a page of {min(size, compressed)} bytes")
        offset += length + compressed
        sizes.largest = max(sizes.largest, size)
        if thrift.number(header, TYPE) == DICTIONARY_PAGE:
            dictionary = size
        for field in DATA_HEADERS.keys() & header.keys():
            data = thrift.struct(header, field)
            count, encoding = thrift.number(data, VALUES), thrift.number(data, DATA_HEADERS[field])
            if count < 0:
                raise ValueError(f"a page of {count} values")
            values += count
            _add(sizes, count, size, dictionary, encoding)
    sizes.values = max(sizes.values, values)
    return sizes


def _add(sizes: PageSizes, count: int, size: int, dictionary: int, encoding: int) -> None:
    """Add a data page to the sizes of its column."""
    if encoding in DICTIONARY_ENCODINGS:
        sizes.coded += count * dictionary
        sizes.entry = max(sizes.entry, dictionary)
    elif encoding == DELTA_BYTE_ARRAY:
        sizes.continued += count * size
        sizes.entry = max(sizes.entry, size)
    else:
        sizes.plain += size
        sizes.entry = max(sizes.entry, size)


def _header(file: pa.NativeFile, offset: int) -> tuple[thrift.Struct, int]:
    """Return the header of the page at an offset, and its length."""
    for size in HEADER_BYTES:
        data = file.read_at(size, offset)
        try:
            return thrift.read_struct(data, 0, MAX_HEADER_VALUES)
        except ValueError:
            if len(data) < size:
                break
    raise ValueError("a damaged header of a page")
