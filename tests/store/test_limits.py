"""Memory stays bounded at the largest sizes that the format allows, and for files that declare more.

Each store is read in a process of its own, whose growth is measured.
"""

import json
import struct

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import save

import softlabels as sl
from softlabels.labels import Head
from softlabels.store import create_or_open
from softlabels.store.format import paths, unit_table
from softlabels.store.format.limits import MAX_ARRAYS_BYTES, MAX_CHUNKS, MAX_UNITS
from tests.corpus import forging, headers
from tests.store import limit_cases

pytestmark = pytest.mark.slow
MEMORY = 256 * 10**6
LARGEST = [
    ("dense q8, one row", "zarr"), ("dense q8, one row", "parquet"), ("dense bf16, one row", "parquet"),
    ("threshold, one long row", "zarr"), ("threshold, one long row", "parquet"), ("adaptive, one wide row", "zarr"),
]  # fmt: skip
"""Those that take the most memory; `python -m tests.reliability` tries all."""


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    return {kind: forging.make(folder / kind, f"topk-{kind}") for kind in ("zarr", "parquet")}


@pytest.mark.parametrize(("case", "shard_format"), LARGEST)
def test_the_largest_chunk_is_read_in_bounded_memory(tmp_path, warm, case, shard_format):
    assert 0.97 < limit_cases.make_chunk(case, shard_format, tmp_path / "s") <= 1
    growth, message = limit_cases.growth("read_chunk", tmp_path / "s", warm[shard_format])
    assert message == ""
    assert growth < MEMORY


def sealed_table(root, units, unit_rows, chunk_rows):
    """Write a growing store whose snapshot lists very many units, without their records; returns the table's size."""
    descriptor = forging.descriptor("topk-zarr", rows=None, unit_rows=unit_rows, chunk_rows=chunk_rows)
    with create_or_open(root, descriptor).begin(0) as writer:
        writer.append(forging.columns("topk-zarr", range(unit_rows % 100)))
        writer.commit()
    sl.seal(root)
    numbers = np.arange(units)
    columns = {"unit": numbers, "rows": np.full(units, unit_rows), "first_row": numbers * unit_rows,
               "size": np.ones(units, np.int64)}  # fmt: skip
    columns |= {name: np.full(units, b"b" * width) for name, width in unit_table.COLUMNS.items() if width}
    listed = unit_table.to_bytes(columns)
    forging.forge(root, snapshot=lambda value: value.update(units=units, rows=units * unit_rows), listed=listed)
    return len(listed)


def test_a_store_of_very_many_chunks_is_refused_in_bounded_memory(tmp_path, warm):
    assert sealed_table(tmp_path / "s", MAX_UNITS, 256, 1) < 2**22
    growth, message = limit_cases.growth("open", tmp_path / "s", warm["zarr"])
    assert "268,435,456 chunks, where at most 4,194,304 are allowed" in message
    assert growth < MEMORY


def test_the_most_units_and_chunks_are_opened_in_bounded_memory(tmp_path, warm):
    sealed_table(tmp_path / "s", MAX_UNITS, 4 * (MAX_CHUNKS // MAX_UNITS), 4)
    growth, message = limit_cases.growth("open", tmp_path / "s", warm["zarr"])
    assert message == ""
    assert growth < MEMORY


def footer_of_empty_structs(fields):
    fields[2] = headers.Field(headers.LIST, [{}] * 2_000_000, headers.STRUCT)


def group_of_empty_structs(fields):
    fields[4].value[0][1] = headers.Field(headers.LIST, [{}] * 2_000_000, headers.STRUCT)


@pytest.mark.parametrize("change", [footer_of_empty_structs, group_of_empty_structs])
def test_a_footer_of_very_many_structs_is_refused_in_bounded_memory(tmp_path, warm, change):
    root = forging.make(tmp_path / "s", "topk-parquet")
    forging.forge(root, footer=headers.footer(change))
    growth, message = limit_cases.growth("read_chunk", root, warm["parquet"])
    assert "a header with too many values" in message
    assert growth < MEMORY


def header_of(names):
    """Safetensors of very many arrays without numbers: a header of 86 MB."""
    header = ",".join(f'"{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for name in names)
    data = ("{" + header + "}").encode()
    return struct.pack("<Q", len(data)) + data


@pytest.mark.parametrize("count", [1_400_000, 3_000])
def test_a_header_of_very_many_arrays_is_refused_in_bounded_memory(tmp_path, warm, count):
    root = forging.make(tmp_path / "s", "topk-zarr")
    data = header_of(range(count))
    (root / paths.prior_path(1, blake3(data).hexdigest())).write_bytes(data)
    forging.forge(root, snapshot=lambda value: value.update(prior=blake3(data).hexdigest()))
    growth, message = limit_cases.growth("verify", root, warm["zarr"])
    assert growth < MEMORY
    assert "expected at most 131,072" in message


def test_the_largest_probe_is_read_in_bounded_memory(tmp_path, warm):
    classes = 2**22
    rows = (MAX_ARRAYS_BYTES - 2**10) // (4 * classes)
    head = Head(encoding="dense:f16", classes=classes)
    descriptor = forging.descriptor("dense-zarr", heads={"logits": head}, rows=rows, unit_rows=rows, chunk_rows=1)
    root = tmp_path / "s"
    with create_or_open(root, descriptor).begin(0) as writer:
        columns = forging.columns("dense-zarr", range(rows))
        writer.append(columns | {"logits/values": np.zeros((rows, classes), np.float16)})
        writer.commit()
    sl.seal(root)
    data = save({"logits/rows": np.arange(rows), "logits/logits": np.zeros((rows, classes), np.float32)})
    path = root / paths.probe_path(1, blake3(data).hexdigest())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    forging.forge(root, snapshot=lambda value: value.update(probe=blake3(data).hexdigest()))
    growth, message = limit_cases.growth("verify", root, warm["zarr"])
    assert (message, growth < MEMORY) == ("", True)


@pytest.mark.parametrize("unit", ["[],", "{},", '"a",', "1,"])
def test_a_document_of_very_many_values_is_refused_in_bounded_memory(tmp_path, warm, unit):
    root = forging.make(tmp_path / "s", "topk-zarr")
    path = root / paths.DESCRIPTOR
    about = json.loads(path.read_bytes())
    about["data"]["columns"] = json.loads("[" + (unit * (2**20 // len(unit) - 500))[:-1] + "]")
    path.write_bytes(json.dumps(about, sort_keys=True, separators=(",", ":")).encode())
    assert path.stat().st_size > 10**6
    growth, message = limit_cases.growth("open", root, warm["zarr"])
    assert "data.columns: got a JSON list of" in message
    assert growth < MEMORY


def test_the_most_units_are_verified_in_bounded_memory(tmp_path, warm):
    """None of them is there, which is one problem and not a million."""
    sealed_table(tmp_path / "s", MAX_UNITS, 4 * (MAX_CHUNKS // MAX_UNITS), 4)
    growth, message = limit_cases.growth("verify", tmp_path / "s", warm["zarr"])
    assert "the records of units 1 to 1048575 are missing" in message
    assert growth < MEMORY
