"""Headers that no writer leaves: Thrift structs and tables of units, each refused in words."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.store.format import thrift, unit_table
from tests.corpus import headers


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "cut off"),
        ("15", "cut off"),
        ("15ffffffffffffffffffffff", "endless number"),
        ("1805", "cut off"),  # five bytes of text, of which none is there
        ("1b00", "type 11"),  # a map
        ("19fcffffff0f", "cut off"),  # a list of very many
        ("1c" * 12, "nested too deeply"),
        ("19" * 14, "nested too deeply"),
    ],
)
def test_a_header_that_cannot_be_is_refused(data, says):
    with pytest.raises(ValueError, match=says):
        thrift.read_struct(bytes.fromhex(data), 0, 100)


def test_truth_long_field_numbers_and_lists_of_truths_are_read():
    assert thrift.read_struct(bytes.fromhex("1100"), 0, 100)[0] == {1: 1}
    assert thrift.read_struct(bytes.fromhex("1200"), 0, 100)[0] == {1: 0}
    assert thrift.read_struct(bytes.fromhex("05280400"), 0, 100)[0] == {20: 2}
    assert thrift.read_struct(bytes.fromhex("1921010200"), 0, 100)[0] == {1: [1, 2]}


@pytest.mark.parametrize("ask", [thrift.number, thrift.struct, thrift.structs, thrift.numbers])
def test_a_field_of_another_kind_is_refused(ask):
    for value in ({}, {1: b"text"}):
        with pytest.raises(ValueError, match="field 1"):
            ask(value, 1)


def test_lists_of_mixed_kinds_are_refused():
    with pytest.raises(ValueError, match="something else than structs"):
        thrift.structs({1: [{}, 1]}, 1)
    with pytest.raises(ValueError, match="something else than numbers"):
        thrift.numbers({1: [{}, 1]}, 1)


def records(count):
    """Columns of a table of so many units."""
    units = np.arange(count)
    rows = 1 + units % 7
    columns = {"unit": units, "rows": rows, "first_row": np.cumsum(rows) - rows, "size": units + 9}
    columns |= {"attempt": [f"{unit:032x}" for unit in units], "record": [f"{unit:064x}" for unit in units]}
    columns |= {"blake3": ["a" * 64] * count, "keys": ["b" * 64] * count}
    kinds = {name: f"S{width}" if width else np.int64 for name, width in unit_table.COLUMNS.items()}
    return {name: np.array(columns[name], kind) for name, kind in kinds.items()}


@given(count=st.integers(1, 40))
def test_a_table_comes_back_and_pyarrow_reads_it_too(count):
    data = unit_table.to_bytes(records(count))
    assert len(data) <= unit_table.limit(count)
    result, other = unit_table.parse(data, count), pq.read_table(io.BytesIO(data)).to_pydict()
    for name, width in unit_table.COLUMNS.items():
        ours = [value.decode() for value in result[name]] if width else result[name].tolist()
        assert ours == other[name]


def test_a_table_of_many_pages_and_row_groups_comes_back():
    data, count = unit_table.to_bytes(records(60_000)), 60_000
    assert unit_table.parse(data, count, ["rows"])["rows"].sum() == sum(1 + unit % 7 for unit in range(count))
    again = io.BytesIO()
    pq.write_table(
        pq.read_table(io.BytesIO(data)), again, compression="zstd", use_dictionary=False, row_group_size=7_000
    )
    np.testing.assert_array_equal(unit_table.parse(again.getvalue(), count, ["record"])["record"][[0, -1]],
                                  [f"{0:064x}".encode(), f"{count - 1:064x}".encode()])  # fmt: skip


def rewritten(**options):
    result = pq.read_table(io.BytesIO(unit_table.to_bytes(records(3))))
    change = options.pop("change", lambda one: one)
    out = io.BytesIO()
    pq.write_table(change(result), out, **{"compression": "zstd", "use_dictionary": False} | options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PAR2" + b"0" * 20, "no Parquet"),
        (b"PAR1" + b"\xff" * 4 + b"PAR1", "cut off"),
        (rewritten(change=lambda one: one.slice(0, 2)), "does not list"),
        (rewritten(change=lambda one: one.drop_columns(["keys"])), "7 columns"),
        (rewritten(compression="snappy"), "not stored as sealing does"),
        (rewritten(use_dictionary=True), "page"),
        (rewritten(change=lambda one: one.set_column(7, "keys", pa.array(["c" * 63, "c" * 64, "c" * 65]))), "lengths"),
        (rewritten(change=lambda one: one.set_column(2, "rows", pa.array([1, None, 3]))), "page"),
    ],
)
def test_a_table_that_sealing_does_not_write_is_refused(data, says):
    with pytest.raises(ValueError, match=says):
        unit_table.parse(data, 3)


def test_a_page_that_is_damaged_is_refused():
    data = bytearray(unit_table.to_bytes(records(3)))
    place = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(2).data_page_offset
    start = data.index(b"\x28\xb5\x2f\xfd", place)
    data[start + 4 : start + 8] = b"\xff" * 4
    with pytest.raises(ValueError, match="damaged"):
        unit_table.parse(bytes(data), 3, ["rows"])


def test_a_column_with_fewer_values_than_its_rows_is_refused():
    data = unit_table.to_bytes(records(3))
    size = int.from_bytes(data[-8:-4], "little")
    more = headers.footer(lambda fields: fields[4].value[0].update({3: headers.Field(headers.I64, 4)}))
    with pytest.raises(ValueError, match="a column with other rows than it says"):
        unit_table.parse(data[: -8 - size] + more(data[-8 - size :]), 4, ["rows"])
