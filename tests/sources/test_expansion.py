"""Small files that decode to much more memory are refused before the memory is used."""

import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softlabels.errors import InvalidData
from softlabels.sources import expansion, open_source
from softlabels.sources.expansion import check_expansion, limit_of
from softlabels.sources.kinds.parquet import open_parquet

READER = """
import sys, resource
import numpy as np
from softlabels.errors import InvalidData
from softlabels.sources import open_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    source = open_source(sys.argv[1])
    source.inputs(np.arange(2))
except InvalidData as error:
    print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(grown // 1024, children // 1024)
"""


def read(path):
    """Return what is printed, and the MiB by which a process that reads the file grows, and of its child."""
    done = subprocess.run([sys.executable, "-c", READER, path], capture_output=True, text=True, check=True)
    *printed, figures = done.stdout.splitlines()
    return "\n".join(printed), *map(int, figures.split())


@pytest.fixture
def small(monkeypatch):
    """A limit of 64 KiB for files of up to 2 KiB, so that tests need little memory."""
    monkeypatch.setattr(expansion, "MIN_LIMIT", 2**16)


def test_the_limit_is_at_least_a_gibibyte_and_grows_with_the_file():
    assert (limit_of(0), limit_of(2**26)) == (2**30, 2**31)
    check_expansion(2**30, 5, "x", "row group 0")
    with pytest.raises(InvalidData, match=r"x: row group 0 takes too much memory, got 1,073,741,825 bytes"):
        check_expansion(2**30 + 1, 5, "x", "row group 0")


@pytest.mark.parametrize(
    "column",
    [
        pa.array(np.zeros(200_000)),
        pa.array(["x" * 10_000] * 1000),
        pa.array([np.zeros(100_000)] * 2),
        pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(200_000)), 100),
    ],
    ids=["numbers", "texts", "lists", "fixed lists"],
)
def test_a_row_group_that_expands_is_refused(tmp_path, small, column):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": column, "y": pa.array(np.zeros(len(column), np.int8))}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    with pytest.raises(InvalidData, match="row group 0 takes too much memory"):
        open_source(path).inputs(np.arange(2))


def test_tensors_of_a_fixed_shape_are_read(tmp_path):
    values = np.arange(16, dtype=np.float32).reshape(4, 2, 2)
    pq.write_table(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(values)}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(open_source(tmp_path / "x.parquet").inputs(np.arange(4)), values)


def test_row_groups_within_the_limit_are_read_as_they_are(tmp_path):
    texts, lists = ["a", "bb", None] * 100, [[1.0], [], [2.0, 3.0]] * 100
    table = pa.table({"t": texts, "l": pa.array(lists), "x": pa.array(np.arange(300.0))})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=170)
    read_table = open_parquet(tmp_path / "x.parquet", "x").read(np.arange(300), ["t", "l", "x"])
    assert read_table.to_pydict() == table.to_pydict()
    assert open_parquet(tmp_path / "x.parquet", "x").read(np.empty(0, np.int64), ["t"]).num_rows == 0


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="the system has no limit on private memory")
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_arrow_that_expands_is_refused_by_a_process_with_little_memory(tmp_path, stream):
    """Three gibibytes of zeros compress to less than a megabyte."""
    path = tmp_path / "x.arrow"
    table = pa.table({"x": pa.array(np.zeros(2**27 if stream else 3 * 2**27))})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema, options=options) as writer:
        for _ in range(3 if stream else 1):
            writer.write_table(table)
    assert path.stat().st_size < 2**20
    message, grown, child = read(path)
    assert "takes too much memory, got more than 1,073,741,824 bytes" in message
    assert grown < 100
    assert child < 1024 + 300


def footer_number(path, value, claim):
    """Replace a whole number in the footer of a Parquet file by a smaller one, in a spelling of the same length."""
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    spelled, claimed = (varint(2 * number) for number in (value, claim))
    claimed = bytes(byte | 0x80 for byte in claimed) + bytes([0x80] * (len(spelled) - len(claimed) - 1) + [0])
    assert spelled in data[start:]
    path.write_bytes(data[:start] + data[start:].replace(spelled, claimed))


def varint(number):
    """The bytes of a number in Thrift's compact protocol."""
    result = []
    while True:
        result.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(result)


@pytest.mark.parametrize(
    "column",
    [
        lambda: pa.array([np.zeros(2_000_000, np.int8)]),
        lambda: pa.array([[np.zeros(1000)] * 2000]),
        lambda: pa.array([[{"a": 1, "b": 0.5}] * 2_000_000]),
    ],
    ids=["list", "list of lists", "list of structures"],
)
def test_a_footer_that_claims_fewer_values_than_its_pages_hold_is_found_out(tmp_path, small, column):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": column()}), path, compression="zstd", use_dictionary=False, data_page_size=2**30)
    assert path.stat().st_size < 30_000
    footer_number(path, 2_000_000, 3)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).num_values == 3
    with pytest.raises(InvalidData, match="row group 0 takes too much memory"):
        open_source(path).inputs(np.arange(1))


@pytest.mark.parametrize(("items", "is_read"), [(2**14 - 600, True), (2**14 + 1, False)])
def test_one_row_may_hold_as_much_as_the_limit(tmp_path, small, items, is_read):
    """The page of the row also holds the lengths of lists."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [np.zeros(items, np.float32)]}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2048
    if is_read:
        assert open_source(path).inputs(np.arange(1)).shape == (1, items)
    else:
        with pytest.raises(InvalidData, match="row group 0 takes too much memory"):
            open_source(path)


def test_a_page_that_expands_is_refused_although_few_of_its_values_are_claimed(tmp_path, small):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": np.zeros(200_000)}), path, compression="zstd", use_dictionary=False)
    footer_number(path, 200_000, 3)
    with pytest.raises(InvalidData, match="row group 0 takes too much memory"):
        open_source(path).inputs(np.arange(1))


@pytest.mark.parametrize("nested", [False, True], ids=["texts", "lists of texts"])
def test_a_dictionary_of_one_long_text_is_refused_before_it_is_repeated(tmp_path, small, nested):
    text = "x" * 30_000
    column = pa.array([[{"role": "user", "content": text}] * 1000]) if nested else pa.array([text] * 1000)
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet", compression="zstd")
    with pytest.raises(InvalidData, match="row group 0 takes too much memory"):
        open_parquet(tmp_path / "x.parquet", "x").read(np.arange(1), ["x"])


def test_texts_that_continue_each_other_are_refused_in_lists(tmp_path, small):
    """A thousand prefixes of a text take a few bytes each in a file."""
    column = pa.array([["x" * length for length in range(1000)]])
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"x": column}), path, use_dictionary=False, column_encoding={"x.list.element": "DELTA_BYTE_ARRAY"}
    )
    with pytest.raises(InvalidData, match="row group 0 takes too much memory"):
        open_parquet(path, "x").read(np.arange(1), ["x"])


def test_texts_that_repeat_in_lists_are_read_through_their_dictionary(tmp_path, small):
    messages = [[{"role": "user", "content": "x" * 500}, {"role": "model", "content": None}], [], None] * 30
    table = pa.table({"m": messages, "n": range(90)})
    pq.write_table(table, tmp_path / "x.parquet")
    read_table = open_parquet(tmp_path / "x.parquet", "x").read(np.arange(90), ["m", "n"])
    assert read_table.to_pydict() == table.to_pydict()


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_files_with_every_kind_of_page_are_read(tmp_path, version, codec):
    table = pa.table({
        "text": ["a", None, "bbb"] * 500, "day": pa.array(range(1500), pa.date32()), "flag": [True, False, None] * 500,
        "list": [[1, 2], [], None] * 500, "map": pa.array([[("k", 1.5)]] * 1500, pa.map_(pa.string(), pa.float64())),
        "kind": pa.array(["a", "b", "a"] * 500).dictionary_encode(), "bytes": pa.array([b"12"] * 1500, pa.binary(2)),
        "nested.name": [{"a": {"b": [{"c": "d"}]}}] * 1500,
    })  # fmt: skip
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, compression=codec, data_page_version=version, data_page_size=500, row_group_size=400)
    file = open_parquet(path, "x")
    for group in range(4):
        rows = np.arange(400 * group, min(400 * group + 400, 1500))
        assert file._read_block(group, table.schema.names).to_pydict() == table.take(pa.array(rows)).to_pydict()
