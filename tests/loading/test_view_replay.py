"""Views: labels of augmented images meet exactly the pixels that they were made from."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import softlabels as sl
from softlabels.errors import (
    InvalidArgument,
    InvalidData,
    KeyMissing,
    LabelsMisaligned,
    StoreConflict,
    StoreUnsupported,
)
from softlabels.sources import as_source, open_source
from softlabels.sources.view_inputs import ViewInputs
from softlabels.store.format import canonical_json
from softlabels.store.format.descriptor import parse_descriptor
from softlabels.training.run_data import open_data

POLICIES = [
    "randcrop", "flip", "color", "randaugment", "erase:p=1", "mixup", "cutmix:p=0.7", "randcrop,mixup",
    "randcrop,flip,color,randaugment,erase,cutmix",
]  # fmt: skip
SIZE, VIEWS, CLASSES = 12, 3, 4
WEIGHTS = torch.randn(SIZE * SIZE * 3, CLASSES, generator=torch.Generator().manual_seed(0))


def teacher(images):
    return images.float().flatten(1) / 255 @ WEIGHTS


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven images of two classes and several sizes, one of them stored twice."""
    folder = tmp_path_factory.mktemp("views") / "photos"
    for row in range(7):
        path = folder / ("cat", "dog")[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(min(row, 5))
        small = Image.fromarray(rng.integers(0, 255, (5, 7, 3), np.uint8))
        small.resize((40 + 3 * min(row, 5), 30 + min(row, 5)), Image.Resampling.BICUBIC).save(path)
    return folder


def label(photos, out, policy="randcrop,flip,color", **options):
    options = {"views": VIEWS, "size": SIZE, "encoding": "dense:f32", "unit_rows": 8} | options
    sl.generate(photos, teacher=teacher, out=out, augment=policy, gate=False, **options)
    return sl.open(out)


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    return label(photos, tmp_path_factory.mktemp("views") / "labels")


def largest_difference(batches):
    """The largest difference between stored logits and those of the teacher on replayed views, and the rows seen."""
    differences, rows = [], 0
    for batch in batches:
        predicted = teacher(torch.as_tensor(batch.inputs))
        differences.append((predicted - torch.as_tensor(batch.targets["logits"].values)).abs().max().item())
        rows += len(batch)
    return max(differences), rows


@pytest.mark.parametrize("policy", POLICIES)
def test_stored_logits_are_those_of_replayed_views(photos, tmp_path, policy):
    store = label(photos, tmp_path / "labels", policy)
    for options in ({"batch_size": 5}, {"batch_size": 100, "shuffle": False}):
        difference, rows = largest_difference(sl.loader(store, inputs=photos, views="all", **options))
        assert difference <= 1e-5
        assert rows == 7 * VIEWS


def test_worker_processes_replay_the_same_views(store, photos):
    batches = list(sl.loader(store, inputs=photos, batch_size=4, workers=2, device="cpu", seed=3))
    assert largest_difference(batches)[0] <= 1e-5
    for worker, here in zip(batches, sl.loader(store, inputs=photos, batch_size=4, seed=3), strict=True):
        np.testing.assert_array_equal(worker.inputs.numpy(), here.inputs)
        np.testing.assert_array_equal(worker.views, here.views)


def test_batch_size_and_processes_of_the_generator_do_not_matter(store, photos, tmp_path):
    again = label(photos, tmp_path / "again", batch_size=2)
    assert again.descriptor.views == store.descriptor.views
    rows = np.arange(store.rows)
    np.testing.assert_allclose(again.read(rows).values, store.read(rows).values, atol=1e-5)


def test_rows_are_example_major_with_the_keys_of_examples(store, photos):
    source = open_source(photos, size=SIZE)
    columns = store.take(np.arange(store.rows), ["key", "view"])
    np.testing.assert_array_equal(columns["view"], np.tile(np.arange(VIEWS), 7))
    np.testing.assert_array_equal(columns["key"], np.repeat(source.keys(), VIEWS, axis=0))


def test_the_descriptor_records_the_policy_and_some_pixels(store):
    record = store.descriptor.views
    assert (record.count, record.seed, record.size, record.examples) == (VIEWS, 0, SIZE, 7)
    assert record.policy.startswith("randcrop:scale=0.08:ratio=1.3333333333333333,flip:p=0.5,color")
    assert len(record.digests) == 7
    assert "torch" in record.software
    assert sl.inspect(store.storage).to_json()["views"]["count"] == VIEWS


def test_one_view_of_each_example_an_epoch(store, photos):
    loader = sl.loader(store, inputs=photos, views="one", batch_size=4, seed=1)
    epochs = []
    for number in range(4):
        batches = list(loader.epoch(number))
        rows, views = (np.concatenate([getattr(one, name) for one in batches]).tolist() for name in ("rows", "views"))
        epochs.append(dict(zip(rows, views, strict=True)))
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(sorted(epoch.items())) for epoch in epochs}) > 1
    assert largest_difference(loader.epoch(2))[0] <= 1e-5


def test_a_student_replays_at_its_own_size(store, photos):
    (large,) = sl.loader(store, inputs=photos, batch_size=100, size=48, shuffle=False)
    (own,) = sl.loader(store, inputs=photos, batch_size=100, shuffle=False)
    assert large.inputs.shape == (21, 48, 48, 3)
    assert own.inputs.shape == (21, SIZE, SIZE, 3)
    shrunk = large.inputs.reshape(21, SIZE, 4, SIZE, 4, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - own.inputs).mean() < 6, "the content is the same"
    (sized,) = sl.loader(store, inputs=as_source(photos, size=48), batch_size=100, shuffle=False)
    np.testing.assert_array_equal(sized.inputs, large.inputs)


def test_part_of_the_data_in_another_container_replays(store, photos):
    files = sorted(photos.rglob("*.png"))[:3]
    table = {"image": np.array([str(path) for path in files])}
    assert largest_difference(sl.loader(store, inputs=as_source(table, size=SIZE), batch_size=4))[1] == 3 * VIEWS


def test_a_dataset_gives_views_too(store, photos):
    batches = sl.LabelDataset(store, inputs=photos).__getitems__([4, 0])
    assert largest_difference(batches)[0] <= 1e-5


@pytest.mark.parametrize("data", ["digits", "roads:3,size=32x48"])
def test_arrays_and_scenes_have_views(tmp_path, data):
    rows = 3
    images = open_source(data).inputs(np.arange(rows)) if data == "digits" else data

    def mean(batch):
        return batch.float().flatten(1)[:, :3] / 255

    sl.generate(images, teacher=mean, out=tmp_path / "s", views=2, augment="randcrop", size=16, gate=False,
                encoding="dense:f32")  # fmt: skip
    (batch,) = sl.loader(sl.open(tmp_path / "s"), inputs=images, batch_size=10, device="cpu")
    np.testing.assert_allclose(mean(batch.inputs), batch.targets["logits"].values, atol=1e-5)


def test_pixels_of_another_library_version_are_refused(store, photos):
    record = store.descriptor.views
    wrong = dataclasses.replace(record.digests[2], digest="0" * 64)
    changed = dataclasses.replace(
        record, digests=(*record.digests[:2], wrong, *record.digests[3:]), software="torch 1.0"
    )
    replay = ViewInputs(open_source(photos, size=SIZE), changed)
    with pytest.raises(LabelsMisaligned, match=r"row 2: view 2 replays to other pixels.*made with torch 1\.0, here is"):
        replay.check()
    with pytest.raises(InvalidArgument, match="version 9 of the transforms, this softlabels has 1"):
        ViewInputs(open_source(photos, size=SIZE), dataclasses.replace(record, version=9))


def test_readers_that_do_not_know_views_refuse_the_store(store):
    document = store.descriptor.to_json()
    assert document["requires"] == ["views"]
    with pytest.raises(StoreUnsupported):
        parse_descriptor(canonical_json.to_bytes(document | {"requires": ["views", "later"]}))
    assert parse_descriptor(canonical_json.to_bytes(document)).views == store.descriptor.views
    for name, value in (("count", 0), ("count", 2**17), ("size", -1), ("digests", [{"key": "x"}]), ("seed", "a")):
        broken = document | {"views": document["views"] | {name: value}}
        with pytest.raises(ValueError, match=r"views|digests"):
            parse_descriptor(canonical_json.to_bytes(broken))


def test_stores_of_other_views_are_not_mixed(store, photos, tmp_path):
    with pytest.raises(StoreConflict, match="labels of other views"):
        label(photos, tmp_path / "reuse", "flip", reuse=[store.storage])
    options = {"augment": "randcrop,flip,color", "views": VIEWS, "size": SIZE, "encoding": "dense:f32", "gate": False}
    reused = sl.generate(photos, teacher=teacher, out=tmp_path / "more", reuse=[store.storage], **options)
    assert reused.reused_rows == store.rows
    with pytest.raises(StoreConflict):
        label(photos, store.storage, "flip")
    other = label(photos, tmp_path / "other", "flip")
    with pytest.raises(InvalidArgument, match="labels of different views"):
        sl.loader(sl.Ensemble([store, other]), inputs=photos)


def test_views_need_images_a_policy_and_a_number(photos, tmp_path):
    with pytest.raises(InvalidArgument, match="need a number and a policy"):
        sl.generate(photos, teacher=teacher, out=tmp_path / "s", views=2, size=SIZE)
    with pytest.raises(InvalidData, match="views need images, got float64"):
        sl.generate(
            np.zeros((4, 3)), teacher=torch.Tensor.float, out=tmp_path / "s", views=2, augment="flip", gate=False
        )
    with pytest.raises(InvalidArgument, match="unknown transform"):
        label(photos, tmp_path / "s", "flop")


def test_masks_are_those_of_the_views():
    source = open_source("roads:4,size=32x48", size=16)
    record = sl.sources.view_inputs.record_views(source, count=3, policy="randcrop,flip", seed=1)
    replay = ViewInputs(source, record)
    rows, views = np.array([2, 0, 2]), np.array([1, 0, 2])
    road = replay.target("road", rows, views)
    assert road.shape == (3, 16, 16)
    assert not np.array_equal(road[0], road[2])
    np.testing.assert_array_equal(replay.target("road", rows[1:2], views[1:2]), road[1:2])
    np.testing.assert_array_equal(replay.target("steering", rows, views), source.target("steering", rows))


def test_mixed_views_have_no_hard_labels_and_find_their_partners_in_data_of_any_order(photos, tmp_path):
    store = label(photos, tmp_path / "labels", "flip,cutmix:p=0.5")
    replay = ViewInputs(open_source(photos, size=SIZE), store.descriptor.views)
    (batch,) = sl.loader(store, inputs=photos, batch_size=100, shuffle=False)
    plain = ViewInputs(replay.source, dataclasses.replace(store.descriptor.views, policy="flip:p=0.5"))
    mixed = (batch.inputs != plain.inputs(batch.rows, batch.views)).any(axis=(1, 2, 3))
    assert 0.2 < mixed.mean() < 0.8
    assert (batch.hard[mixed] == -1).all()
    assert (batch.hard >= 0).any()
    files = np.array([str(path) for path in sorted(photos.rglob("*.png"), reverse=True)])
    backwards = as_source({"image": files}, size=SIZE)
    assert largest_difference(sl.loader(store, inputs=backwards, batch_size=4)) == (pytest.approx(0, abs=1e-5), 21)
    with pytest.raises(KeyMissing, match="lacks examples that views are mixed with"):
        list(sl.loader(store, inputs=as_source({"image": files[:2]}, size=SIZE)))
    with pytest.raises(InvalidArgument, match="cutmix mixes finished views, got flip behind it"):
        label(photos, tmp_path / "x", "cutmix,flip")


def test_views_are_not_replayed_at_a_size_that_only_a_store_names(store, photos):
    """A view of 8,192 pixels a side takes 2 GB; the sizes of honest stores are below the limit."""
    record = dataclasses.replace(store.descriptor.views, size=8192, digests=())
    with pytest.raises(InvalidArgument, match="choose that size with size=8192"):
        ViewInputs(open_source(photos, size=16), record)
    assert ViewInputs(open_source(photos, size=8192), record).size == 8192
    large = dataclasses.replace(store.descriptor, views=record)
    store = copy.copy(store)
    store.descriptor = large
    with pytest.raises(InvalidArgument, match="choose that size"):
        sl.loader(store, inputs=photos)
    with pytest.raises(InvalidArgument, match="choose that size"):
        open_data(photos, store)
