"""Columns that polars, DuckDB, pandas and datasets write have the values of plain columns."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.errors import InvalidData
from softlabels.sources import as_source, open_source
from softlabels.sources.arrow_types import numbers_of, plain_array

X = np.arange(12, dtype=np.float32).reshape(4, 3)
NESTED = st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=4), max_size=8)


@given(values=NESTED, start=st.integers(0, 4), view=st.sampled_from([pa.list_view, pa.large_list_view]))
def test_list_views_are_the_lists_they_stand_for(values, start, view):
    array = pa.array(values, view(pa.int64())).slice(min(start, len(values)))
    plain = plain_array(array)
    plain.validate(full=True)
    assert plain.to_pylist() == values[start:]


@given(values=NESTED)
def test_wrapped_values_in_lists_are_decoded(values):
    array = pa.array([None if v is None else list(map(str, v)) for v in values], pa.list_(pa.string_view()))
    plain = plain_array(array)
    plain.validate(full=True)
    assert plain.to_pylist() == array.to_pylist()


@pytest.mark.parametrize(
    "column",
    [
        pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3),
        pa.array(list(X), pa.large_list(pa.float32())),
        pa.array(X.tolist(), pa.list_view(pa.float32())),
        pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    ],
    ids=lambda column: str(column.type)[:20],
)
def test_inputs_are_the_same_whatever_the_list_type(column):
    source = as_source(pa.table({"x": column}))
    assert source.input_dtype == np.float32
    assert (source.inputs(np.array([2, 0])) == X[[2, 0]]).all()


def test_tensors_have_their_shape():
    values = np.arange(24).reshape(4, 2, 3)
    source = as_source(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(values)}))
    assert (source.inputs(np.arange(4)) == values).all()


def test_decimals_dictionaries_and_run_ends_are_numbers():
    table = pa.table(
        {
            "a": pa.array([Decimal("1.5"), Decimal("2.5")]),
            "b": pa.array([1.0, 1.0]).dictionary_encode(),
            "c": pa.RunEndEncodedArray.from_arrays([2], [3.0]),
        }
    )
    assert as_source(table).inputs(np.arange(2)).tolist() == [[1.5, 1.0, 3.0], [2.5, 1.0, 3.0]]


def test_whole_numbers_that_would_lose_digits_beside_fractions_are_refused():
    with pytest.raises(InvalidData, match=r"column 'a': whole numbers beyond 2\^53 are not exact"):
        as_source(pa.table({"a": [2**53, 2**53 + 1], "b": [0.5, 0.5]}))
    assert as_source(pa.table({"a": [2**53 + 1]})).inputs(np.arange(1)).tolist() == [[2**53 + 1]]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_files_of_polars_are_read(tmp_path, suffix):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"x": polars.Series(X.tolist(), dtype=polars.Array(polars.Float32, 3)),
                              "label": ["b", "a", "b", None], "split": ["train", "train", "test", "test"]})  # fmt: skip
    frame = frame.with_columns(polars.col("label").cast(polars.Categorical))
    path = tmp_path / f"d.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ipc(path)
    for source in (open_source(path), as_source(frame)):
        assert (source.inputs(np.arange(4)) == X).all()
        assert source.labels(np.arange(4)).tolist() == [1, 0, 1, -1]
        assert source.split("train").tolist() == [0, 1]


def test_extension_types_of_datasets_are_read_with_and_without_the_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Array2D((2, 2), "uint8"), "label": datasets.Value("int64")})
    images = np.arange(16, dtype=np.uint8).reshape(4, 2, 2)
    data = datasets.Dataset.from_dict({"image": images.tolist(), "label": [0, 1, 0, 1]}, features=features)
    data.to_parquet(tmp_path / "d.parquet")
    for source in (open_source(tmp_path / "d.parquet"), as_source(data), as_source(data.select([3, 2, 1, 0]))):
        rows = np.arange(4) if source.inputs(np.zeros(1, np.int64))[0, 0, 0] == 0 else np.arange(3, -1, -1)
        assert (source.inputs(rows) == images).all()
        assert source.labels(rows).tolist() == [0, 1, 0, 1]


def test_names_with_dots_are_names(tmp_path):
    table = pa.table({"x.y": [1.0, 2.0], "x": [{"y": 5.0}, {"y": 6.0}]})
    pq.write_table(table, tmp_path / "d.parquet")
    assert open_source(tmp_path / "d.parquet", input="x.y").inputs(np.arange(2)).tolist() == [1.0, 2.0]


def test_repeated_columns_and_columns_of_nulls_are_errors(tmp_path):
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(InvalidData, match="column names must be unique, got 'a'"):
        open_source(tmp_path / "d.parquet")
    with pytest.raises(InvalidData, match="column 'a': looks like an input that cannot be used: it holds no values"):
        as_source(pa.table({"a": pa.nulls(2), "b": [1.0, 2.0]}))


@pytest.mark.parametrize("column", ["label", "split", "id"])
def test_text_that_is_not_utf8_is_a_typed_error(tmp_path, column):
    text = pa.array([b"caf\xe9", b"b"]).view(pa.string())
    pq.write_table(pa.table({"x": [1.0, 2.0], column: text}), tmp_path / "d.parquet")
    with pytest.raises(InvalidData, match=f"column '{column}': cannot be read as string: .*UTF-?8"):
        open_source(tmp_path / "d.parquet", id="id" if column == "id" else None)


@given(
    values=st.lists(st.none() | st.integers(0, 1), max_size=40),
    start=st.integers(0, 9),
    kind=st.sampled_from([pa.bool_(), pa.int8(), pa.uint16(), pa.int64(), pa.float16(), pa.float32(), pa.float64()]),
)
def test_numbers_are_those_of_arrow(values, start, kind):
    array = pa.array([None if v is None else kind.to_pandas_dtype()(v) for v in values], kind).slice(start)
    present = array.drop_null()
    assert numbers_of(present).tolist() == present.to_pylist()
    assert numbers_of(present).dtype == kind.to_pandas_dtype()
    assert not numbers_of(present).flags.writeable
    numbers = numbers_of(array)
    assert [None if np.isnan(v) else v for v in numbers.astype(float)] == array.to_pylist()
    if kind in {pa.int8(), pa.int64()}:
        assert numbers_of(array, null=-1).tolist() == [-1 if v is None else v for v in array.to_pylist()]
