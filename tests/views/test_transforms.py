"""Transforms against formulas in float64, and their independence of everything but image and draws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels.views.policy import as_image, as_pixels
from softlabels.views.transforms import (
    TRANSFORMS,
    affine,
    center_crop,
    contrast,
    crop,
    crop_box,
    luma,
    resize,
    rotate_hue,
    saturation,
)  # fmt: skip

unit = st.floats(0, 1, exclude_max=True)


def picture(height=24, width=18, channels=3, seed=0):
    """A random image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@given(st.tuples(unit, unit, unit, unit), st.floats(0.001, 1), st.floats(1, 10), st.floats(0.05, 20))
def test_a_crop_lies_inside_the_image_and_never_exceeds_its_area(draws, scale, ratio, aspect):
    top, start, height, width = crop_box(np.array(draws), {"scale": scale, "ratio": ratio}, aspect)
    assert 0 < height <= 1 + 1e-12
    assert 0 < width <= 1 + 1e-12
    assert 0 <= top <= 1 - height + 1e-12
    assert 0 <= start <= 1 - width + 1e-12
    area = scale + (1 - scale) * draws[0]
    assert height * width <= area * (1 + 1e-9)
    ratio_drawn = math.exp((2 * draws[1] - 1) * math.log(ratio))
    assert math.isclose(width * aspect / height, ratio_drawn, rel_tol=1e-9)


def test_a_crop_takes_the_pixels_of_its_box():
    pixels = as_pixels(picture(20, 10))
    np.testing.assert_array_equal(crop(pixels, (0.25, 0.2, 0.5, 0.3)), pixels[:, 5:15, 2:5])
    assert crop(pixels, (0.999, 0.999, 0.0005, 0.0005)).shape == (3, 1, 1)


def test_halving_the_size_blurs_as_the_triangle_filter_says():
    """Antialiased bilinear weights at factor 2 are 1/8, 3/8, 3/8, 1/8; borders are renormalised."""
    row = np.arange(16, dtype=np.float64) ** 2
    pixels = torch.from_numpy(np.broadcast_to(row, (1, 4, 16)).astype(np.float32))
    halved = resize(pixels, 4, 8)[0, 0].numpy()
    inner = [np.dot([1, 3, 3, 1], row[2 * i - 1 : 2 * i + 3]) / 8 for i in range(1, 7)]
    np.testing.assert_allclose(halved[1:7], inner, rtol=1e-6)


def test_luma_is_rec_601_rounded_half_up():
    image = picture(seed=1)
    exact = (image.astype(int) @ [299, 587, 114] + 500) // 1000
    np.testing.assert_array_equal(luma(as_pixels(image))[0].numpy(), exact)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_contrast_and_saturation_are_blends(factor):
    image = picture(seed=2)
    pixels = image.astype(np.float64)
    gray = np.floor((pixels @ [299, 587, 114] + 500) / 1000)
    expected = np.clip(pixels * factor + gray.mean() * (1 - factor), 0, 255)
    np.testing.assert_allclose(contrast(as_pixels(image), factor).numpy().transpose(1, 2, 0), expected, atol=1e-3)
    expected = np.clip(pixels * factor + gray[..., None] * (1 - factor), 0, 255)
    np.testing.assert_allclose(saturation(as_pixels(image), factor).numpy().transpose(1, 2, 0), expected, atol=1e-3)


def test_a_third_of_a_turn_of_hue_permutes_the_channels():
    pixels = as_pixels(picture(seed=3))
    np.testing.assert_allclose(rotate_hue(pixels, 1 / 3).numpy(), pixels[[2, 0, 1]].numpy(), atol=1e-3)
    np.testing.assert_allclose(rotate_hue(rotate_hue(pixels, 0.0), 1.0).numpy(), pixels.numpy(), atol=1e-3)
    gray = pixels[:1].expand(3, -1, -1)
    np.testing.assert_allclose(rotate_hue(gray, 0.3).numpy(), gray.numpy(), atol=1e-3)


def test_an_affine_map_of_a_quarter_turn_is_the_exact_rotation():
    pixels = as_pixels(picture(16, 16, seed=4))
    np.testing.assert_allclose(affine(pixels, (0, -1, 0, 1, 0, 0)).numpy(), pixels.rot90(1, (1, 2)).numpy(), atol=1e-2)
    np.testing.assert_allclose(affine(pixels, (1, 0, 0, 0, 1, 0)).numpy(), pixels.numpy(), atol=1e-2)


def test_erasing_covers_the_area_it_draws():
    pixels = as_pixels(np.zeros((200, 200, 3), np.uint8))
    options = dict(TRANSFORMS["erase"].options) | {"p": 1.0}
    for seed in range(20):
        draws = np.random.default_rng(seed).random(5)
        erased = TRANSFORMS["erase"].apply(pixels, None, draws, options)
        ratio = math.exp((2 * draws[2] - 1) * math.log(3.3))
        area = 0.02 + 0.31 * draws[1]
        expected = min(math.sqrt(area * ratio), 1) * min(math.sqrt(area / ratio), 1)
        assert abs(float((erased[0] == 127.5).float().mean()) - expected) < 0.02
    assert float(pixels.sum()) == 0, "the image itself is not written to"


def test_flip_and_center_crop():
    image = picture(8, 12, seed=5)
    flipped = TRANSFORMS["flip"].apply(as_pixels(image), None, np.array([0.0]), {"p": 0.5})
    np.testing.assert_array_equal(as_image(flipped), image[:, ::-1])
    unflipped = TRANSFORMS["flip"].apply(as_pixels(image), None, np.array([0.5]), {"p": 0.5})
    np.testing.assert_array_equal(as_image(unflipped), image)
    np.testing.assert_array_equal(as_image(center_crop(as_pixels(image), 8)), image[:, 2:10])


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transform_changes_neither_its_input_nor_the_layout(name, channels):
    transform = TRANSFORMS[name]
    pixels = as_pixels(picture(33, 47, channels, seed=6))
    before = pixels.clone()
    for seed in range(12):
        draws = np.random.default_rng(seed).random(transform.draws)
        output = transform.apply(pixels, 16 if name == "randcrop" else None, draws, transform.options)
        assert output.dtype == torch.float32
        assert output.shape == ((channels, 16, 16) if name == "randcrop" else pixels.shape)
        assert 0 <= float(output.min()) <= float(output.max()) <= 255
        assert torch.equal(pixels, before)
