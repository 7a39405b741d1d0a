"""Sources over tables: the same values give the same inputs, keys and fingerprint, whatever file holds them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from softlabels.errors import ColumnMissing, DataNotFound, InvalidArgument, InvalidData
from softlabels.sources import content_keys, fingerprint, open_source


def nested(array):
    """An array as an Arrow column of nested lists of fixed size."""
    column = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def write(folder, kind, images, labels):
    path = folder / f"data.{kind}"
    table = pa.table({"image": nested(images), "label": pa.array(labels)})
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=3)
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=2):
                writer.write_batch(batch)
    elif kind == "jsonl":
        path.write_text(
            "".join(
                json.dumps({"image": i.tolist(), "label": int(v)}) + "\n" for i, v in zip(images, labels, strict=True)
            )
        )
    else:
        np.savez(path, image=images, label=labels)
    return path


@settings(max_examples=30)  # each opens an Arrow file, which starts a process
@given(
    images=hnp.arrays(
        np.int64, st.tuples(st.integers(1, 11), st.just(3), st.just(2)), elements=st.integers(-(2**40), 2**40)
    ),
    rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
)
def test_formats_agree(tmp_path_factory, images, rows):
    labels = np.arange(len(images)) % 3
    chosen = np.array(rows) % len(images)
    folder = tmp_path_factory.mktemp("formats")
    sources = [open_source(write(folder, kind, images, labels)) for kind in ("parquet", "arrow", "jsonl", "npz")]
    for source in sources:
        assert len(source) == len(images)
        assert source.input_shape == (3, 2)
        np.testing.assert_array_equal(source.inputs(chosen), images[chosen])
        np.testing.assert_array_equal(source.labels(chosen), labels[chosen])
        np.testing.assert_array_equal(source.keys(), content_keys(images))
        assert source.fingerprint == fingerprint([content_keys(images)])
        assert source.classes == labels.max() + 1


def test_a_key_is_the_hash_of_what_the_format_says():
    array = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
    header = b"softlabels key 1\0content\0<i2\x002,3\0"
    assert content_keys(array)[0].tobytes() == blake3(header + array.tobytes()).digest()[:16]
    assert (content_keys(array) == content_keys(array.astype(">i2"))).all(), "byte order is no content"
    assert (content_keys(array) != content_keys(array.astype(np.int32))).any()
    assert (content_keys(array) != content_keys(array.reshape(1, 3, 2))).any()


def test_the_fingerprint_names_the_order(digits_path, digits, tmp_path):
    table = pq.read_table(digits_path)
    pq.write_table(table.take(np.arange(len(table))[::-1]), tmp_path / "reversed.parquet")
    other = open_source(tmp_path / "reversed.parquet")
    assert other.fingerprint != digits.fingerprint
    assert (other.keys()[::-1] == digits.keys()).all()


def test_numeric_columns_of_a_csv_are_stacked_in_file_order(tmp_path):
    (tmp_path / "d.csv").write_text("b,a,label,split\n1,2.5,yes,train\n3,4.5,no,test\n5,6.5,,train\n")
    source = open_source(tmp_path / "d.csv", label="label")
    assert source.columns.inputs == ("b", "a")
    assert source.inputs(np.arange(3)).tolist() == [[1, 2.5], [3, 4.5], [5, 6.5]]
    assert source.splits() == ("test", "train")
    assert source.split("train").tolist() == [0, 2]


def test_text_labels_are_numbered_by_sorted_name_and_null_is_unlabelled(tmp_path):
    table = pa.table({"x": [1.0, 2.0, 3.0, 4.0], "label": ["dog", None, "cat", "dog"]})
    pq.write_table(table, tmp_path / "d.parquet")
    source = open_source(tmp_path / "d.parquet")
    assert source.class_names == ("cat", "dog")
    assert source.labels(np.arange(4)).tolist() == [1, -1, 0, 1]
    assert source.classes == 2


def test_ids_name_rows_in_place_of_content(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 1.0], "name": ["a", "b"]}), tmp_path / "d.parquet")
    by_content, by_id = open_source(tmp_path / "d.parquet"), open_source(tmp_path / "d.parquet", id="name")
    assert (by_content.keys()[0] == by_content.keys()[1]).all()
    assert (by_id.keys()[0] != by_id.keys()[1]).any()
    assert by_id.keys()[0].tobytes() == blake3(b"softlabels key 1\0id\0a").digest()[:16]


def test_a_compressed_npz_reads_too(tmp_path):
    np.savez_compressed(tmp_path / "d.npz", x=np.arange(12.0).reshape(4, 3))
    assert open_source(tmp_path / "d.npz").inputs(np.array([3])).tolist() == [[9.0, 10.0, 11.0]]


def parquet(folder, **columns):
    pq.write_table(pa.table(columns), folder / "d.parquet")
    return folder / "d.parquet"


# fmt: off
BAD = {
    "no rows": (lambda f: parquet(f, x=pa.array([], pa.float32())),
        InvalidData, "no rows"),
    "null input": (lambda f: parquet(f, x=[1.0, None]),
        InvalidData, "row 1: the value is null"),
    "NaN input": (lambda f: parquet(f, x=[1.0, float("nan")]),
        InvalidData, "row 1: the input holds NaN"),
    "infinite input": (lambda f: parquet(f, x=[[1.0], [float("inf")]]),
        InvalidData, "row 1: the input holds NaN or inf"),
    "mixed shapes": (lambda f: parquet(f, x=[[1.0, 2.0], [1.0]]),
        InvalidData, "row 1: values must have one shape, got 1 values; expected 2"),
    "text input": (lambda f: parquet(f, x=["a"]),
        InvalidData, "values of type text cannot be the input of a model"),
    "negative label": (lambda f: parquet(f, x=[1.0, 2.0], label=[0, -3]),
        InvalidData, "row 1: the label -3 is negative"),
    "label of fractions": (lambda f: parquet(f, x=[1.0], label=[0.5]),
        InvalidData, "row 0: the label 0.5 is not a whole number"),
    "nothing to feed": (lambda f: parquet(f, label=[1]),
        ColumnMissing, "no column can be a model's input"),
}
# fmt: on


@pytest.mark.parametrize("case", BAD)
def test_bad_data_names_the_place(case, tmp_path):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        open_source(make(tmp_path))


def test_a_column_that_is_not_there_is_named_with_those_that_are(digits_path):
    with pytest.raises(ColumnMissing, match=r"no column 'lable'; it has: image, label, split\. Did you mean 'label'"):
        open_source(digits_path, label="lable")


def test_a_file_that_is_not_there_names_its_neighbour(digits_path):
    with pytest.raises(DataNotFound, match=r"Did you mean .*digits\.parquet"):
        open_source(digits_path.with_name("digit.parquet"))
    with pytest.raises(InvalidArgument, match=r"unsupported file type '\.md'; supported: .*\.csv"):
        open_source(digits_path.with_name("README.md"))


@pytest.mark.parametrize("kind", ["parquet", "arrow", "npz", "jsonl"])
def test_a_truncated_file_is_an_error(kind, tmp_path):
    path = write(tmp_path, kind, np.arange(600).reshape(100, 3, 2), np.zeros(100, np.int64))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InvalidData, match="cannot be read"):
        open_source(path)


def test_object_arrays_are_never_loaded(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InvalidData, match="Python objects"):
        open_source(tmp_path / "d.npz")


def test_splits_that_are_not_there_are_named(digits):
    assert len(digits.split("train")) == 1347
    with pytest.raises(InvalidArgument, match="its splits are test, train"):
        digits.split("validation")


def test_the_bundled_digits_are_those_of_the_file(digits):
    bundled = open_source("digits")
    assert bundled.fingerprint == digits.fingerprint
    assert (len(bundled), bundled.input_shape, bundled.classes) == (1797, (8, 8), 10)
