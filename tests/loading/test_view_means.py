"""The mean label of all views of an image, for the image itself."""

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels.models import OutputHead

ROWS, VIEWS, CLASSES = 24, 3, 12


class Teacher(torch.nn.Module):
    """Logits and a number of an image."""

    heads = {"logits": OutputHead(classes=CLASSES), "angle": OutputHead(kind="regression", classes=1)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(8 * 8 * 3, CLASSES, generator=generator))

    def forward(self, images):
        flat = images.float().flatten(1) / 255 - 0.5
        return {"logits": flat @ self.weight, "angle": flat[:, :1] * 9}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8)


def generate(out, images, encoding, temperatures=(1.0,)):
    sl.generate(
        images, teacher=Teacher(), out=out, views=VIEWS, augment="randcrop,flip", encoding={"logits": encoding},
        temperatures=temperatures, unit_rows=20,
    )  # fmt: skip
    return sl.open(out)


def float64_means(store, temperature):
    """Mean distributions and numbers of the views of each example, from single rows."""
    log_p = store.read(range(ROWS * VIEWS)).log_probs(temperature).astype(np.float64)
    angles = store.read(range(ROWS * VIEWS), "angle").values.astype(np.float64)
    return [values.reshape(ROWS, VIEWS, -1).mean(axis=1) for values in (np.exp(log_p), angles)]


@pytest.mark.parametrize("encoding", ["dense:f32", "topk:4", "adaptive:0.02:q8", "threshold:0.1"])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_labels_are_the_mean_of_the_distributions_of_all_views(tmp_path, images, encoding, device):
    several = not encoding.startswith("threshold")
    store = generate(tmp_path / "labels", images, encoding, (1.0, 2.0) if several else (1.0,))
    temperature = 2.0 if several else 1.0
    p, angles = float64_means(store, temperature)
    order = np.random.default_rng(1).permutation(ROWS)  # data in another order than that of the labels
    loader = sl.loader(store, inputs=images[order], views="mean", batch_size=7, seed=3, device=device)
    seen = []
    for batch in loader:
        rows = order[batch.rows]
        np.testing.assert_array_equal(np.asarray(batch.inputs), images[rows])
        labels = batch.numpy().targets if device else batch.targets
        np.testing.assert_allclose(np.exp(labels["logits"].log_probs(temperature)), p[rows], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(labels["angle"].values, angles[rows], rtol=1e-5, atol=1e-6)
        assert batch.views is None
        seen += rows.tolist()
    assert sorted(seen) == list(range(ROWS))


def test_a_store_alone_has_the_means_of_its_examples(tmp_path, images):
    store = generate(tmp_path / "labels", images, "dense:f32")
    p, _ = float64_means(store, 1.0)
    rows = 0
    for batch in sl.loader(store, views="mean", batch_size=5, seed=0):
        np.testing.assert_allclose(np.exp(batch.targets["logits"].log_probs()), p[batch.rows // VIEWS], rtol=1e-4)
        rows += len(batch)
    assert rows == ROWS


def test_a_student_learns_from_means_at_the_temperature_of_the_labels(tmp_path, images):
    store = generate(tmp_path / "labels", images, "topk:4", (1.0, 2.0))
    options = {"student": "cnn:width=4,depth=1", "data": images, "views": "mean", "steps": 3, "batch_size": 8}
    with pytest.raises(InvalidArgument, match=r"one temperature, got 1 for head 'logits'; expected 2, the highest"):
        sl.train_student(store, out=tmp_path / "other", temperature=1.0, **options)
    run = sl.train_student(store, out=tmp_path / "run", **options)
    assert run.run.recipe["views"] == "mean"
