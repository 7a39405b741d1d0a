"""Masks follow their images: every transform moves class numbers as it moves pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.views import center_mask, center_view, parse_policy

KEY = b"0123456789abcdef"


def blocks(height, width, cell=16):
    """An image of large cells of few colours, and the mask that numbers the colours."""
    y, x = np.mgrid[:height, :width] // cell
    mask = ((y + 2 * x) % 5).astype(np.int64)
    return np.repeat((mask * 60).astype(np.uint8)[..., None], 3, axis=2), mask


@pytest.mark.parametrize("spec", ["randcrop", "flip", "randcrop,flip", "randaugment:n=1:m=4", "erase:p=1", "color"])
@pytest.mark.parametrize("size", [None, 48])
def test_classes_lie_where_their_colours_are(spec, size):
    image, mask = blocks(96, 128)
    policy = parse_policy(spec)
    agreement = []
    for view in range(12):
        options = {"key": KEY, "view": view, "seed": 3, "size": size}
        pixels, classes = policy.view(image, **options), policy.mask(mask, **options)
        assert classes.shape == pixels.shape[:2]
        assert set(np.unique(classes)) <= {-1, 0, 1, 2, 3, 4}
        if spec in {"randcrop", "flip", "randcrop,flip", "erase:p=1"}:
            seen = classes >= 0
            agreement.append((np.abs(pixels[seen][:, 0] / 60 - classes[seen]) < 0.5).mean())
        if spec == "color":
            expected = mask if size is None else center_mask(mask, size)
            np.testing.assert_array_equal(classes, expected)
    assert not agreement or np.mean(agreement) > 0.9


def test_pixels_from_outside_the_image_and_erased_ones_are_ignored():
    _, mask = blocks(64, 64)
    erased = parse_policy("erase:p=1:low=0.2:high=0.3").mask(mask, key=KEY, view=0, seed=0)
    assert 0.15 < (erased == -1).mean() < 0.35
    np.testing.assert_array_equal(erased[erased >= 0], mask[erased >= 0])
    moved = [parse_policy("randaugment:n=2:m=10").mask(mask, key=KEY, view=view, seed=0) for view in range(20)]
    assert any((one == -1).any() for one in moved)


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 50), highest=st.integers(0, 32_000))
def test_a_mask_of_one_class_stays_one(height, width, size, highest):
    mask = np.full((height, width), highest, np.int64)
    assert (parse_policy("randcrop,flip").mask(mask, key=KEY, view=1, seed=2, size=size) == highest).all()
    assert (center_mask(mask, size) == highest).all()


def test_the_centre_of_image_and_mask_is_the_same():
    image, mask = blocks(96, 160, cell=32)
    pixels, classes = center_view(image, 48), center_mask(mask, 48)
    assert (np.abs(pixels[..., 0] / 60 - classes) < 0.5).mean() > 0.95
