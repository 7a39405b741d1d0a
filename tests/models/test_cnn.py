"""The residual network: sizes by hand, photographs of 96x96 pixels, and runs from before its later options."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models import OutputHead
from softlabels.models.spec import parse
from softlabels.training import train_teacher

HEADS = {"logits": OutputHead(classes=10)}
PHOTOGRAPH = (96, 96, 3)


def build(spec, input_shape=PHOTOGRAPH, heads=HEADS):
    return models.build(spec, input_shape=input_shape, heads=heads)


def counts(model, input_shape):
    """Parameters and operations of one forward pass."""
    with FlopCounterMode(display=False) as counter:
        model.predict(np.zeros((1, *input_shape), np.uint8))
    return sum(parameter.numel() for parameter in model.module.parameters()), counter.get_total_flops()


@pytest.mark.parametrize(
    "spec", ["cnn:width=8,depth=2,stem=4", "cnn:width=8,stem=2,separable=1", "cnn:stem=16,depth=5"]
)
@pytest.mark.parametrize("shape", [(96, 96, 3), (61, 97), (16, 16, 1)])
def test_each_stem_takes_every_size(spec, shape):
    """Also sides that are no multiple of the stride, and images of the size of the stride."""
    logits = build(spec, shape).predict(np.full((2, *shape), 200, np.uint8))["logits"]
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_parameters_and_operations_are_those_of_a_count_by_hand():
    """96x96 pixels, stem of stride 4 with a 7x7 kernel: blocks at 24x24, 12x12 and 6x6 pixels, then the mean."""
    width, positions = 16, (24 * 24, 12 * 12, 6 * 6)
    stem, norms, head = 7 * 7 * 3 * width, 2 * width * (2 * 3 + 1), 10 * width
    for separable, weights in ((0, 9 * width**2), (1, 9 * width + width**2)):
        parameters, flops = counts(build(f"cnn:width=16,stem=4,separable={separable}"), PHOTOGRAPH)
        assert parameters == (stem + width) + 3 * 2 * weights + norms + (head + 10)
        assert flops == 2 * (positions[0] * stem + sum(positions) * 2 * weights + head)


def test_the_mean_over_positions_makes_weights_independent_of_the_image_size():
    small, large = build("cnn:stem=2,separable=1", (32, 32, 3)), build("cnn:stem=2,separable=1", (224, 160, 3))
    large.module.load_state_dict(small.module.state_dict())
    assert large.predict(np.zeros((1, 224, 160, 3), np.uint8))["logits"].isfinite().all()


def test_the_output_for_one_image_does_not_depend_on_the_others():
    model = build("cnn:width=8,stem=4,separable=1")
    images = np.random.default_rng(0).integers(0, 256, (4, *PHOTOGRAPH), dtype=np.uint8)
    alone = model.predict(images[2:3])["logits"]
    torch.testing.assert_close(model.predict(images)["logits"][2:3], alone, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Stripes of 96x96 pixels under noise: rows of class 0 and columns of class 1, at any phase."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    stripes = 60 * ((np.arange(96) + rng.integers(0, 16, (80, 1))) // 8 % 2)
    patterns = np.where(labels[:, None, None] == 1, stripes[:, None, :], stripes[:, :, None])
    images = rng.integers(0, 100, (80, *PHOTOGRAPH)) + patterns[..., None]
    path = tmp_path_factory.mktemp("photographs") / "data.npz"
    np.savez(path, image=images.astype(np.uint8), label=labels)
    return path


def test_a_run_on_photographs_learns_and_comes_back(photographs, tmp_path):
    spec = "cnn:width=16,depth=2,stem=4,separable=1"
    model = train_teacher(photographs, spec, tmp_path / "run", steps=30, lr=1e-2, batch_size=16, device="cpu")
    again = models.load(f"run:{tmp_path / 'run'}")
    assert model.run.metrics.accuracy == 1.0
    assert again.run.model.spec == spec
    assert again.digest == model.digest
    images = np.load(photographs)["image"][:8]
    assert torch.equal(again.predict(images)["logits"], model.predict(images)["logits"])


def test_defaults_have_the_specification_and_configuration_of_earlier_runs():
    """The digest of a model covers both, and the digest of a run its configuration."""
    model = build("cnn:width=8,stem=1,separable=0", (8, 8))
    assert model.spec == "cnn:width=8,depth=3"
    assert model.config == {
        "kind": "cnn", "version": 1, "options": {"width": 8, "depth": 3}, "input_shape": [8, 8],
        "heads": {"logits": {"kind": "classes", "classes": 10, "shape": []}},
    }  # fmt: skip
    assert [name for name, _ in model.module.blocks.named_parameters()][:4] == [
        "0.weight", "0.bias", "1.layers.0.weight", "1.layers.0.bias",
    ]  # fmt: skip
    assert model.module.blocks[0].weight.shape == (8, 1, 3, 3)
    assert model.digest == build("cnn:width=8", (8, 8)).digest


def test_other_values_are_part_of_the_specification_and_the_digest():
    """A 3x3 stem has the same weights with stride 1 and 2."""
    assert str(parse("cnn:separable=1,stem=2")) == "cnn:width=32,depth=3,stem=2,separable=1"
    assert build("cnn:stem=2").digest != build("cnn:stem=1").digest


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cnn:stem=9", r"too coarse for inputs of shape \(8, 8\), got a stride of 9; expected at most 8"),
        ("cnn:stem=0", "stem is out of range, got '0'; expected a whole number from 1 to 16"),
        ("cnn:separable=2", "separable is out of range, got '2'; expected a whole number from 0 to 1"),
    ],
)
def test_values_that_do_not_fit_are_refused(spec, message):
    with pytest.raises(InvalidArgument, match=message):
        build(spec, (8, 8))
