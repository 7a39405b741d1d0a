"""The cache of keys and sizes of image files."""

import os

import numpy as np
import pytest
from PIL import Image

from softlabels.sources import image_cache, image_column, open_source


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Return a folder of twelve images, of which every one may be entered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "MIN_BYTES", 0)
    monkeypatch.setattr(image_cache, "SETTLED_NS", 0)
    for number in range(12):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(path)
    (tmp_path / "photos" / "a" / "torn.png").write_bytes(b"torn")
    return tmp_path / "photos"


def test_a_second_opening_reads_no_file(photos, monkeypatch):
    first = open_source(photos)
    monkeypatch.setattr(image_column, "_read_file", lambda path: pytest.fail(f"{path} was read"))
    second = open_source(photos)
    assert second.fingerprint == first.fingerprint
    assert second.input_shape == first.input_shape == (6, 8, 3)


def test_a_file_that_changed_is_read_again_though_size_and_time_of_change_are_the_same(photos):
    before = open_source(photos).keys()
    path = photos / "a" / "2.png"
    status = path.stat()
    Image.new("RGB", (8, 6), (99, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = open_source(photos).keys()
    assert (before != after).any(axis=1).sum() == 1


def test_a_mark_may_end_with_zero_bytes(photos):
    marks = [b"m" * 15 + b"\0", b"m" * 14 + b"\0\0", b"m" * 16, b"\0" * 16]
    cache = image_cache.ImageCache(photos)
    for number, mark in enumerate(marks):
        cache.add(mark, image_cache.KnownImage(bytes([number]) * 16, None), 1)
    cache.save()
    again = image_cache.ImageCache(photos)
    assert [again.find(mark).key[0] for mark in marks] == [0, 1, 2, 3]


def test_a_damaged_cache_changes_nothing(photos, tmp_path):
    before = open_source(photos).keys()
    (path,) = (tmp_path / "cache" / "softlabels" / "images").iterdir()
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), 41):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert np.array_equal(open_source(photos).keys(), before)
    path.write_bytes(data[:-1])
    assert np.array_equal(open_source(photos).keys(), before)


def test_a_file_that_has_just_changed_is_not_entered(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "SETTLED_NS", 10**12)
    open_source(photos)
    assert list((tmp_path / "cache").rglob("*.bin")) == []


def test_a_cache_that_cannot_be_written_is_no_error(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_source(photos)) == 13


def test_files_of_two_tables_in_one_folder_are_remembered_together(photos, tmp_path):
    table = tmp_path / "photos" / "some.csv"
    table.write_text("image,label\na/0.png,x\na/2.png,y\n")
    open_source(photos)
    Image.new("RGB", (8, 6), (50, 0, 0)).save(photos / "a" / "0.png")
    open_source(table)
    cache = image_cache.ImageCache(photos)
    paths = [path for path in photos.rglob("*.png") if path.name != "torn.png"]
    assert all(cache.find(image_cache.mark_of(path.stat())) is not None for path in paths)
