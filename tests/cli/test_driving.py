"""The demonstration on road scenes, at a tiny size."""

import struct
import zlib

import numpy as np
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels_cli import demo_driving
from softlabels_cli.main import cli


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("driving") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TEACHER_EPOCHS", "STUDENT_EPOCHS"):
            patch.setattr(demo_driving, name, 1)
        patch.setattr(demo_driving, "TEACHER", "unet:width=8,depth=3")
        patch.setattr(demo_driving, "STUDENT", "unet:width=4,depth=2")
        result = CliRunner().invoke(
            cli, ["demo", "--task", "driving", "--scenes", "20", "--seeds", "1", "--out", str(out), "--quiet"]
        )
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_demo_prints_quality_of_both_heads_and_frames_per_second(demo):
    out, text = demo
    for words in (
        "road mean IoU",
        "steering error, degrees",
        "frames per second on one core",
        "30 Hz",
        "student.onnx",
        "student-int8.onnx",
    ):
        assert words in text, words
    store = sl.open(out / "labels")
    assert store.heads["road"].shape == (32, 48)
    assert store.heads["steering"].kind == "regression"


def test_the_contact_sheet_is_a_picture_of_five_columns(demo):
    data = (demo[0] / "contact-sheet.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (5 * (4 * 48 + 4), 4 * (4 * 32 + 4))  # four test scenes of twenty
    length = struct.unpack(">I", data[33:37])[0]
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(height, 1 + 3 * width)
    first = lines[2:130:4, 7 : 7 + 576 : 12]  # every fourth pixel of the first image, red
    source = sl.open_source(demo_driving.data_of(20))
    np.testing.assert_array_equal(first, source.inputs(source.split("test")[:1])[0, :, :, 0])


def test_the_student_has_a_tenth_of_the_parameters_and_the_default_size_is_documented():
    from softlabels.models import OutputHead, build

    heads = {
        "road": OutputHead(kind="pixels", classes=5, shape=(32, 48)),
        "steering": OutputHead(kind="regression", classes=1),
    }
    teacher, student = (
        sum(parameter.numel() for parameter in build(spec, input_shape=(64, 96, 3), heads=heads).module.parameters())
        for spec in (demo_driving.TEACHER, demo_driving.STUDENT)
    )
    assert student <= teacher / 10
