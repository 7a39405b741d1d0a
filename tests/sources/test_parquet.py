"""Parquet: row groups larger than the cache are decoded a few times, not for every batch."""

import os
import pickle
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softlabels.errors import InvalidData, StorageFailed
from softlabels.sources import open_source, scratch, table_source, tables

ROWS, GROUP = 4000, 500


@pytest.fixture
def path(tmp_path):
    values = np.arange(ROWS * 8, dtype=np.float32).reshape(ROWS, 8)
    table = pa.table(
        {"x": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 8), "label": np.arange(ROWS) % 3}
    )
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=GROUP)
    return tmp_path / "d.parquet"


@pytest.fixture
def small_cache(monkeypatch):
    """A cache that holds less than one row group, and arrays in memory of at most 1 KiB."""
    monkeypatch.setattr(tables, "CACHE_BYTES", 8 * 1024)
    monkeypatch.setattr(scratch, "MAX_IN_MEMORY", 1024)


def shuffled_epoch(source, seed):
    """Read a shuffled epoch in batches of 100 rows, and return the number of rows that were decoded for it."""
    decoded = source.decoded_rows
    order = np.random.default_rng(seed).permutation(ROWS)
    for rows in np.split(order, ROWS // 100):
        assert (source.inputs(rows)[:, 0] == rows * 8).all()
        assert (source.labels(rows) == rows % 3).all()
    return source.decoded_rows - decoded


@pytest.mark.usefixtures("small_cache")
def test_a_shuffled_epoch_decodes_at_most_four_times_the_rows(path):
    source = open_source(path)
    assert shuffled_epoch(source, 0) <= 4 * ROWS
    assert shuffled_epoch(source, 1) == 0
    assert shuffled_epoch(pickle.loads(pickle.dumps(source)), 2) <= 4 * ROWS  # noqa: S301  our own bytes


@pytest.mark.usefixtures("small_cache")
def test_reading_in_order_decodes_every_row_once_and_writes_no_temporary_file(path, monkeypatch):
    source = open_source(path)
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    for _ in range(3):
        decoded = source.decoded_rows
        for start in range(0, ROWS, 100):
            source.inputs(np.arange(start, start + 100))
        assert source.decoded_rows - decoded == ROWS


@pytest.mark.usefixtures("small_cache")
def test_without_space_for_a_temporary_file_rows_are_still_right(path, monkeypatch, caplog):
    source = open_source(path)
    monkeypatch.setattr(table_source, "SPARE", 2**60)
    assert shuffled_epoch(source, 0) > ROWS
    assert "blocks are decoded repeatedly because they exceed the cache" in caplog.text


def test_decoded_blocks_stay_in_a_cache_that_is_large_enough(path):
    source = open_source(path)
    assert source.decoded_rows <= ROWS + GROUP
    assert shuffled_epoch(source, 0) <= ROWS


def test_the_caller_owns_the_memory_of_inputs(path):
    source = open_source(path)
    inputs = source.inputs(np.arange(10))
    inputs += 1
    assert (source.inputs(np.arange(10)) == inputs - 1).all()


@pytest.mark.usefixtures("small_cache")
def test_a_file_that_is_truncated_in_use_is_an_error(path):
    source = open_source(path)
    os.truncate(path, 4096)
    with pytest.raises(InvalidData, match="cannot be read"):
        source.inputs(np.arange(ROWS // 2, ROWS // 2 + 10))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110  a device
def test_a_full_disk_is_an_error_and_no_signal(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: open("/dev/full", "wb", buffering=buffering))  # noqa: PTH123, SIM115
    builder = scratch.ArrayBuilder(10, (), np.dtype(np.int64), max_in_memory=0)
    with pytest.raises(StorageFailed, match="set TMPDIR"):
        builder.append(np.arange(10))
