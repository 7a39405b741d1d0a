"""One way in for data: paths, arrays, tensors, frames, datasets and sources; a pipe is refused and not waited for."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from softlabels.errors import ColumnMissing, DataNotFound, InvalidArgument, InvalidData
from softlabels.sources import DistinctSource, as_source, content_keys, open_source

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 1, 0])


class Frame:
    """Something with Arrow's stream interface."""

    def __arrow_c_stream__(self, requested_schema=None):
        return pa.table({"x": list(X), "label": Y}).__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "data",
    [
        {"x": X, "label": Y},
        {"input": torch.from_numpy(X), "label": torch.from_numpy(Y)},
        (X, Y),
        (torch.from_numpy(X), Y.tolist()),
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        pa.table({"x": list(X), "label": Y}),
        Frame(),
    ],
    ids=["arrays", "tensors", "pair", "mixed pair", "tensor dataset", "table", "frame"],
)
def test_whatever_holds_examples_is_a_source(data):
    for source in (as_source(data), pickle.loads(pickle.dumps(as_source(data)))):  # noqa: S301  our own bytes
        assert (source.keys() == content_keys(X)).all()
        assert (source.inputs(np.array([2, 0])) == X[[2, 0]]).all()
        assert source.labels(np.arange(4)).tolist() == Y.tolist()


def test_inputs_alone_and_open_sources_and_paths_are_sources(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, label=Y)
    source = open_source(tmp_path / "d.npz")
    assert as_source(source) is source
    assert as_source(DistinctSource(source)).fingerprint == source.fingerprint
    assert as_source(str(tmp_path / "d.npz")).fingerprint == as_source(X).fingerprint == source.fingerprint
    assert as_source(torch.from_numpy(X)).classes is None
    assert as_source(source, class_names=["a", "b"]).class_names == ("a", "b")


def test_texts_beside_missing_ones_are_labels():
    source = as_source({"x": X, "label": np.array(["b", None, "a", np.nan], object)})
    assert source.labels(np.arange(4)).tolist() == [1, -1, 0, -1]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow", ".npz"])
def test_an_empty_file_is_a_typed_error(tmp_path, suffix):
    (tmp_path / f"d{suffix}").touch()
    with pytest.raises(InvalidData, match=r"cannot be read|has no rows"):
        open_source(tmp_path / f"d{suffix}")


def test_arrays_of_the_caller_are_not_shared():
    array = X.copy()
    source = as_source(array)
    source.inputs(np.arange(4))[:] = -1
    assert (array == X).all()


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (7, {}, InvalidArgument, "unsupported type int; expected a path, a source, arrays"),
        ([1, 2], {}, InvalidArgument, r"unsupported type list.*DatasetSource\(dataset, ids=...\)"),
        ({"x": 3.0}, {}, InvalidData, "column 'x': expected one value or array per row"),
        ({"x": torch.zeros(3, dtype=torch.bfloat16)}, {}, InvalidData, "column 'x': cannot be read as an array"),
        ({"x": np.ma.masked_less(X, 1)}, {}, InvalidData, "column 'x': masked values are not supported"),
        ({"x": [[1, 2], [3]]}, {}, InvalidData, "column 'x': cannot be read as an array"),
        ({"x": X}, {"label": "y"}, ColumnMissing, "no column 'y'"),
        ((X, Y[:2]), {}, InvalidData, "must have equal numbers of rows, got input: 4, label: 2"),
        (X[:0], {}, InvalidData, "has no rows"),
        (as_source(X), {"input": "x"}, InvalidArgument, "an open source has its columns already"),
    ],
)
def test_what_holds_no_examples_is_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        as_source(data, **options)


def test_several_splits_of_datasets_are_refused():
    datasets = pytest.importorskip("datasets")
    data = datasets.DatasetDict(train=datasets.Dataset.from_dict({"x": [1.0]}))
    with pytest.raises(InvalidArgument, match=r"Name one split, such as data\[\"train\"\]"):
        as_source(data)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow", ".npz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"d{suffix}")
    with pytest.raises(InvalidArgument, match="must be a regular file, got a device or pipe"):
        open_source(tmp_path / f"d{suffix}")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("d.pq", InvalidArgument, r"unsupported file type '\.pq'; supported: .*\.parquet.*, digits"),
        ("d.json", InvalidArgument, r"Did you mean '\.jsonl'\?"),
        ("d.parquett", InvalidArgument, r"Did you mean '\.parquet'\?"),
        ("d", InvalidArgument, "unsupported file type ''"),
        ("digit", DataNotFound, r"no such file or folder\. Did you mean 'digits'\?"),
        ("nothing.csv", DataNotFound, r"no such file or folder\. Check the path"),
        (".", InvalidArgument, "got a directory without images; expected a file, a Zarr group, or a directory"),
        ("labels", InvalidArgument, "got a store of labels; expected a file, a Zarr group, or a directory"),
        ("dd.json", DataNotFound, r"no such file or folder\. Did you mean d\.json\?"),
        ("none/d.csv", DataNotFound, "no directory none"),
        ("s3://bucket/d.parquet", InvalidArgument, "must be a local file, got a URL"),
        ("d\0.csv", DataNotFound, "no such file|cannot be opened"),
        ("d" * 300 + ".csv", DataNotFound, "no such file|cannot be opened"),
    ],
)
def test_files_that_cannot_be_opened_say_what_can(tmp_path, monkeypatch, spec, error, message):
    monkeypatch.chdir(tmp_path)
    for name in ("d.pq", "d.json", "d.parquett", "d"):
        (tmp_path / name).touch()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "softlabels.json").touch()
    with pytest.raises(error, match=message):
        open_source(spec)


def test_an_image_in_place_of_its_folder_is_an_error_that_names_the_folder(tmp_path):
    (tmp_path / "d.jpg").touch()
    with pytest.raises(InvalidArgument, match=r"supported: a folder of images, .*\. Name the folder of the images"):
        open_source(tmp_path / "d.jpg")


@pytest.mark.parametrize("kind", ["npz", "parquet", "csv"])
def test_a_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x=X)
    pq.write_table(pa.table({"a": X[:, 0]}), "d.parquet", row_group_size=1)
    (tmp_path / "d.csv").write_text("a\n0\n3\n6\n9\n")
    source = open_source(f"d.{kind}")
    expected = source.inputs(np.arange(4))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (source.inputs(np.arange(4)) == expected).all()
    assert (pickle.loads(pickle.dumps(source)).inputs(np.arange(4)) == expected).all()  # noqa: S301  our own bytes
    assert source.spec == f"d.{kind}"
