"""Road scenes: a function of seed and number, with classes and steering that follow from their geometry."""

import numpy as np
import pytest

from softlabels.sources.roads import MARKING, PIXEL_CLASSES, ROAD, SKY, TERRAIN, VEHICLE, render

SCENES = 300


@pytest.fixture(scope="module")
def scenes():
    return [render(number) for number in range(SCENES)]


def test_a_scene_depends_on_seed_and_number_alone(scenes):
    again = render(7)
    np.testing.assert_array_equal(again.image, scenes[7].image)
    np.testing.assert_array_equal(again.classes, scenes[7].classes)
    assert again.steering == scenes[7].steering
    assert not np.array_equal(render(7, seed=1).image, again.image)
    assert len({scene.image.tobytes() for scene in scenes}) == SCENES


def test_layout(scenes):
    for scene in scenes:
        assert scene.image.dtype == scene.classes.dtype == np.uint8
        assert scene.image.shape == (64, 96, 3)
        assert scene.classes.shape == (64, 96)
        assert scene.classes.max() < len(PIXEL_CLASSES)
    assert render(0, height=32, width=40).image.shape == (32, 40, 3)


def test_every_class_occurs_and_road_below_sky(scenes):
    share = np.bincount(np.concatenate([scene.classes.ravel() for scene in scenes]), minlength=5) / (SCENES * 64 * 96)
    assert (share > [0.2, 0.05, 0.2, 0.005, 0.005]).all()
    for scene in scenes:
        assert set(np.unique(scene.classes[0])) <= {SKY, VEHICLE}
        assert SKY not in scene.classes[-1]
        sky_rows = np.flatnonzero((scene.classes == SKY).any(axis=1))
        assert sky_rows.max() < 64 * 0.46 + 1, "the horizon is at most 46 % from the top"


def test_steering_follows_the_lane(scenes):
    """The right lane's centre 12 m ahead, seen in the class map: its direction has the sign of the steering angle."""
    angles = np.array([scene.steering for scene in scenes])
    assert abs(angles.mean()) < 0.5
    assert 0.5 < angles.std() < 4
    assert np.abs(angles).max() < 10
    offsets = []
    for scene in scenes:
        rows = range(44, 56)
        lanes = [np.flatnonzero(np.isin(scene.classes[row], (ROAD, MARKING, VEHICLE))) for row in rows]
        offsets.append(np.mean([row.mean() if len(row) else 48 for row in lanes]))
    assert np.corrcoef(angles, offsets)[0, 1] > 0.5


def test_classes_show_in_the_image(scenes):
    """Markings are brighter than the road and terrain is coloured, in most scenes: there is something to learn."""
    brighter = [
        scene.image[scene.classes == MARKING].mean() > scene.image[scene.classes == ROAD].mean() for scene in scenes
    ]
    assert np.mean(brighter) > 0.95
    coloured = [
        np.ptp(scene.image[scene.classes == TERRAIN].mean(axis=0)) > np.ptp(scene.image[is_road].mean(axis=0))
        for scene in scenes
        if (scene.classes == TERRAIN).sum() > 50 and (is_road := scene.classes == ROAD).any()
    ]
    assert np.mean(coloured) > 0.95
