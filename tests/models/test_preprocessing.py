"""Preprocessing of images: beside Pillow, by formula, and as a record."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from softlabels.errors import InvalidArgument
from softlabels.models import OutputHead, Preprocessing, PreprocessingOptions, as_model
from softlabels.models.preprocessing import IMAGENET_MEAN, parse_size


def noise(height, width, channels=3):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 60), width=st.integers(1, 60), target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
def test_resizing_agrees_with_pillow(height, width, target, interpolation):
    image = noise(height, width) // 2 + 64  # versions of Pillow differ in where they clip overshoot
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = np.asarray(Image.fromarray(image).resize(target[::-1], method)).astype(int)
    preprocessing = Preprocessing(size=target, fit="stretch", interpolation=interpolation, layout="nhwc")
    resized = preprocessing.apply(torch.from_numpy(image[None]))[0].numpy()
    assert np.abs(resized - expected).max() <= {"bilinear": 1, "bicubic": 2}[interpolation]


@settings(max_examples=60, deadline=None)
@given(sides=st.tuples(st.integers(1, 50), st.integers(1, 50)), size=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_a_crop_covers_the_size_and_keeps_the_aspect(sides, size):
    """An image whose value is its column stays one: the crop is central, and columns are evenly spaced."""
    columns = np.broadcast_to(np.arange(sides[1], dtype=np.float32)[None, :, None], (*sides, 1))
    cropped = Preprocessing(size=size).apply(torch.from_numpy(columns[None].copy()))[0, 0]
    assert cropped.shape == size
    centre = (sides[1] - 1) / 2
    scale = max(size[0] / sides[0], size[1] / sides[1])
    assert abs(float(cropped.mean()) - centre) <= 1 / scale + 0.5


def test_values_are_scaled_then_standardised_then_laid_out():
    image = noise(4, 6)
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (image / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    first = preprocessing.apply(torch.from_numpy(image[None]))[0].numpy()
    np.testing.assert_allclose(first.transpose(1, 2, 0), expected, rtol=1e-5, atol=1e-6)
    last = Preprocessing(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), layout="nhwc")
    np.testing.assert_array_equal(last.apply(torch.from_numpy(image[None]))[0].numpy(), first.transpose(1, 2, 0))


def test_grey_images_get_as_many_channels_as_mean_has_and_others_are_refused():
    preprocessing = Preprocessing(mean=(1.0, 2.0, 3.0))
    assert preprocessing.apply(torch.ones(2, 4, 5))[0, :, 0, 0].tolist() == [0, -1, -2]
    assert preprocessing.apply(torch.ones(2, 4, 5, 1)).shape == (2, 3, 4, 5)
    with pytest.raises(InvalidArgument, match="another number of channels, got 4; expected 3"):
        preprocessing.apply(torch.ones(2, 4, 5, 4))
    with pytest.raises(InvalidArgument, match="not images"):
        preprocessing.apply(torch.ones(2, 4))


def test_a_crop_larger_than_the_resized_image_is_refused():
    with pytest.raises(InvalidArgument, match="smaller than the crop"):
        Preprocessing(size=(10, 10), shorter=8).apply(torch.ones(1, 20, 20))


@pytest.mark.parametrize(
    "fields",
    [{"size": (0, 4)}, {"size": (4, 10**6)}, {"scale": float("nan")}, {"scale": 0}, {"std": (1.0, 0.0)},
     {"mean": (1.0, 2.0), "std": (1.0, 2.0, 3.0)}, {"layout": "hwc"}, {"fit": "pad"}, {"interpolation": "lanczos"}],
)  # fmt: skip
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(InvalidArgument, match="expected"):
        Preprocessing(**fields)


def test_a_record_survives_json_and_refuses_other_documents():
    preprocessing = Preprocessing(size=(3, 5), shorter=7, mean=(0.5,), scale=1 / 255, interpolation="bicubic")
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing
    for document in ({"colour": 1}, {"size": "large"}, {"mean": 3}, {"scale": "x"}, {"size": [1]}, {"shorter": 2.5}):
        with pytest.raises(InvalidArgument):
            Preprocessing.from_json(document)


def test_options_take_precedence_over_the_model():
    base = Preprocessing(size=(8, 8), shorter=9, scale=1 / 255, mean=(0.1,))
    changed = PreprocessingOptions(size="64x96", mean="imagenet", scale="2/4", layout="NHWC").over(base)
    assert changed == Preprocessing(size=(64, 96), scale=0.5, mean=IMAGENET_MEAN, layout="nhwc")
    assert PreprocessingOptions().over(base) == base
    assert not PreprocessingOptions()
    assert (parse_size(7), parse_size("7"), parse_size("3x4")) == ((7, 7), (7, 7), (3, 4))
    for options in ({"size": "3x"}, {"size": "-1"}, {"scale": "1/0"}, {"mean": "a,b"}, {"std": "0"}, {"size": "1x2x3"}):
        with pytest.raises(InvalidArgument):
            PreprocessingOptions(**options).over(base)


def test_code_of_the_user_sees_preprocessed_images_and_its_digest_covers_them():
    images = np.stack([noise(6, 6), noise(6, 7)[:, :6]])

    def teacher(pixels):
        assert pixels.shape[1:] == (3, 4, 4)
        return pixels.flatten(1)[:, :5]

    def model(**options):
        return as_model(teacher, sample=images, preprocessing=Preprocessing(size=(4, 4), **options))

    assert model().heads == {"logits": OutputHead(classes=5)}
    assert model(scale=1 / 255).digest != model().digest == model().digest
    assert model(scale=1 / 255).predict(images)["logits"].max() <= 1
    pixels = as_model(lambda x: {"a": x, "b": x}, sample=images, heads={"a": "pixels"})
    assert pixels.heads == {"a": OutputHead(kind="pixels", classes=3, shape=(6, 6))}
    with pytest.raises(InvalidArgument, match="has its heads and preprocessing already"):
        as_model(model(), sample=images, preprocessing=Preprocessing())
    with pytest.raises(InvalidArgument, match="has its heads and preprocessing in its weights"):
        as_model("run:somewhere", sample=images, preprocessing=Preprocessing())
