"""The U-Net: its heads, resolutions and independence of the batch."""

import numpy as np
import pytest
import torch

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead
from softlabels.models.kind import ModelSpec
from softlabels.models.kinds.unet import build

HEADS = {
    "road": OutputHead(classes=5, kind="pixels", shape=(20, 30)),
    "coarse": OutputHead(classes=2, kind="pixels", shape=(5, 7)),
    "steering": OutputHead(classes=1, kind="regression"),
}


def network(input_shape=(20, 30, 3), heads=HEADS, width=8, depth=3):
    """A network with initial weights."""
    torch.manual_seed(0)
    return build(ModelSpec("unet", {"width": width, "depth": depth}), input_shape, heads).eval()


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30), (9, 13, 1)])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_each_head_has_its_shape(shape, depth):
    """Also at sizes that are no multiple of a power of two."""
    with torch.no_grad():
        outputs = network(shape, depth=depth)(torch.rand(2, *shape))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "road": (2, 20, 30, 5), "coarse": (2, 5, 7, 2), "steering": (2, 1),
    }  # fmt: skip


def test_one_head_is_a_tensor():
    heads = {"road": HEADS["road"]}
    assert network(heads=heads)(torch.rand(1, 20, 30, 3)).shape == (1, 20, 30, 5)
    assert network(heads={"steering": HEADS["steering"]})(torch.rand(1, 20, 30, 3)).shape == (1, 1)


def test_an_output_does_not_depend_on_the_batch():
    module, images = network(), torch.rand(5, 20, 30, 3)
    with torch.no_grad():
        together, alone = module(images), module(images[3:4])
    for name in HEADS:
        torch.testing.assert_close(together[name][3:4], alone[name], rtol=1e-5, atol=1e-5)


def test_positions_reach_a_head_per_image():
    """Without coordinates the mean of the features would be equal for an image and its mirror image."""
    module, images = network(depth=1), torch.zeros(1, 20, 30, 3)
    images[:, :, :10] = 1
    with torch.no_grad():
        assert not torch.allclose(module(images)["steering"], module(images.flip(2))["steering"], atol=1e-4)


def test_a_network_learns_pixels_and_a_number():
    """Bright pixels are class 1, and the number is the column of the bright square."""
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 12, 64)
    images = np.zeros((64, 16, 16, 1), np.float32)
    for image, column in zip(images, columns, strict=True):
        image[4:8, column : column + 4] = 1
    heads = {
        "mask": OutputHead(classes=2, kind="pixels", shape=(16, 16)),
        "x": OutputHead(classes=1, kind="regression"),
    }
    module = network((16, 16, 1), heads).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    inputs, mask = torch.from_numpy(images), torch.from_numpy(images[..., 0].astype(np.int64))
    target = torch.from_numpy(columns.astype(np.float32) / 6 - 1)[:, None]
    for _ in range(60):
        outputs = module(inputs)
        loss = torch.nn.functional.cross_entropy(outputs["mask"].permute(0, 3, 1, 2), mask)
        loss = loss + torch.nn.functional.mse_loss(outputs["x"], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((outputs["mask"].argmax(-1) == mask).float().mean()) > 0.99
    assert float((outputs["x"].detach() - target).abs().mean()) < 0.2


@pytest.mark.parametrize(
    ("shape", "depth", "message"), [((12,), 2, "not images"), ((6, 40, 3), 4, "too many for inputs")]
)
def test_inputs_that_do_not_fit_are_an_error(shape, depth, message):
    with pytest.raises(InvalidArgument, match=message):
        network(shape, depth=depth)


def test_a_specification_builds_a_model_with_heads():
    model = models.build("unet:width=8,depth=2", input_shape=(20, 30, 3), heads=HEADS, seed=1)
    outputs = model.predict(np.zeros((2, 20, 30, 3), np.uint8))
    assert set(outputs) == set(HEADS)
