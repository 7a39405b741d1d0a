"""Both forms of a shard hold every encoding, fixed and ragged, and give back exactly what was put in."""

import io
from dataclasses import replace

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import softlabels as sl
from softlabels import columns as ragged
from softlabels.columns import ranges
from softlabels.encodings import codebook, parse
from softlabels.errors import InvalidArgument
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open
from softlabels.store.format.codebooks import digest_of
from softlabels.store.shards import parquet_shard
from tests.encodings.specs import with_examples

FORMATS = ["zarr", "parquet"]
ENCODINGS = with_examples([
    "dense:f32", "dense:f16", "dense:bf16", "dense:q8", "topk:3:f16", "topk:3:q8", "topk:40:f16", "topk:3:d4",
    "topk:3:d16:4", "topk:2:q8:4", "adaptive:0.05:f16", "adaptive:0.02:q8", "adaptive:0.01:d2",
    "counts:9:0:4:dither", "adaptive:0.02:d8:4", "adaptive:0.1:f16:4", "sampled:9", "sampled:9:0.7",
    "sampled:300", "threshold:0.1", "threshold:0.02:255", "counts:9:0.05:4:excess",
    "counts:200:0:4",
])  # fmt: skip
CLASSES = 40


def head_of(spec, **options):
    """A head at two temperatures where the encoding can, with a codebook where it asks for one."""
    encoding = parse(spec, classes=CLASSES)
    temperatures = (2.0,) if spec.startswith(("sampled", "threshold", "counts")) else (1.0, 2.0)
    head = Head(encoding=encoding.spec, classes=CLASSES, temperatures=temperatures, **options)
    if encoding.priors == 1:
        return head, {}
    book = codebook.fit(encoding, head, [torch.from_numpy(random_logits(64))])
    return replace(head, codebook=digest_of(book)), {"logits": book}


def describe(shard_format, head, *, rows, unit_rows=7, chunk_rows=3, codec="zstd"):
    return Descriptor(
        rows=rows, unit_rows=unit_rows, chunk_rows=chunk_rows, heads={"logits": head}, shard_format=shard_format,
        codec=codec, teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint="f", rows=rows),
    )  # fmt: skip


def encode(logits, head, lengths=None, books=None):
    """Columns of all rows, straight from the encoder."""
    encoding = parse(head.encoding, classes=head.classes)
    items = len(logits)
    book = (books or {}).get("logits")
    arrays = encoding.encode(torch.from_numpy(logits), head, np.arange(items), codebook=book).arrays
    columns = {f"logits/{name}": array for name, array in arrays.items()}
    count = items if lengths is None else len(lengths)
    columns["key"] = np.random.default_rng(1).integers(0, 256, (count, 16), dtype=np.uint8)
    columns["view"] = np.arange(count, dtype=np.uint32)
    if lengths is not None:
        columns["logits/length"] = lengths.astype(np.uint32)
    return columns


def write(root, descriptor, columns, books=None):
    store = create_or_open(root, descriptor, books)
    schema = descriptor.columns()
    for unit in store.missing():
        rows = descriptor.unit_range(unit)
        with store.begin(unit) as writer:
            for start in range(rows.start, rows.stop, 2):
                writer.append(ragged.cut(columns, schema, start, min(start + 2, rows.stop)))
            assert writer.commit()
    sl.seal(root)
    return sl.open(root)


def assert_same(store, columns):
    parts = [store.read_chunk(number) for number in range(store.chunks)]
    for name, expected in columns.items():
        result = np.concatenate([item[name] for item in parts])
        assert result.dtype.newbyteorder("=") == expected.dtype
        np.testing.assert_array_equal(result, expected)


def assert_decoded_alike(store, columns):
    """Labels that are read are those that the encoder's own columns decode to."""
    head = store.heads["logits"]
    arrays = {name.removeprefix("logits/"): array for name, array in columns.items() if name.startswith("logits/")}
    lengths = arrays.pop("length", None)
    expected = parse(head.encoding, classes=head.classes).decode(arrays, head, store.prior("logits"))
    result = store.read(range(store.rows))
    np.testing.assert_array_equal(result.values, expected.values)
    for temperature in head.temperatures:
        np.testing.assert_array_equal(result.log_probs(temperature), expected.log_probs(temperature))
    assert (result.lengths is None) == (lengths is None)


def random_logits(count):
    logits = np.random.default_rng(count).normal(0, 4, (count, CLASSES)).astype(np.float32)
    logits[: count // 3, 5] = -np.inf
    return logits


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize(
    ("encoding", "codec"),
    [*((encoding, "zstd") for encoding in ENCODINGS), *((encoding, "lz4") for encoding in ENCODINGS[::4])],
)
def test_fixed_rows_come_back(tmp_path, encoding, shard_format, codec):
    head, books = head_of(encoding)
    columns = encode(random_logits(20), head, books=books)
    store = write(tmp_path / "s", describe(shard_format, head, rows=20, codec=codec), columns, books)
    assert_same(store, columns)
    assert_decoded_alike(store, columns)
    assert sl.verify(tmp_path / "s", deep=True).ok
    expected, temperature = [19, 0, 7, 7, 3], head.temperatures[0]
    sample, everything = store.read(expected), store.read(range(20))
    assert (sample.log_probs(temperature) == everything.take(np.array(expected)).log_probs(temperature)).all()


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ragged_rows_come_back(tmp_path, encoding, shard_format):
    head, books = head_of(encoding, kind="tokens", shape=(None,))
    lengths = np.array([3, 0, 1, 9, 2, 0, 0, 0, 4, 1, 5, 2, 0, 8, 0, 0, 0, 0, 1, 3])
    columns = encode(random_logits(int(lengths.sum())), head, lengths, books)
    store = write(tmp_path / "s", describe(shard_format, head, rows=20), columns, books)
    assert_same(store, columns)
    assert_decoded_alike(store, columns)
    assert sl.verify(tmp_path / "s", deep=True).ok
    expected = np.array([19, 0, 7, 3, 3, 1])
    got, everything = store.read(expected), store.read(range(20))
    assert len(got) == 6
    assert (got.lengths == lengths[expected]).all()
    starts, temperature = np.cumsum(lengths) - lengths, head.temperatures[0]
    result = got.log_probs(temperature)
    np.testing.assert_array_equal(
        result, everything.log_probs(temperature)[ranges(starts[expected], lengths[expected])]
    )
    np.testing.assert_array_equal(result, everything.take(expected).log_probs(temperature))


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("encoding", ["topk:2:f16", "adaptive:0.02:d4", "threshold:0.05"])
@settings(max_examples=12)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=15), chunk=st.integers(1, 5), unit=st.integers(5, 9))
def test_any_lengths_in_any_geometry(tmp_path_factory, shard_format, encoding, lengths, chunk, unit):
    """Also of rows that are all empty, and of positions that are ragged themselves."""
    head, _ = head_of(encoding, kind="tokens", shape=(None,))
    lengths = np.array(lengths)
    columns = encode(random_logits(int(lengths.sum())), head, lengths)
    descriptor = describe(shard_format, head, rows=len(lengths), unit_rows=unit, chunk_rows=chunk)
    assert_same(write(tmp_path_factory.mktemp("s") / "s", descriptor, columns), columns)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_loader_batches_ragged_rows(tmp_path, shard_format):
    head = Head(encoding="topk:3:f16", classes=CLASSES, kind="tokens", shape=(None,))
    lengths = np.random.default_rng(0).integers(0, 7, 50)
    columns = encode(random_logits(int(lengths.sum())), head, lengths)
    store = write(tmp_path / "s", describe(shard_format, head, rows=50), columns)
    everything = store.read(range(50))
    seen = []
    for batch in sl.loader(store, batch_size=8, seed=3):
        targets = batch.targets["logits"]
        np.testing.assert_array_equal(targets.ids, everything.take(batch.rows).ids)
        np.testing.assert_array_equal(targets.lengths, lengths[batch.rows])
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(50))


def shard_files(root):
    return sorted(path for path in (root / "shards").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def parquet_store(tmp_path_factory):
    """A Parquet store of top-3 labels and the columns that went in."""
    head = Head(encoding="topk:3:f16", classes=CLASSES)
    columns = encode(random_logits(20), head)
    root = tmp_path_factory.mktemp("stores") / "s"
    write(root, describe("parquet", head, rows=20), columns)
    return root, columns


def test_polars_shows_the_labels(parquet_store):
    import polars as pl

    root, columns = parquet_store
    frame = pl.concat([pl.read_parquet(path) for path in shard_files(root)])
    assert set(frame.columns) == set(columns)
    assert frame["logits/ids"].dtype == pl.List(pl.UInt8)
    assert frame["logits/ids"].to_list() == columns["logits/ids"].tolist()
    assert frame["logits/values"].to_list() == columns["logits/values"].tolist()
    assert frame["key"].to_list() == [key.tobytes() for key in columns["key"]]


def test_duckdb_shows_the_labels(parquet_store):
    root, columns = parquet_store
    files = [str(path) for path in shard_files(root)]
    query = 'select "logits/ids"[1] as first, "logits/values"[1] as value from read_parquet(?) order by "view"'
    rows = duckdb.execute(query, [files]).fetchall()
    assert [row[0] for row in rows] == columns["logits/ids"][:, 0].tolist()
    assert [row[1] for row in rows] == columns["logits/values"][:, 0].tolist()


def test_the_datasets_library_shows_the_labels(parquet_store, tmp_path):
    root, columns = parquet_store
    files = [str(path) for path in shard_files(root)]
    result = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
    assert result["logits/ids"][:] == columns["logits/ids"].tolist()
    assert result["logits/values"][:] == columns["logits/values"].tolist()


@pytest.fixture(scope="module")
def ragged_columns_store(tmp_path_factory):
    """Ragged rows of ragged positions in Parquet, and for each row the ids of each position."""
    head, books = head_of("adaptive:0.02:d8:4", kind="tokens", shape=(None,))
    lengths = np.array([3, 0, 1, 4, 2])
    columns = encode(random_logits(10), head, lengths, books)
    root = tmp_path_factory.mktemp("stores") / "s"
    write(root, describe("parquet", head, rows=5), columns, books)
    by_position = np.split(columns["logits/ids"], np.cumsum(columns["logits/count"])[:-1])
    starts = np.cumsum(lengths) - lengths
    ids = [
        [item.tolist() for item in by_position[offset : offset + n]] for offset, n in zip(starts, lengths, strict=True)
    ]
    priors = np.split(columns["logits/prior"], np.cumsum(lengths)[:-1])
    return root, ids, [item.tolist() for item in priors]


def test_viewers_show_lists_of_lists(ragged_columns_store, tmp_path):
    import polars as pl

    root, ids, priors = ragged_columns_store
    files = [str(path) for path in shard_files(root)]
    frame = pl.concat([pl.read_parquet(path) for path in files])
    assert frame["logits/ids"].dtype == pl.List(pl.List(pl.UInt8))
    assert frame["logits/ids"].to_list() == ids
    assert frame["logits/prior"].to_list() == priors
    query = 'select "logits/ids", len("logits/ids"), "logits/prior" from read_parquet(?) order by "view"'
    rows = duckdb.execute(query, [files]).fetchall()
    assert rows == list(zip(ids, map(len, ids), priors, strict=True))
    result = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
    assert result["logits/ids"][:] == ids


def test_plain_zarr_shows_which_prior_a_row_has(tmp_path):
    head, books = head_of("adaptive:0.02:d8:4")
    columns = encode(random_logits(7), head, books=books)
    write(tmp_path / "s", describe("zarr", head, rows=7), columns, books)
    group = zarr.open_group(zarr.storage.ZipStore(shard_files(tmp_path / "s")[0], mode="r"), mode="r")
    np.testing.assert_array_equal(group["logits/prior"][:], columns["logits/prior"])
    assert group["logits/steps"].attrs["per"] == group["logits/ids"].attrs["per"] == "logits/count"


def test_parquet_pages_carry_checksums_and_no_dictionaries(parquet_store):
    root, _ = parquet_store
    data = shard_files(root)[0].read_bytes()
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    group = metadata.row_group(0)
    column = group.column(2)
    assert not column.has_dictionary_page
    assert metadata.num_row_groups == 3
    damaged = bytearray(data)
    damaged[column.data_page_offset + column.total_compressed_size - 2] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(io.BytesIO(damaged), page_checksum_verification=True).read(use_threads=False)


def test_what_decodes_a_chunk_sees_nothing_before_it():
    """A footer that led pyarrow elsewhere would come to an error, not to other bytes."""
    chunk = pa.PythonFile(parquet_shard._Window(b"chunk", 100), mode="r")
    chunk.seek(100)
    assert chunk.read(5) == b"chunk"
    chunk.seek(98)
    with pytest.raises(OSError, match="a read before the chunk"):
        chunk.read(4)


def test_plain_zarr_shows_ragged_rows(tmp_path):
    head = Head(encoding="topk:3:f16", classes=CLASSES, kind="tokens", shape=(None,))
    lengths = np.array([3, 0, 1, 9, 2, 4, 0])
    columns = encode(random_logits(int(lengths.sum())), head, lengths)
    write(tmp_path / "s", describe("zarr", head, rows=7), columns)
    group = zarr.open_group(zarr.storage.ZipStore(shard_files(tmp_path / "s")[0], mode="r"), mode="r")
    array = group["logits/ids"]
    assert array.attrs["per"] == "logits/length"
    room, per_chunk = array.chunks[0], array.attrs["chunk_rows"]
    result = []
    for row in range(7):  # as docs/FORMAT.md says
        chunk = row // per_chunk
        start = chunk * room + int(group["logits/length"][chunk * per_chunk : row].sum())
        result.append(array[start : start + lengths[row]])
    np.testing.assert_array_equal(np.concatenate(result), columns["logits/ids"])


def test_rows_too_wide_for_a_chunk_are_refused():
    with pytest.raises(InvalidArgument, match="expected at most 67,108,864 bytes"):
        describe("zarr", Head(encoding="dense:f32", classes=2**20), rows=1000, unit_rows=1000, chunk_rows=100)


@pytest.mark.parametrize(
    ("encoding", "shard_format"), [(encoding, FORMATS[index % 2]) for index, encoding in enumerate(ENCODINGS)]
)
def test_pixels_come_back(tmp_path, encoding, shard_format):
    """Positions of a fixed shape decode to the labels of the same distributions stored as ragged rows."""
    head, books = head_of(encoding, kind="pixels", shape=(2, 3))
    logits = random_logits(20 * 6).reshape(20, 2, 3, CLASSES)
    columns = encode(logits, head, books=books)
    store = write(tmp_path / "s", describe(shard_format, head, rows=20), columns, books)
    assert_same(store, columns)
    assert_decoded_alike(store, columns)
    assert sl.verify(tmp_path / "s", deep=True).ok
    temperature, everything = head.temperatures[0], store.read(range(20))
    assert everything.log_probs(temperature).shape == (20, 2, 3, CLASSES)
    expected = np.array([19, 0, 7, 7, 3])
    np.testing.assert_array_equal(
        store.read(expected).log_probs(temperature), everything.log_probs(temperature)[expected]
    )
    if not encoding.startswith(("sampled", "threshold", "counts")):  # whose draws depend on row and position
        flat = replace(head, kind="classes", shape=())
        alone = parse(head.encoding, classes=CLASSES).encode(
            torch.from_numpy(logits.reshape(-1, CLASSES)), flat, np.arange(120), codebook=books.get("logits")
        )
        labels = parse(head.encoding, classes=CLASSES).decode(alone.arrays, flat, store.prior("logits"))
        np.testing.assert_array_equal(
            labels.log_probs(temperature).reshape(20, 2, 3, -1), everything.log_probs(temperature)
        )


@pytest.mark.parametrize("shard_format", FORMATS)
def test_pixels_are_planes_of_runs(tmp_path, shard_format):
    """An image with one boundary takes a hundredth of the bytes of its logits in half precision."""
    head = Head(encoding="topk:2:d4", classes=CLASSES, kind="pixels", shape=(64, 64))
    logits = np.zeros((4, 64, 64, CLASSES), np.float32)
    logits[:, :32, :, 3], logits[:, 32:, :, 7], logits[..., 9] = 9, 9, 4
    columns = encode(logits, head)
    assert columns["logits/ids"].shape == (4, 2, 64, 64)
    store = write(tmp_path / "s", describe(shard_format, head, rows=4), columns)
    assert store.bytes < logits.size * 2 / 100
