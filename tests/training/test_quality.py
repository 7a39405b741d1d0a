"""Quality by head: every figure beside a direct computation, over batches of any size."""

import numpy as np
import pytest
import torch

from softlabels.errors import InvalidArgument, InvalidData, InvalidLogits
from softlabels.models import OutputHead, as_model
from softlabels.sources import as_source, open_source
from softlabels.training import compare, quality
from softlabels.training.comparison_plot import draw_comparison

CLASSES = 7
ROWS = 50


@pytest.fixture(autouse=True, params=[7, 1024])
def small_batches(request, monkeypatch):
    """Also with a last batch that is not full."""
    monkeypatch.setattr(quality, "MAX_BATCH_ROWS", request.param)


def table(**columns):
    return as_source({"id_of_row": np.arange(ROWS, dtype=np.float32), **columns}, input="id_of_row", label="label")


def lookup(values, **heads):
    """A model that returns row i of an array for the input i."""
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in values.items()}
    return as_model(
        lambda x: {name: tensor[x.long().flatten()] for name, tensor in tensors.items()},
        sample=np.zeros((1,), np.float32), heads=heads or None,
    )  # fmt: skip


def test_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, ROWS)
    first, second = (rng.normal(size=(ROWS, CLASSES)).astype(np.float32) for _ in range(2))
    rows = compare([lookup({"logits": first}), lookup({"logits": second})], table(label=labels))
    figures = rows[1].heads["logits"]
    predicted = second.argmax(1)
    assert figures.accuracy == rows[1].value == pytest.approx((predicted == labels).mean())
    assert figures.top5 == pytest.approx((second.argsort(1)[:, -5:] == labels[:, None]).any(1).mean())
    f1 = []
    for label in np.unique(labels):
        right = ((predicted == label) & (labels == label)).sum()
        f1.append(2 * right / ((predicted == label).sum() + (labels == label).sum()))
    assert figures.f1 == pytest.approx(np.mean(f1))
    assert figures.agreement == pytest.approx((predicted == first.argmax(1)).mean())
    p, q = (torch.from_numpy(array).double().log_softmax(1) for array in (first, second))
    assert figures.kl == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-5)
    assert (rows[0].heads["logits"].kl, rows[0].retention) == (None, 1)
    assert figures.retention == rows[1].retention == pytest.approx(rows[1].value / rows[0].value)


def test_pixels_and_regression():
    source = open_source("roads:40")
    test = source.split("test")
    images = source.inputs(test[:1])
    shape = images.shape[1:3]
    classes = source.targets["road"].classes
    heads = {
        "road": OutputHead(kind="pixels", classes=classes, shape=shape),
        "steering": OutputHead(kind="regression", classes=1),
    }

    def model(brightness):
        def predict(pixels):
            gray = pixels.float().mean(-1, keepdim=True) / 255 + brightness
            return {"road": gray * torch.arange(classes), "steering": gray.mean((1, 2)) * 10}

        return as_model(predict, sample=images, heads=heads)

    first, second = model(-0.5), model(-0.3)
    rows = compare([first, second], source)
    truth, angles = source.target("road", test), source.target("steering", test)
    outputs = second.predict(source.inputs(test))
    predicted = outputs["road"].argmax(-1).numpy()
    ious = [
        ((predicted == one) & (truth == one)).sum() / ((predicted == one) | (truth == one)).sum()
        for one in np.unique(truth)
    ]
    road, steering = rows[1].heads["road"], rows[1].heads["steering"]
    assert (rows[1].metric, rows[1].value) == ("mean IoU", road.mean_iou)
    assert road.mean_iou == pytest.approx(np.mean(ious))
    assert road.accuracy == pytest.approx((predicted == truth).mean())
    differences = outputs["steering"].numpy() - angles
    assert (steering.metric, steering.unit) == ("mean absolute error", "degrees")
    assert steering.error == pytest.approx(np.abs(differences).mean(), rel=1e-5)
    assert steering.rmse == pytest.approx(np.sqrt((differences**2).mean()), rel=1e-5)
    assert steering.distance == pytest.approx(2.0, rel=1e-4)
    assert steering.retention == pytest.approx(rows[0].heads["steering"].error / steering.error)


def test_pixels_at_a_lower_resolution_are_compared_at_that_of_the_truth():
    source = open_source("roads:20")
    images = source.inputs(np.arange(1))
    height, width = images.shape[1:3]
    truth = source.target("road", source.split("test"))
    coarse = {"road": OutputHead(kind="pixels", classes=5, shape=(height // 4, width // 4))}
    model = as_model(
        lambda x: {"road": torch.eye(5)[0].expand(len(x), height // 4, width // 4, 5)}, sample=images, heads=coarse
    )
    row = compare([model], source)[0]
    assert row.heads["road"].accuracy == pytest.approx((truth == 0).mean())


def test_embeddings_without_ground_truth_are_compared_with_the_first():
    rng = np.random.default_rng(3)
    first = rng.normal(size=(ROWS, 6)).astype(np.float32)
    turned = (first @ np.linalg.qr(rng.normal(size=(6, 6)))[0]).astype(np.float32)
    other = rng.normal(size=(ROWS, 4)).astype(np.float32)
    models = [
        lookup({"embedding": values}, embedding=OutputHead(kind="embedding", classes=values.shape[1]))
        for values in (first, 3 * first, turned, other)
    ]
    source = as_source({"x": np.arange(ROWS, dtype=np.float32)}, label=False)
    rows = compare(models, source)
    assert [row.heads["embedding"].retrieval for row in rows[1:3]] == [1, 1]
    assert rows[1].heads["embedding"].cosine == pytest.approx(1, abs=1e-6)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (first, turned)]
    assert rows[2].value == pytest.approx((unit[0] * unit[1]).sum(1).mean(), abs=1e-5)
    assert rows[3].metric == "retrieval"
    assert rows[3].value < 0.3


def test_ground_truth_of_another_kind_is_refused():
    source = open_source("roads:20")
    images = source.inputs(np.arange(1))
    model = as_model(lambda x: {"steering": x.float().mean((1, 2))}, sample=images)
    with pytest.raises(InvalidData, match="'steering' is no match for the target 'steering', got classes"):
        compare([model], source)
    few = {"road": OutputHead(kind="pixels", classes=3, shape=images.shape[1:3])}
    with pytest.raises(InvalidArgument, match="fewer classes than the data shows, got 3; expected at least the 5"):
        compare([as_model(lambda x: {"road": x.float()}, sample=images, heads=few)], source)
    nothing = as_model(lambda x: {"depth": x.float().mean((1, 2))}, sample=images)
    with pytest.raises(InvalidData, match="no hard labels to measure"):
        compare([nothing], source)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_regression_that_is_not_finite_is_refused(bad):
    source = open_source("roads:20")
    images = source.inputs(np.arange(1))
    head = {"steering": OutputHead(kind="regression", classes=1)}
    model = as_model(lambda x: {"steering": torch.full((len(x), 1), bad)}, sample=images, heads=head)
    with pytest.raises(InvalidLogits, match="NaN or infinity"):
        compare([model], source)


def test_a_picture_names_each_model(tmp_path, data):
    rows = compare([lambda x: x[:, :2], lambda x: -x[:, :2]], data)
    draw_comparison(rows, tmp_path / "compare.svg")
    text = (tmp_path / "compare.svg").read_text()
    assert text.startswith("<?xml")
    assert len(text) > 5_000
    with pytest.raises(InvalidArgument, match="unknown file type"):
        draw_comparison(rows, tmp_path / "compare.doc")
