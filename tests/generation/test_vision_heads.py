"""Heads per pixel, numbers, trajectories of several modes and embeddings, from a teacher to labels and figures."""

from typing import ClassVar

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import InvalidArgument, TeacherRejected
from softlabels.models import OutputHead

ROWS, CLASSES, SHAPE, MODES, POINTS, WIDTH = 48, 5, (6, 8), 3, 4, 96
ENCODINGS = {"road": "dense:q8", "steering": "dense:f32", "trajectories": "dense:f32", "modes": "dense:f32",
             "embedding": "dense:q8"}  # fmt: skip


class Driver(torch.nn.Module):
    """A teacher with a head of each kind; several modes are trajectories with the logits of their probabilities."""

    heads: ClassVar = {
        "road": OutputHead(kind="pixels", classes=CLASSES, shape=SHAPE),
        "steering": OutputHead(kind="regression", classes=1),
        "trajectories": OutputHead(kind="regression", classes=2, shape=(MODES, POINTS)),
        "modes": OutputHead(kind="classes", classes=MODES),
        "embedding": OutputHead(kind="embedding", classes=WIDTH),
    }

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = {"road": CLASSES, "steering": 1, "trajectories": 2 * MODES * POINTS, "modes": MODES, "embedding": WIDTH}
        self.layers = torch.nn.ParameterDict(
            {name: torch.randn(3 if name == "road" else 3 * 48, size, generator=generator)
             for name, size in sizes.items()}
        )  # fmt: skip

    def forward(self, images):
        pixels = images.float() / 255
        flat = pixels.flatten(1) - 0.5
        outputs = {name: flat @ self.layers[name] for name in self.heads if name != "road"}
        outputs["trajectories"] = outputs["trajectories"].unflatten(1, (MODES, POINTS, 2))
        return {"road": pixels @ self.layers["road"] * 3, **outputs}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("heads") / "labels"
    sl.generate(images, teacher=Driver(), out=out, encoding=ENCODINGS)
    return sl.open(out)


def test_every_head_is_read_back_in_its_shape(store, images):
    expected = Driver()(torch.from_numpy(images))
    for name in ("steering", "trajectories", "modes"):
        np.testing.assert_array_equal(store.read(range(ROWS), name).values, expected[name].detach().numpy())
    assert {name: head.kind for name, head in store.heads.items()} == {
        name: head.kind for name, head in Driver.heads.items()
    }
    stored, logits = store.read(range(ROWS), "road").values, expected["road"].detach().numpy()
    assert (stored.argmax(-1) == logits.argmax(-1)).mean() > 0.99


def test_eight_bits_lose_little_of_an_embedding(store, images):
    """Each vector has a scale and an offset of its own: the cosine and the nearest neighbours stay."""
    expected = Driver()(torch.from_numpy(images))["embedding"].detach().numpy()
    stored = store.read(range(ROWS), "embedding").values
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (expected, stored)]
    assert (unit[0] * unit[1]).sum(1).min() > 0.9999
    neighbours = [(values @ values.T - 2 * np.eye(ROWS)).argmax(1) for values in unit]
    assert (neighbours[0] == neighbours[1]).mean() > 0.95


def test_bytes_and_kl_are_reported_by_head(store):
    fidelity = store.snapshot.fidelity
    assert set(fidelity) == {"road", "modes"}
    assert fidelity["road"].overall.kl["1"] < 1e-3
    assert store.bytes_per_row > 0


def test_the_gate_refuses_probabilities_of_pixels_and_a_constant_angle(images, tmp_path):
    class Soft(Driver):
        def forward(self, images):
            outputs = super().forward(images)
            return outputs | {"road": outputs["road"].softmax(-1)}

    class Straight(Driver):
        def forward(self, images):
            return super().forward(images) | {"steering": torch.zeros(len(images), 1)}

    with pytest.raises(TeacherRejected, match="head 'road' returns probabilities"):
        sl.generate(images, teacher=Soft(), out=tmp_path / "soft", encoding=ENCODINGS)
    with pytest.raises(TeacherRejected, match="head 'steering' has the same output"):
        sl.generate(images, teacher=Straight(), out=tmp_path / "straight", encoding=ENCODINGS)


def test_an_encoding_of_a_head_that_is_not_there_is_refused(images, tmp_path):
    with pytest.raises(InvalidArgument, match="no such head, got 'rode'"):
        sl.generate(images, teacher=Driver(), out=tmp_path / "labels", encoding={"rode": "dense:f32"})
