"""Arrow IPC: a damaged or prepared file is an error, whatever it does to Arrow's reader."""

import os
import pickle
import random
import sys

import numpy as np
import pyarrow as pa
import pytest

from softlabels.errors import InvalidData
from softlabels.sources import open_source
from softlabels.sources.kinds import arrow, arrow_probe

ROWS = 40


def write(path, *, stream=False):
    table = pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(ROWS * 3, dtype=np.float32)), 3),
            "label": pa.array(["cat", "dog", None, "ox"] * 10).dictionary_encode(),
            "note": pa.array([f"note {row}" for row in range(ROWS)], pa.string_view()),
        }
    )
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=15)
    return path


@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_files_and_streams_are_read_in_any_order_and_by_another_process(tmp_path, stream):
    source = open_source(write(tmp_path / "d.arrow", stream=stream))
    rows = np.array([39, 0, 16])
    for opened in (source, pickle.loads(pickle.dumps(source))):  # noqa: S301  our own bytes
        assert opened.inputs(rows)[:, 0].tolist() == [117, 0, 48]
        assert opened.labels(rows).tolist() == [2, 0, 0]
        assert opened.inputs(rows).flags.writeable


def test_mutants_are_read_or_refused(tmp_path):
    data = write(tmp_path / "d.arrow").read_bytes()
    numbers = random.Random(0)
    for _ in range(12):
        mutant = bytearray(data)
        for _ in range(3):
            mutant[numbers.randrange(len(mutant))] ^= 1 << numbers.randrange(8)
        (tmp_path / "m.arrow").write_bytes(mutant)
        try:
            source = open_source(tmp_path / "m.arrow", label=False)
        except InvalidData:
            continue
        assert source.inputs(np.arange(len(source))).shape == (len(source), *source.input_shape)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "a process that reads it ends with code -11"),
        (f"import sys\nprint('damaged offsets')\nsys.exit({arrow_probe.DAMAGED})", "Arrow IPC: damaged offsets"),
        ("import time\ntime.sleep(60)", "reading it takes too long"),
    ],
    ids=["crash", "damage", "hang"],
)
def test_a_file_that_ends_its_reader_is_refused(tmp_path, monkeypatch, script, message):
    path = write(tmp_path / "d.arrow")
    (tmp_path / "probe.py").write_text(script)
    monkeypatch.setattr(arrow_probe, "__file__", str(tmp_path / "probe.py"))
    monkeypatch.setattr(arrow, "PROBE_SECONDS", 3)
    with pytest.raises(InvalidData, match=message):
        open_source(path)


def test_the_probe_reports_offsets_out_of_bounds(tmp_path):
    offsets = pa.array([0, 10**6, 2], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ab")])
    batch = pa.record_batch([pa.array([1.0, 2.0]), text], names=["x", "note"])
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(InvalidData, match=r"cannot be read as Arrow IPC: ArrowInvalid: .*offset"):
        open_source(tmp_path / "d.arrow")


def test_a_file_that_was_probed_is_probed_again_only_when_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "d.arrow")
    source = pickle.dumps(open_source(path))
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert len(pickle.loads(source)) == ROWS  # noqa: S301  our own bytes
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidData, match="cannot be read as Arrow IPC"):
        pickle.loads(source)  # noqa: S301  our own bytes


def test_a_file_that_is_truncated_in_use_is_an_error(tmp_path):
    source = open_source(write(tmp_path / "d.arrow"))
    os.truncate(tmp_path / "d.arrow", 512)
    source._table._cache.clear()
    with pytest.raises(InvalidData, match="cannot be read"):
        source.inputs(np.arange(ROWS))


def test_other_files_are_no_arrow(tmp_path):
    (tmp_path / "d.arrow").write_bytes(b"no arrow at all")
    with pytest.raises(InvalidData, match="cannot be read as Arrow IPC"):
        open_source(tmp_path / "d.arrow")
