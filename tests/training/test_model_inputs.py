"""Data for models: each gets images at its own size, unless a size is chosen."""

import numpy as np
import pytest
from PIL import Image

import softlabels as sl
from softlabels import models
from softlabels.errors import InvalidArgument, InvalidData
from softlabels.models import OutputHead
from softlabels.training import compare, export_model
from softlabels.training.model_inputs import image_side, open_for_models


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Digits as image files of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    digits = sl.open_source("digits")
    for row, (pixels, label) in enumerate(zip(digits.inputs(np.arange(24)), digits.labels(np.arange(24)), strict=True)):
        path = folder / ("test" if row % 3 == 2 else "train") / str(label) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels * 15).resize((20 + row % 4, 18)).save(path)
    return folder


def model_of(side, channels=3):
    heads = {"logits": OutputHead(classes=10)}
    return models.build("cnn:width=4,depth=1", input_shape=(side, side, channels), heads=heads, seed=side)


def test_models_of_different_sizes_are_compared_on_the_same_rows_without_a_size(photos, tmp_path):
    small, large = model_of(8), model_of(12)
    exported = export_model(small, photos, tmp_path / "small.onnx", rows=4)
    rows = compare([large, small, exported.spec], photos)
    assert [row.measured_rows for row in rows] == [8, 8, 8]
    for row, size in zip(rows, (12, 8, 8), strict=True):
        (alone,) = compare([large if size == 12 else small], photos, size=size)
        assert row.value == alone.value
    assert rows[1].heads["logits"].kl == pytest.approx(rows[2].heads["logits"].kl, rel=1e-3)
    assert image_side(exported.spec) == 8


def test_a_size_that_is_chosen_is_that_of_all_models(photos):
    with pytest.raises(InvalidArgument, match=r"another input shape, got \(9, 9, 3\); expected \(8, 8, 3\)"):
        compare([model_of(8)], photos, size=9)


def test_students_and_loaders_get_images_at_the_size_that_the_labels_were_made_from(photos, tmp_path):
    sl.generate(photos, teacher=model_of(8), out=tmp_path / "labels", size=8)
    student = sl.train_student(tmp_path / "labels", photos, "mlp:width=4,depth=1", tmp_path / "run", steps=1)
    assert student.input_shape == (8, 8, 3)
    larger = sl.open_source(photos, size=12)
    other = sl.train_student(tmp_path / "labels", larger, "mlp:width=4,depth=1", tmp_path / "other", steps=1)
    assert other.input_shape == (12, 12, 3)
    batch = next(iter(sl.loader(tmp_path / "labels", inputs=photos, batch_size=4, device="cpu")))
    assert batch.inputs.shape == (4, 8, 8, 3)


def test_images_of_one_size_are_resized_for_models_of_another_alone():
    digits = sl.open_source("digits")
    same, larger = open_for_models([model_of(8, channels=1), model_of(16, channels=1)], digits)
    assert same is digits
    assert larger.input_shape == (16, 16, 1)
    np.testing.assert_array_equal(larger.keys(), digits.keys())
    numbers = np.zeros((4, 6, 6, 3), np.float32)
    (source,) = open_for_models([model_of(8)], numbers)
    assert source.input_shape == (6, 6, 3), "numbers that are no images are not resized"


def test_several_sizes_need_one_for_a_model_whose_size_is_unknown(photos):
    with pytest.raises(InvalidData, match="images of several sizes"):
        compare([model_of(8), lambda images: images.float().mean((1, 2))], photos)
    assert [image_side(model) for model in (model_of(8), "mlp:width=4", lambda x: x)] == [8, None, None]
