"""Choice of a storage by the scheme of a location."""

import pickle
from pathlib import Path

import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, StorageUnsupported
from softlabels.store import collect_garbage, create_or_open, describe_store, open_storage, repair
from softlabels.store.storage.posix import PosixStorage
from tests.corpus import forging

REMOTE = ["ftp://host/labels", "nfs+x://h/a"]


@pytest.mark.parametrize("location", REMOTE)
@pytest.mark.parametrize("kind", [str, Path], ids=["text", "path"])
def test_a_scheme_without_a_storage_is_an_error_and_makes_nothing(tmp_path, monkeypatch, location, kind):
    monkeypatch.chdir(tmp_path)
    local = forging.make(Path("local"), "topk-zarr")
    before = sorted(tmp_path.rglob("*"))
    named = kind(location)
    verbs = [
        lambda: sl.open(named),
        lambda: sl.seal(named),
        lambda: sl.verify(named),
        lambda: repair(named),
        lambda: collect_garbage(named),
        lambda: describe_store(named),
        lambda: create_or_open(named, forging.descriptor("topk-zarr")),
        lambda: sl.create(named, heads={"logits": sl.Head(classes=3, encoding="dense:f16")}, teacher="t"),
        lambda: sl.merge([local, named], "merged"),
        lambda: sl.merge([local, local], named),
    ]
    for verb in verbs:
        with pytest.raises(
            StorageUnsupported, match=r"unsupported storage, got scheme .*; expected a directory"
        ) as error:
            verb()
        assert pickle.loads(pickle.dumps(error.value)).message == error.value.message  # noqa: S301  made here
        assert error.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("location", ["s3:team/labels", "HTTPS:host", "hf:datasets/a/b"])
def test_a_url_without_slashes_makes_no_directory(tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match=r"a URL without slashes, got \w+:; expected [a-z0-9]+://\w"):
        sl.create(location, heads={"logits": sl.Head(classes=3, encoding="dense:f16")}, teacher="t")
    assert list(tmp_path.iterdir()) == []
    assert isinstance(open_storage(f"./{location}"), PosixStorage)


def test_a_file_url_names_a_directory(tmp_path):
    forging.make(tmp_path / "a store", "topk-zarr")
    for url in (f"file://{tmp_path}/a store", f"file://{tmp_path}/a%20store", f"FILE:{tmp_path}/a store"):
        assert sl.open(url).rows == forging.ROWS
    with pytest.raises(InvalidArgument, match="a file URL with a host"):
        open_storage("file://host/x")


def test_an_open_storage_is_a_location(tmp_path):
    root = forging.make(tmp_path / "s", "topk-zarr")
    storage = PosixStorage(root)
    assert open_storage(storage) is storage
    assert sl.open(storage).storage is storage
    assert sl.verify(storage, deep=True).ok


def test_a_new_scheme_is_a_new_module(tmp_path, monkeypatch):
    """Nothing else has to be changed."""
    from softlabels.store.storage import schemes

    (tmp_path / "toy.py").write_text(
        "from softlabels.store.storage.posix import PosixStorage\n"
        "def open_location(location):\n"
        f"    return PosixStorage({str(tmp_path)!r} + location.removeprefix('toy:/'))\n"
    )
    monkeypatch.setattr(schemes, "__path__", [*schemes.__path__, str(tmp_path)])
    store = create_or_open("toy://labels", forging.descriptor("topk-zarr"))
    assert (tmp_path / "labels" / "softlabels.json").exists()
    assert list(store.missing()) == [0, 1]
