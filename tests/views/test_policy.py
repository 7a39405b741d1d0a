"""Policies: specifications, random numbers by (seed, key, view), and bit-exact replay."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.views import POLICY_VERSION, parse_policy
from softlabels.views.policy import view_digest

EVERYTHING = "randcrop,flip,color,randaugment:n=3,erase:p=1"


def picture(height, width, channels=3):
    """A smooth image with some noise, of a content that does not depend on its size."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    waves = [127 + 100 * np.sin(5 * x + 3 * y + phase) for phase in range(channels)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def key(number):
    """A key of 16 bytes."""
    return np.random.default_rng(number).bytes(16)


def views(policy, image, count=20, **options):
    """The views of an image."""
    return [policy.view(image, key=key(1), view=view, seed=5, **options) for view in range(count)]


def test_a_specification_has_one_canonical_form():
    assert parse_policy("flip").spec == parse_policy("flip:p=0.50").spec == "flip:p=0.5"
    policy = parse_policy(" randcrop:scale=0.3 , flip,color:hue=0")
    assert parse_policy(policy.spec).spec == policy.spec
    assert policy.to_json() == {"spec": policy.spec, "version": 1}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flipp", "unknown transform, got 'flipp'.*Did you mean 'flip'"),
        ("", "unknown transform, got ''"),
        ("flip,", "unknown transform, got ''"),
        ("flip:q=1", "flip has no option 'q'; expected one of p"),
        ("flip:p=2", "flip:p is out of bounds, got '2'; expected 0 to 1"),
        ("flip:p=nan", "out of bounds, got 'nan'"),
        ("flip:p", "out of bounds, got ''"),
        ("randcrop:scale=0", "randcrop:scale is out of bounds"),
    ],
)
def test_an_invalid_specification_is_an_error_that_says_what_is_expected(spec, message):
    with pytest.raises(InvalidArgument, match=message):
        parse_policy(spec)


@given(st.integers(0, 2**64 - 1), st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1))))
def test_random_numbers_depend_on_seed_key_and_view_alone(seed, rows):
    """A batch gives each row what it gets alone."""
    policy = parse_policy("randcrop,flip")
    keys = np.array([list(name) for name, _ in rows], np.uint8).reshape(-1, 16)
    numbers = np.array([view for _, view in rows], np.int64)
    together = policy.uniforms(keys, numbers, seed)
    assert together.shape == (len(rows), 5)
    assert ((together >= 0) & (together < 1)).all()
    for i in range(len(rows)):
        np.testing.assert_array_equal(policy.uniforms(keys[i : i + 1], numbers[i : i + 1], seed)[0], together[i])


def test_random_numbers_look_uniform_and_independent():
    policy = parse_policy("randcrop")
    keys = np.random.default_rng(0).integers(0, 256, (1000, 16), dtype=np.uint8)
    draws = np.concatenate([policy.uniforms(keys, np.full(1000, view), 0) for view in range(20)])
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 5 / np.sqrt(12 * len(draws))
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert len(np.unique(draws)) == draws.size


def test_views_replay_bit_by_bit_whatever_the_threads_and_the_process():
    """The worst case: many threads on a large image, and a process of its own."""
    policy, image = parse_policy(EVERYTHING), picture(480, 640)
    digests = [view_digest(view) for view in views(policy, image, 6, size=224)]
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert [view_digest(view) for view in views(policy, image, 6, size=224)] == digests
    finally:
        torch.set_num_threads(threads)
    program = (
        "from tests.views.test_policy import *\n"
        "print([view_digest(v) for v in views(parse_policy(EVERYTHING), picture(480, 640), 6, size=224)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(digests)


def test_a_view_has_the_same_content_at_every_resolution():
    """A smooth image, so that what differs is interpolation alone: at most a few levels of 255."""
    policy = parse_policy("randcrop:scale=0.3,flip,color")
    small, large = picture(200, 300), picture(400, 600)
    for first, second in zip(views(policy, small, size=32), views(policy, large, size=32), strict=True):
        assert np.abs(first.astype(int) - second.astype(int)).max() <= 6
    for first, second in zip(views(policy, large, size=64), views(policy, large, size=32), strict=True):
        halved = first.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(halved - second).max() <= 8


def test_views_differ_from_each_other_and_between_examples():
    policy, image = parse_policy("randcrop,flip,color"), picture(64, 64)
    seen = {view_digest(view) for view in views(policy, image, 30)}
    assert len(seen) == 30
    assert view_digest(policy.view(image, key=key(2), view=0, seed=5)) not in seen


def test_a_policy_without_a_crop_cuts_the_centre_where_a_size_is_given():
    assert parse_policy("flip").view(picture(40, 60), key=key(0), view=0, seed=0, size=24).shape == (24, 24, 3)
    assert parse_policy("flip").view(picture(40, 60), key=key(0), view=0, seed=0).shape == (40, 60, 3)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["no channels", "two channels", "float", "empty"],
)
def test_an_image_of_another_layout_is_an_error(image):
    with pytest.raises(InvalidData, match="expected uint8 of shape"):
        parse_policy("flip").view(image, key=key(0), view=0, seed=0)


def test_colours_of_version_1_stay_what_they_were():
    """Pixels of elementwise arithmetic, which is the same on every processor; another one needs another version."""
    policy = parse_policy("flip,color:hue=0.5,erase:p=0.5")
    digests = [view_digest(view)[:8] for view in views(policy, picture(40, 30), 6)]
    assert (POLICY_VERSION, digests) == (
        1,
        ["7f792adb", "bbbf30ee", "8d34c61c", "60e29063", "5cbdcd77", "589aad56"],
    )
