"""DATA roads:N: scenes by number with pixel classes and a steering angle."""

import pickle

import numpy as np
import pytest

from softlabels.errors import InvalidArgument
from softlabels.sources import as_source, describe_source, open_source
from softlabels.sources.kinds import roads
from softlabels.sources.roads import PIXEL_CLASSES, render


def test_rows_are_the_scenes_of_the_seed_at_the_size(monkeypatch):
    for cache_bytes in (roads.CACHE_BYTES, 0):
        monkeypatch.setattr(roads, "CACHE_BYTES", cache_bytes)
        source = open_source("roads:20,seed=3,size=16x24")
        rows = np.array([7, 2, 7])
        scenes = [render(row, seed=3, height=16, width=24) for row in rows]
        np.testing.assert_array_equal(source.inputs(rows), [scene.image for scene in scenes])
        np.testing.assert_array_equal(source.target("road", rows), [scene.classes for scene in scenes])
        angles = np.array([[scene.steering] for scene in scenes], np.float32)
        np.testing.assert_array_equal(source.target("steering", rows), angles)
        assert source.inputs(rows[:0]).shape == (0, 16, 24, 3)


def test_inputs_may_be_changed_by_the_caller():
    source = open_source("roads:3,size=16x24")
    source.inputs(np.arange(3))[:] = 0
    assert source.inputs(np.arange(3)).any()


def test_targets_have_names_and_units():
    source = open_source("roads:3")
    assert source.targets["road"].class_names == PIXEL_CLASSES
    assert source.targets["road"].shape == source.input_shape[:2] == (64, 96)
    assert source.targets["steering"].unit == "degrees"
    assert "target steering: computed, a number in degrees" in str(describe_source(source))
    with pytest.raises(InvalidArgument, match="no target 'logits'; it has: road, steering"):
        source.target("logits", np.arange(1))


def test_keys_name_the_scene_and_not_its_place():
    few, many = open_source("roads:5"), open_source("roads:9")
    assert (few.keys() == many.keys(0, 5)).all()
    assert len(np.unique(many.keys(), axis=0)) == 9
    for other in ("roads:5,seed=1", "roads:5,size=16x24"):
        assert not (few.keys() == open_source(other).keys()).all(axis=1).any()
    assert pickle.loads(pickle.dumps(few)).fingerprint == few.fingerprint  # noqa: S301


def test_a_fifth_of_the_scenes_is_the_split_test():
    source = open_source("roads:11")
    assert source.split("test").tolist() == [4, 9]
    assert sorted([*source.split("train"), *source.split("test")]) == list(range(11)) == source.split(None).tolist()
    with pytest.raises(InvalidArgument, match="no split 'dev'"):
        source.split("dev")


@pytest.mark.parametrize("spec", ["roads:", "roads:0", "roads:x", "roads:5,size=3x3", "roads:5,seed=-1", "roads:5,a=1"])
def test_invalid_scenes_are_refused(spec):
    with pytest.raises(InvalidArgument, match="expected roads:N"):
        open_source(spec)
    with pytest.raises(InvalidArgument, match="no columns to choose"):
        as_source("roads:5", targets={"road": "mask"})
