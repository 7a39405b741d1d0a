"""npz: every dtype is understood or refused, flipped bits are noticed, and truncation in use is an error."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources import content_keys, open_source
from softlabels.sources.kinds import npz

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def opened(tmp_path, *, save=np.savez, **arrays):
    save(tmp_path / "d.npz", **arrays)
    return open_source(tmp_path / "d.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [X, X.astype(">f4"), np.asfortranarray(X)], ids=["little", "big", "fortran"])
def test_byte_and_memory_order_are_no_content(tmp_path, save, array):
    source = opened(tmp_path, save=save, x=array)
    inputs = source.inputs(np.array([3, 0]))
    assert inputs.dtype == np.dtype("<f4")
    assert inputs.flags.owndata
    assert (inputs == X[[3, 0]]).all()
    assert (source.keys() == content_keys(X)).all()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([0, 1, 2, 1], ">i4"), [0, 1, 2, 1]),
        (np.array([[0], [1], [2], [1]]), [0, 1, 2, 1]),
        (np.array([0, np.nan, 2, 1], np.float32), [0, -1, 2, 1]),
        (np.array([0, 1, 1, 0], bool), [0, 1, 1, 0]),
        (np.array(["b", "a", "b", ""]), [1, 0, 1, -1]),
        (np.array([b"b", b"a", b"b", b"a"]), [1, 0, 1, 0]),
    ],
)
def test_labels_of_every_safe_dtype_are_understood(tmp_path, labels, expected):
    assert opened(tmp_path, x=X, label=labels).labels(np.arange(4)).tolist() == expected


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(4, [("a", "f4"), ("b", "i4")])}, "array 'x': unsupported dtype"),
        ({"x": X.astype(complex)}, "unsupported dtype complex128"),
        ({"x": X.astype(np.longdouble)}, "unsupported dtype float128"),
        ({"x": np.arange(4).astype("M8[s]")}, "unsupported dtype datetime64"),
        ({"x": np.zeros(4, "V8")}, "unsupported dtype"),
        ({"x": np.array(["a", "b"])}, "values of type text cannot be the input"),
        ({"x": np.array([{"a": 1}], object)}, "Python objects"),
        ({"x": X, "label": np.array(["a", None, "b", "c"], object)}, "array 'label': holds Python objects"),
        ({"x": X, "label": np.eye(3)[[0, 1, 2, 1]]}, "row 0: expected one value per row, got a list of 3"),
        ({"x": X, "label": np.arange(3)}, "must have equal numbers of rows, got x: 4, label: 3"),
        ({"x": np.zeros((4, 0))}, "at least one value|hold no values"),
        ({"x": np.zeros((0, 3))}, "has no rows"),
    ],
)
def test_arrays_that_are_no_inputs_or_labels_are_typed_errors(tmp_path, arrays, message):
    with pytest.raises(InvalidData, match=message):
        opened(tmp_path, **arrays)


def test_several_arrays_that_could_be_the_input_are_an_error_that_lists_them(tmp_path):
    with pytest.raises(InvalidArgument, match="several columns could be the model's input, got 'b', 'a'"):
        opened(tmp_path, a=X[:, 0], b=X)


@pytest.mark.parametrize("bound", [npz.MAX_IN_MEMORY, 0], ids=["in memory", "in file"])
def test_a_flipped_bit_is_noticed_wherever_the_rows_are_read_from(tmp_path, monkeypatch, bound):
    monkeypatch.setattr(npz, "MAX_IN_MEMORY", bound)
    path = tmp_path / "d.npz"
    np.savez(path, x=np.arange(4000.0).reshape(1000, 4))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)
    with pytest.raises(InvalidData, match="array 'x': cannot be read as npz: Bad CRC-32"):
        open_source(path)


def test_rows_in_a_file_are_read_at_random_and_by_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_IN_MEMORY", 0)
    values = np.arange(12_000).reshape(1000, 3, 4)
    for save in (np.savez, np.savez_compressed):
        source = opened(tmp_path, save=save, x=values)
        rows = np.random.default_rng(1).integers(0, 1000, 300)
        assert (source.inputs(rows) == values[rows]).all()
        assert (pickle.loads(pickle.dumps(source)).inputs(rows) == values[rows]).all()  # noqa: S301  our own bytes


def test_a_file_that_is_truncated_in_use_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_IN_MEMORY", 0)
    source = opened(tmp_path, x=np.arange(400_000.0).reshape(1000, 400))
    os.truncate(tmp_path / "d.npz", 4096)
    with pytest.raises(InvalidData, match="it was truncated while in use"):
        source.inputs(np.array([999]))


def test_an_array_shorter_or_longer_than_its_shape_is_refused_before_it_is_read(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**10)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + b"\0" * 64)
    with pytest.raises(InvalidData, match="not what its shape"):
        open_source(tmp_path / "d.npz")
