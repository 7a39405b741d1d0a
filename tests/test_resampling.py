"""Antialiased resizing beside its formula, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels.models import Preprocessing
from softlabels.resampling import resample
from softlabels.views.transforms import resize

side = st.integers(1, 20)


def weights(length, size):
    """Weights of the triangle filter, (size, length): widened where it shrinks, with weights that sum to 1."""
    scale = length / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    distances = np.abs(np.arange(length) + 0.5 - centres) / max(scale, 1.0)
    triangle = np.maximum(1 - distances, 0)
    return triangle / triangle.sum(axis=1, keepdims=True)


@settings(max_examples=80, deadline=None)
@given(height=side, width=side, size=st.tuples(side, st.one_of(st.just(1), side)), channels_last=st.booleans())
def test_each_axis_is_filtered_by_triangles(height, width, size, channels_last):
    """Also if the result has one column, whose rows torch 2.13 does not resize."""
    pixels = np.random.default_rng(height * 20 + width).integers(0, 256, (2, 3, height, width)).astype(np.float32)
    images = torch.from_numpy(pixels)
    images = images.to(memory_format=torch.channels_last) if channels_last else images
    expected = weights(height, size[0]) @ pixels.astype(np.float64) @ weights(width, size[1]).T
    np.testing.assert_allclose(resample(images, size).numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(resize(images[1], *size).numpy(), expected[1], atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(height=side, width=side, size=st.tuples(side, st.integers(2, 20)), mode=st.sampled_from(["bilinear", "bicubic"]))
def test_results_of_several_columns_are_those_of_torch_to_the_bit(height, width, size, mode):
    """Stores record digests of views, so the pixels of a size stay as they are."""
    images = torch.from_numpy(np.random.default_rng(height * 20 + width).random((1, 3, height, width), np.float32))
    expected = torch.nn.functional.interpolate(images, size=size, mode=mode, antialias=True)
    assert torch.equal(resample(images, size, mode), expected)


@pytest.mark.parametrize("rows", [3, 16])
def test_preprocessing_and_views_resize_the_rows_of_a_column(rows):
    """The last row of the result comes from the last rows of the image."""
    ramp = torch.arange(0, 240, 30, dtype=torch.uint8)[:, None].expand(8, 6)
    column = resize(ramp[None].float(), rows, 1).flatten()
    assert column[-1] > 150
    preprocessed = Preprocessing(size=(rows, 1), fit="stretch").apply(ramp[None])
    np.testing.assert_allclose(preprocessed.flatten(), column, atol=1)
