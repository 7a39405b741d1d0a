"""WebDataset tars and Zarr groups as data."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import webdataset
import zarr
from PIL import Image

from softlabels.errors import InvalidData, SoftLabelsError
from softlabels.sources import open_source

ROWS = np.arange(5)


def photo(seed, height=12):
    return np.random.default_rng(seed).integers(0, 255, (height, 16, 3), np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sample(row, **extra):
    mask = np.full((12, 16), row % 3, np.uint8)
    return {
        "__key__": f"train/{row:04}", "png": png(photo(row)), "cls": str(row % 2).encode(), "seg.png": png(mask),
        "json": json.dumps({"angle": row / 2, "place": "road"}).encode(), **extra,
    }  # fmt: skip


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "shards" / "drive-000.tar"
    path.parent.mkdir()
    with webdataset.TarWriter(str(path)) as writer:
        for row in ROWS:
            file = io.BytesIO()
            np.save(file, np.array([row, 2.0], np.float32))
            writer.write(sample(row, **{"path.npy": file.getvalue()}))
    return path


TARGETS = {"road": "seg", "steering": "angle", "path": "path.npy"}


def test_a_row_is_the_files_of_one_name(tar):
    source = open_source(tar, targets=TARGETS)
    rows = np.array([3, 0])
    np.testing.assert_array_equal(source.inputs(rows), [photo(3), photo(0)])
    assert source.labels(rows).tolist() == [1, 0]
    assert source.target("steering", rows).tolist() == [[1.5], [0.0]]
    assert source.target("path", rows).tolist() == [[3.0, 2.0], [0.0, 2.0]]
    assert source.target("road", rows)[:, 5, 5].tolist() == [0, 0]
    assert source.targets["road"].classes == 3
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    np.testing.assert_array_equal(again.inputs(rows), source.inputs(rows))


def test_a_folder_of_tars_is_one_dataset(tar):
    with webdataset.TarWriter(str(tar.with_name("drive-001.tar"))) as writer:
        writer.write(sample(9))
    source = open_source(tar.parent)
    assert len(source) == 6
    np.testing.assert_array_equal(source.inputs(np.array([5]))[0], photo(9))


def test_keys_are_those_of_the_same_files_in_a_folder(tar, tmp_path):
    (tmp_path / "photos").mkdir()
    for row in ROWS:
        (tmp_path / "photos" / f"{row}.png").write_bytes(png(photo(row)))
    assert open_source(tmp_path / "photos").fingerprint == open_source(tar).fingerprint


def test_damaged_tars_are_refused(tar):
    data = tar.read_bytes()
    for damaged in (data[: len(data) // 2], b"x" * 2000, b""):
        tar.write_bytes(damaged)
        with pytest.raises(InvalidData, match=r"drive-000\.tar"):
            open_source(tar, targets=TARGETS).inputs(ROWS)
    with tarfile.open(tar, "w") as archive:
        for body in (b"{", b"[1]"):
            info = tarfile.TarInfo("a.json")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    with pytest.raises(InvalidData, match="two files of column 'json'"):
        open_source(tar)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_of_a_zarr_group_are_columns(tmp_path, zarr_format):
    group = zarr.open_group(tmp_path / "drive.zarr", mode="w", zarr_format=zarr_format)
    images = np.stack([photo(row) for row in ROWS])
    masks = np.arange(5 * 12 * 16).reshape(5, 12, 16) % 3
    for name, values in {"image": images, "mask": masks, "angle": np.linspace(0, 1, 5), "label": ROWS % 2}.items():
        group.create_array(name, data=values, chunks=(2, *values.shape[1:]))
    source = open_source(tmp_path / "drive.zarr", targets={"road": "mask", "steering": "angle"}, size=8)
    assert source.inputs(np.array([4, 1, 1])).shape == (3, 8, 8, 3)
    again = pickle.loads(pickle.dumps(open_source(tmp_path / "drive.zarr", targets={"road": "mask"})))  # noqa: S301
    np.testing.assert_array_equal(again.inputs(np.array([4, 1, 1])), images[[4, 1, 1]])
    np.testing.assert_array_equal(again.target("road", np.array([4, 1, 1])), masks[[4, 1, 1]])
    assert source.labels(np.array([3, 2])).tolist() == [1, 0]
    assert source.target("steering", np.array([4, 2])).tolist() == [[1.0], [0.5]]


def test_codecs_that_could_run_code_are_refused(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("image", data=np.zeros((3, 4), np.uint8), chunks=(3, 4))
    path = tmp_path / "a.zarr" / "image" / ".zarray"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"filters": [{"id": "pickle", "protocol": 5}]}))
    with pytest.raises(InvalidData, match=r"codec|Zarr"):
        open_source(tmp_path / "a.zarr")


def test_a_damaged_chunk_is_an_error(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("image", data=np.arange(12.0).reshape(3, 4), chunks=(1, 4))
    source = open_source(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "image" / "c" / "1" / "0").write_bytes(b"xxx")
    with pytest.raises(InvalidData, match="cannot be read"):
        source.inputs(np.arange(3))


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_chunk_that_is_no_regular_file_is_refused(tmp_path, kind):
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("x", data=np.ones((3, 4)))
    chunk = tmp_path / "a.zarr" / "x" / "c" / "0" / "0"
    chunk.unlink()
    os.mkfifo(chunk) if kind == "fifo" else chunk.symlink_to("/dev/zero")
    with pytest.raises(InvalidData, match="is no regular file"):
        open_source(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("shape", "chunks"), [((3, 2**40), (1, 4)), ((2**30, 2), (2**30, 2)), ((3, 2**31), (3, 2**31))]
)
def test_an_array_that_claims_more_memory_than_a_block_may_take_is_refused(tmp_path, shape, chunks):
    """No chunk of it is stored, so it takes a few hundred bytes."""
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("x", shape=shape, chunks=chunks, dtype="f4")
    with pytest.raises(InvalidData, match="takes too much memory"):
        open_source(tmp_path / "a.zarr")


def test_a_saved_dataset_has_images_and_class_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["dog", "cat"])})
    rows = {"picture": [{"bytes": png(photo(row)), "path": None} for row in ROWS], "kind": [row % 2 for row in ROWS]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved", label="kind")
    assert source.class_names == ("dog", "cat")
    np.testing.assert_array_equal(source.inputs(np.array([4, 0])), [photo(4), photo(0)])


@pytest.mark.parametrize("name", ["dataset_info.json", "state.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff", None], ids=repr)
def test_a_forged_file_of_a_saved_dataset_is_an_error_of_ours(tmp_path, name, content):
    """None: a FIFO. The library checks no document, and a prepared Arrow file can crash the process."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"x": [[1.0, 2.0]] * 3, "label": [0, 1, 0]}).save_to_disk(str(tmp_path / "saved"))
    path = tmp_path / "saved" / name
    path.unlink()
    os.mkfifo(path) if content is None else path.write_bytes(content)
    try:
        open_source(tmp_path / "saved")
    except SoftLabelsError:
        return
    assert (name, content) == ("dataset_info.json", b"{}"), "the schema of the Arrow file is enough"


def test_a_saved_dataset_names_files_of_its_own_folder_alone(tmp_path):
    datasets = pytest.importorskip("datasets")
    for folder in ("saved", "other"):
        datasets.Dataset.from_dict({"x": [[1.0, 2.0]] * 3}).save_to_disk(str(tmp_path / folder))
    state = tmp_path / "saved" / "state.json"
    state.write_text(state.read_text().replace("data-0", "../other/data-0"))
    with pytest.raises(InvalidData, match=r"no regular file '\.\./other/data-0"):
        open_source(tmp_path / "saved")
