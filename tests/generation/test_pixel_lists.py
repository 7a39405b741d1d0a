"""Pixels whose labels list a few classes: from a teacher to a store, a plan, a subset and a student."""

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.generation import sample
from softlabels.labels import DenseLabels
from softlabels.models import OutputHead, load
from softlabels.planning import recommend, sample_of_store
from softlabels.planning.table import candidates, measure_row

ROWS, CLASSES, SHAPE = 40, 20, (8, 12)


class Segmenter(torch.nn.Module):
    """Classes of regions that fill a third of the image each, with soft borders."""

    heads = {"road": OutputHead(kind="pixels", classes=CLASSES, shape=SHAPE)}  # noqa: RUF012  read as one of a model

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.classes = torch.nn.Parameter(3 * torch.randn(3, CLASSES, generator=generator))
        self.background = torch.nn.Parameter(torch.randn(CLASSES, generator=generator))

    def forward(self, images):
        return images.float() / 64 @ self.classes + self.background


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (ROWS, 2, 3, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def logits(images):
    return Segmenter()(torch.from_numpy(images)).detach().numpy()


def generate(tmp_path, images, encoding, **options):
    sl.generate(images, teacher=Segmenter(), out=tmp_path / "labels", encoding=encoding, **options)
    return sl.open(tmp_path / "labels")


@pytest.mark.parametrize("encoding", ["topk:3:f16", "topk:3:d8:2", "adaptive:0.02:d8", "adaptive:0.02:q8:2"])
def test_lists_of_pixels_are_close_to_the_teacher(tmp_path, images, logits, encoding):
    store = generate(tmp_path, images, {"road": encoding}, temperatures=(1.0, 2.0))
    fidelity = store.snapshot.fidelity["road"].overall
    for temperature in (1.0, 2.0):
        log_p = DenseLabels(logits).log_probs(temperature).astype(np.float64)
        labels = store.read(range(ROWS), "road").log_probs(temperature)
        kl = (np.exp(log_p) * (log_p - labels)).sum(axis=-1)
        assert labels.shape == logits.shape
        assert kl.mean() == pytest.approx(fidelity.kl[f"{temperature:g}"], rel=0.02, abs=1e-5)
    assert fidelity.rows == ROWS * SHAPE[0] * SHAPE[1]


@pytest.mark.parametrize("encoding", ["sampled:6", "threshold:0.1", "counts:12:0.01:2"])
def test_draws_of_pixels_differ_by_position_and_are_right_on_average(tmp_path, images, logits, encoding):
    p = np.exp(DenseLabels(logits).log_probs()).mean(axis=(0, 1, 2))
    store = generate(tmp_path, images, {"road": encoding})
    labels = np.exp(store.read(range(ROWS), "road").log_probs())
    np.testing.assert_allclose(labels.mean(axis=(0, 1, 2)), p, atol=0.015)
    assert (labels[:, 0, 0] != labels[:, 0, 1]).any()  # of equal logits


def test_downsampled_labels_are_the_mean_distribution_of_squares(tmp_path, images, logits):
    """The head records the size of a square; a student's outputs are reduced alike."""
    store = generate(tmp_path, images, {"road": "dense:f32"}, downsample={"road": 4})
    head = store.heads["road"]
    assert (head.shape, head.downsample) == ((2, 3), 4)
    p = np.exp(DenseLabels(logits).log_probs().astype(np.float64))
    expected = p.reshape(ROWS, 2, 4, 3, 4, CLASSES).mean(axis=(2, 4))
    np.testing.assert_allclose(np.exp(store.read(range(ROWS), "road").log_probs()), expected, rtol=1e-4, atol=1e-7)
    student = losses.pool(torch.from_numpy(logits), 4)
    assert losses.kl(student, store.read(range(ROWS), "road")).item() == pytest.approx(0.0, abs=1e-6)
    assert OutputHead.of_labels(head).shape == SHAPE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsample": 5}, "downsample: got 5 for head 'road' of 8 x 12 pixels; expected a number that divides both"),
        ({"downsample": {"sky": 2}}, "downsample: no head with an output per pixel, got 'sky'; expected road"),
        ({"downsample": 0}, "downsample: too small, got 0; expected 1 or more"),
    ],
)
def test_squares_that_do_not_fit_are_refused(tmp_path, images, options, message):
    with pytest.raises(InvalidArgument, match=message):
        generate(tmp_path, images, {"road": "topk:2"}, **options)


def test_a_loop_of_ones_own_may_downsample_before_or_leave_it_to_the_writer(tmp_path, logits):
    head = sl.Head(kind="pixels", classes=CLASSES, shape=(2, 3), encoding="topk:2:f16:2", downsample=4)
    stores = []
    for name, outputs in (("whole", logits), ("pooled", losses.pool(torch.from_numpy(logits), 4))):
        with sl.create(tmp_path / name, heads={"road": head}) as writer:  # held until its codebook is fitted
            writer.append(range(ROWS), {"road": outputs})
        stores.append(sl.open(tmp_path / name).read(range(ROWS), "road"))
    np.testing.assert_array_equal(stores[0].ids, stores[1].ids)
    np.testing.assert_array_equal(stores[0].log_probs(), stores[1].log_probs())


def test_plans_measure_whole_images(tmp_path, images):
    """Neighbours compress together: bytes of an image, not of a pixel, and those of the store that follows."""
    drawn = sample(images, teacher=Segmenter(), head="road")
    assert drawn.shape == SHAPE
    row, _ = measure_row(drawn, "adaptive:0.02:d4")
    store = generate(tmp_path, images, {"road": "adaptive:0.02:d4"})
    assert row.bytes_total == pytest.approx(store.bytes, rel=0.15)
    assert row.kl == pytest.approx(store.snapshot.fidelity["road"].overall.kl["1"], rel=0.3)
    assert "adaptive:0.02:d4" in candidates(5, per_position=True)
    assert recommend(drawn).row.encoding == "adaptive:0.01:d4"
    target = f"adaptive:bytes={row.bytes_per_row:.0f}"
    result = sl.generate(images, teacher=Segmenter(), out=tmp_path / "target", encoding={"road": target})
    assert result.encodings["road"].startswith("adaptive:0.0")
    assert result.bytes_per_row <= row.bytes_per_row * 1.1
    assert sample_of_store(tmp_path / "target", "road").shape == SHAPE


@pytest.mark.parametrize("encoding", ["topk:4:d4", "adaptive:0.001:d4"])
def test_a_subset_lists_fewer_classes_of_each_pixel(tmp_path, images, encoding):
    store = generate(tmp_path, images, {"road": encoding})
    sl.push(tmp_path / "labels", tmp_path / "part", top=2)
    labels, expected = sl.open(tmp_path / "part").read(range(ROWS), "road"), store.read(range(ROWS), "road")
    np.testing.assert_array_equal(labels.ids, expected.ids[:, :2])
    np.testing.assert_allclose(labels.listed_log_probs()[:, 0], expected.listed_log_probs()[:, 0], atol=0.1)
    assert sl.verify(tmp_path / "part", deep=True).ok


def test_masks_of_another_size_than_the_labels_name_the_size(tmp_path):
    """``--size 16`` for the labels alone, as someone types it who forgot it for the student."""
    small = sl.open_source("roads:20", size=16)
    teacher = sl.train_teacher(small, "unet:width=4,depth=2", tmp_path / "teacher", steps=1)
    sl.generate(small, teacher=teacher, out=tmp_path / "labels", encoding={"road": "topk:2:d4"}, downsample=4)
    with pytest.raises(InvalidArgument, match=r"masks of head 'road' have another size.* with size=16"):
        sl.train_student(tmp_path / "labels", "roads:20", "unet:width=4,depth=2", tmp_path / "student", steps=1)


@pytest.mark.parametrize(("encoding", "side"), [("topk:2:d4", 1), ("adaptive:0.05:d4", 4), ("threshold:0.1", 2)])
def test_a_unet_learns_from_lists_of_pixels(tmp_path, images, encoding, side):
    generate(tmp_path, images, {"road": encoding}, downsample=side)
    run = sl.train_student(
        tmp_path / "labels",
        student="unet:width=4,depth=2",
        data=images,
        out=tmp_path / "run",
        epochs=10,
        batch_size=8,
        lr=0.03,
    )
    student = load(f"run:{tmp_path / 'run'}")
    assert student.heads["road"].shape == SHAPE
    expected = Segmenter()(torch.from_numpy(images)).argmax(dim=-1)
    assert run.heads == student.heads
    assert (student.predict(images)["road"].argmax(dim=-1) == expected).float().mean() > 0.5
