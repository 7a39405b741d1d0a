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
    from softlabels.sources.kinds.parquet import open_parquet

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
