"""Images as data: folders of classes, tables of files and of bytes, pairs of image and mask."""

import os
import pickle
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softlabels.errors import InvalidArgument, InvalidData, UnreadableRow
from softlabels.sources import DistinctSource, as_source, map_images, open_source
from softlabels.sources.pictures import is_pictures
from softlabels.views import center_view

ROWS = np.arange(6)


def photo(seed, height=12, width=18):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
    """photos/CLASS/N.png of one size."""
    for row in ROWS:
        path = tmp_path / "photos" / ("cat", "dog")[row // 3] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(row)).save(path)
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def paths_of(folder):
    return sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))


def test_class_folders_have_images_and_labels(photos):
    source = open_source(photos)
    assert (len(source), source.input_shape, source.class_names) == (6, (12, 18, 3), ("cat", "dog"))
    rows = np.array([4, 0])
    np.testing.assert_array_equal(source.inputs(rows), [photo(4), photo(0)])
    assert source.labels(rows).tolist() == [1, 0]
    assert source.columns.computed
    assert source.inputs(rows[:0]).shape == (0, 12, 18, 3)


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "large"])
def test_a_file_that_would_hang_or_fill_the_memory_is_a_bad_row(photos, kind):
    path = paths_of(photos)[1]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**34)
    source = open_source(photos)
    if kind == "directory":  # it is not there any more
        path = paths_of(photos)[1]
        path.unlink()
        path.mkdir()
    with pytest.raises(UnreadableRow, match=r"regular file|more than"):
        source.inputs(ROWS[:3])


def test_every_container_of_the_same_files_has_the_same_keys_and_pixels(photos, tmp_path):
    files = paths_of(photos)
    relative = [str(path.relative_to(tmp_path)) for path in files]
    contents = [path.read_bytes() for path in files]
    structs = pa.array([{"bytes": data, "path": None} for data in contents])
    references = pa.array([{"bytes": None, "path": path} for path in relative])
    pq.write_table(pa.table({"image": structs, "angle": np.arange(6.0)}), tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(pa.table({"image": pa.array(contents)}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"img": references}), tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text("\n".join(["file_name,label", *(f"{path},1" for path in relative)]))
    (tmp_path / "e.jsonl").write_text("\n".join(f'{{"image": "{path}"}}' for path in relative))
    with pa.OSFile(str(tmp_path / "f.arrow"), "wb") as file, pa.ipc.new_file(file, pa.schema({"x": structs.type})) as w:
        w.write_batch(pa.record_batch([structs], ["x"]))
    folder = open_source(photos)
    for name in ("a.parquet", "b.parquet", "c.parquet", "d.csv", "e.jsonl", "f.arrow"):
        source = open_source(tmp_path / name)
        assert source.fingerprint == folder.fingerprint, name
        np.testing.assert_array_equal(source.inputs(ROWS[::-1]), folder.inputs(ROWS[::-1]))


def test_the_source_travels_to_another_process(photos):
    source = pickle.loads(pickle.dumps(open_source(photos, size=8)))  # noqa: S301
    np.testing.assert_array_equal(source.inputs(np.array([1])), open_source(photos, size=8).inputs(np.array([1])))


def test_splits_are_folders_above_the_classes(photos, tmp_path):
    for split in ("Train", "val"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / split).symlink_to(photos)
    source = open_source(tmp_path / "data")
    assert source.splits() == ("train", "validation")
    assert source.class_names == ("cat", "dog")
    assert len(source.split("train")) == 6
    assert len(DistinctSource(source)) == 6
    assert len(map_images(DistinctSource(source), ROWS, lambda _place, image: image)) == 6


def test_distinct_images_of_several_sizes_stay_distinct_at_any_size(photos, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / split).symlink_to(photos)
    distinct = DistinctSource(open_source(tmp_path / "data"))
    assert is_pictures(distinct)
    sized = as_source(distinct, size=8)
    assert (len(sized), sized.size, sized.input_shape) == (6, 8, (8, 8, 3))
    assert (len(as_source(sized, size=4)), as_source(sized, size=4).input_shape) == (6, (4, 4, 3))
    np.testing.assert_array_equal(sized.inputs(ROWS), open_source(photos, size=8).inputs(ROWS))


def test_a_folder_without_classes_has_no_labels(photos):
    source = open_source(photos / "cat")
    assert (len(source), source.classes) == (3, None)
    (photos / "stray.png").write_bytes(paths_of(photos)[0].read_bytes())
    with pytest.raises(InvalidData, match=r"inside and outside of class folders, got stray\.png"):
        open_source(photos)


def test_images_of_several_sizes_need_a_size(photos):
    Image.fromarray(photo(9, 20, 10)).save(photos / "dog" / "9.png")
    with pytest.raises(InvalidData, match=r"several sizes, got 12x18 in row 0 and 20x10 in row 6.*size="):
        open_source(photos)
    source = open_source(photos, size=8)
    assert source.input_shape == (8, 8, 3)
    np.testing.assert_array_equal(source.inputs(np.array([6]))[0], center_view(photo(9, 20, 10), 8))
    assert source.fingerprint == open_source(photos, size=5).fingerprint
    shapes = map_images(source, np.array([6, 0]), lambda _place, image: image.shape)
    assert shapes == [(20, 10, 3), (12, 18, 3)]


def test_a_size_applies_to_arrays_of_images_and_to_their_masks():
    images = np.stack([photo(row) for row in ROWS])
    masks = np.arange(6 * 12 * 18).reshape(6, 12, 18) % 3
    source = as_source({"x": images, "mask": masks}, targets={"road": "mask"}, size=6)
    assert source.inputs(ROWS).shape == (6, 6, 6, 3)
    assert source.targets["road"].shape == (6, 6)
    np.testing.assert_array_equal(source.target("road", ROWS), masks[:, 1::2, 4:15:2])
    assert as_source("digits", size=16).inputs(ROWS).shape == (6, 16, 16, 1)
    with pytest.raises(InvalidData, match=r"inputs are no images, got float64 of shape \(3,\)"):
        as_source(np.zeros((2, 3)), size=6)
    with pytest.raises(InvalidArgument, match="size: out of range, got 0"):
        as_source(images, size=0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"a text"), "starts with 'a text'"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "truncated|incomplete"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_with_its_row(photos, damage, reason):
    table = pa.table({"image": [str(path) for path in paths_of(photos)]})
    paths = paths_of(photos)
    for row in (2, 4):
        damage(paths[row])
    source = as_source(table)
    assert source.inputs(np.array([0, 1])).shape == (2, 12, 18, 3)
    with pytest.raises(UnreadableRow, match=r"row 2 \(.*2\.png\): the image cannot be read, and 1 more") as error:
        source.inputs(np.array([0, 2, 4]))
    assert error.value.rows == (2, 4)
    assert "2.png" in error.value.reason
    with pytest.raises(UnreadableRow, match=reason):
        as_source(table, size=4).inputs(np.array([4]))


def test_data_without_a_readable_image_is_refused(photos):
    for path in paths_of(photos):
        path.write_bytes(b"x")
    with pytest.raises(InvalidData, match="no image can be read"):
        open_source(photos)


def test_class_folders_that_differ_in_case_or_unicode_form_are_refused(photos):
    name = "caf\u00e9"
    for alike in (("Bird", "bird"), (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))):
        for folder in alike:
            (photos / folder).mkdir()
            (photos / folder / "x.png").write_bytes(paths_of(photos / "cat")[0].read_bytes())
        with pytest.raises(InvalidData, match="differ only in case or Unicode form"):
            open_source(photos)
        for folder in alike:
            (photos / folder / "x.png").unlink()


@pytest.fixture
def pairs(tmp_path):
    """drive/images/N.png beside drive/masks/N.png of the same size, which differs between rows."""
    for row in ROWS:
        for folder, pixels in (
            ("images", photo(row, 12 + row)),
            ("masks", np.full((12 + row, 18), row % 3, np.uint8)),
        ):
            path = tmp_path / "drive" / folder / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "drive"


def test_pairs_of_image_and_mask(pairs):
    source = open_source(pairs, targets={"road": "masks"}, size=8)
    target = source.targets["road"]
    assert (target.kind, target.classes, target.shape, target.column) == ("pixels", 3, (8, 8), "masks")
    assert source.target("road", np.array([4, 0]))[:, 3, 3].tolist() == [1, 0]
    assert source.columns.inputs == ("image",)
    table = pa.table({"image": [str(pairs / f"images/{r}.png") for r in ROWS]})
    table = table.append_column("m", pa.array([{"bytes": (pairs / f"masks/{r}.png").read_bytes()} for r in ROWS]))
    again = as_source(table, input="image", targets={"road": "m"}, size=8)
    np.testing.assert_array_equal(again.target("road", ROWS), source.target("road", ROWS))


def test_masks_are_checked_against_their_images(pairs):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(pairs / "masks/3.png")
    with pytest.raises(InvalidData, match=r"row 3 \(masks/3\.png\): the mask has another size .* got 5x5.*15x18"):
        open_source(pairs, targets={"road": "masks"}, size=8)
    Image.fromarray(np.full((15, 18), 40_000, np.uint16)).save(pairs / "masks/3.png")
    with pytest.raises(InvalidData, match=r"row 3 .*not a mask of class numbers, got 40000"):
        open_source(pairs, targets={"road": "masks"}, size=8)
    Image.fromarray(photo(3, 15)).save(pairs / "masks/3.png")
    source = open_source(pairs, targets={"road": "masks"}, size=8)
    with pytest.raises(UnreadableRow, match="a mask of mode RGB"):
        source.target("road", ROWS)
    (pairs / "masks/3.png").unlink()
    with pytest.raises(InvalidData, match="images and masks differ in their files, got 3 in images alone"):
        open_source(pairs, targets={"road": "masks"}, size=8)
