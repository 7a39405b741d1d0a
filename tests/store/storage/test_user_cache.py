"""Files of the user's cache appear whole or not at all, and a disk that refuses is no error."""

import pytest

from softlabels.store.storage import user_cache


def test_the_directory_is_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache.cache_directory() == tmp_path / "softlabels"


def test_each_place_has_a_file_of_its_own():
    paths = {user_cache.cached_path("keys", place, ".bin") for place in ("a", "b", "a")}
    assert len(paths) == 2
    assert {path.parent for path in paths} == {user_cache.cache_directory() / "keys"}


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "file.bin"
    assert user_cache.write_cached(path, b"first")
    assert user_cache.write_cached(path, memoryview(b"second"))
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/below.bin", "directory"], ids=["no directory", "no file"])
def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, name):
    (tmp_path / "file").write_bytes(b"here")
    (tmp_path / "directory" / "full").mkdir(parents=True)
    assert not user_cache.write_cached(tmp_path / name, b"data")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["directory", "file"]
