"""Messages on locations that are no stores."""

import pytest

import softlabels as sl
from softlabels.errors import StoreCorrupt, StoreNotFound
from tests.corpus import forging


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(
        StoreNotFound, match=r"none: not a store of labels, got an empty directory, or no directory; .*Check"
    ):
        sl.open(tmp_path / "none")


def test_an_empty_directory(tmp_path):
    with pytest.raises(
        StoreNotFound, match="got an empty directory, or no directory; expected a directory that holds softlab"
    ):
        sl.open(tmp_path)


def test_a_file(tmp_path):
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(StoreNotFound, match=r"data\.csv: not a store of labels, got a file; expected a directory"):
        sl.open(tmp_path / "data.csv")


def test_a_directory_of_something_else(tmp_path):
    for name in ("run.json", "model.safetensors", "zebra", "metrics.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(StoreNotFound, match=r"got a directory with metrics\.csv, model\.safetensors, run\.json; expec"):
        sl.open(tmp_path)


def test_a_store_without_its_descriptor(tmp_path):
    root = forging.make(tmp_path / "s", "topk-zarr")
    (root / "softlabels.json").unlink()
    with pytest.raises(
        StoreCorrupt, match=r"the store has lost its softlabels\.json, which is missing; fetch it again"
    ):
        sl.open(root)


@pytest.mark.parametrize("open_one", [sl.open, sl.verify, sl.seal, sl.repair, sl.inspect])
def test_a_misspelt_store_is_answered_by_the_store_beside_it(tmp_path, open_one):
    forging.make(tmp_path / "labels", "topk-zarr")
    (tmp_path / "photo").mkdir()
    with pytest.raises(StoreNotFound, match=r"holds softlabels\.json\. Did you mean \S*/labels\?$"):
        open_one(tmp_path / "lables")
    with pytest.raises(StoreNotFound, match=r"Check the path, or make a store"):
        open_one(tmp_path / "photos")
