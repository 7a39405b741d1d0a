"""The largest chunk a descriptor may ask for is read, and its values looked at, in 256 MB."""

import subprocess
import sys

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open

CLASSES = 1000
READER = """
import resource, sys
import numpy, pyarrow.parquet, softlabels as sl
from softlabels import encodings
store = sl.open(sys.argv[1])
store.read_chunk(store.chunks - 1)  # a small one: whatever is imported late
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = store.read_chunk(0)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(sum(array.nbytes for array in found.values()), grown * 1024)
"""


@pytest.mark.parametrize("form", ["zarr", "parquet"])
@pytest.mark.parametrize("encoding", ["dense:f16", "adaptive:0.0001:d4"])
def test_the_largest_chunk_takes_256_mb(tmp_path, form, encoding):
    rows = 33_000 if encoding.startswith("dense") else 16_500
    head = sl.Head(classes=CLASSES, encoding=encoding)
    store = create_or_open(
        tmp_path / "s",
        Descriptor(
            rows=rows + 10, unit_rows=rows, chunk_rows=rows, heads={"logits": head}, shard_format=form,
            teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint="f", rows=rows + 10),
        ),
    )  # fmt: skip
    for unit, count in ((0, rows), (1, 10)):
        columns = {"key": np.zeros((count, 16), np.uint8), "view": np.arange(count, dtype=np.uint32)}
        if encoding.startswith("dense"):
            columns["logits/values"] = np.tile(np.arange(CLASSES, dtype=np.float16), (count, 1))
        else:
            columns |= {
                "logits/count": np.full(count, CLASSES, np.uint16), "logits/tail": np.full((count, 1), -9, np.float16),
                "logits/ids": np.tile(np.arange(CLASSES, dtype=np.uint16), count),
                "logits/steps": np.ones(count * CLASSES, np.uint16),
            }  # fmt: skip
        with store.begin(unit) as writer:
            writer.append(columns)
            writer.commit()
    sl.seal(tmp_path / "s")
    ran = subprocess.run([sys.executable, "-c", READER, tmp_path / "s"], capture_output=True, text=True, check=True)
    decoded, taken = map(int, ran.stdout.split())
    assert 60e6 < decoded < 2**26
    assert taken < 256e6


def test_rows_too_uneven_to_be_padded_together_are_refused(tmp_path):
    """One row lists 50,000 classes and 6,000 rows one each: padded, 300 million entries."""
    classes, rows = 50_000, 6_000
    head = sl.Head(classes=classes, encoding="adaptive:0.00002:d4")
    logits = np.full((500, classes), -50.0, np.float32)
    logits[:, 0] = 0.0
    with sl.create(tmp_path / "s", heads={"logits": head}) as writer:
        for start in range(0, rows, 500):
            logits[0] = 0.0 if start == 0 else logits[1]
            writer.append(range(start, start + 500), {"logits": logits})
    store = sl.open(tmp_path / "s")
    with pytest.raises(InvalidArgument, match=r"6,000 rows of up to 50,000 classes.*read fewer rows of 'logits'"):
        store.read(range(rows))
    assert np.isfinite(store.read([0, 5]).values).sum() == classes + 1
    assert sum(len(batch) for batch in sl.loader(store, batch_size=256)) == rows
