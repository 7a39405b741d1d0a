"""Every reader returns the labels of ``Store.read``: for each encoding, head kind, shard format and device."""

from pathlib import Path

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels import losses
from softlabels.encodings import parse
from softlabels.labels import DISTRIBUTIONS
from softlabels.loading.adapters.torch_datasets import collate
from tests.encodings.specs import with_examples
from tests.loading.stores import memory_for, random_logits

GOLDEN = Path(__file__).parent.parent / "store" / "golden"
CLASSES, ROWS = 40, 48
ENCODINGS = with_examples([
    "dense:f32", "dense:f16", "dense:bf16", "dense:q8", "topk:4", "topk:4:q8", "topk:4:d4", "topk:4:f16:3",
    "topk:4:d4:3", "adaptive:0.05", "adaptive:0.05:f16:3", "adaptive:0.05:q8", "sampled:5",
    "sampled:5:0.5", "threshold:0.1", "counts:9:0.05:3:excess", "counts:20:0:3:dither",
])  # fmt: skip
KINDS = {"classes": (), "tokens": (None,), "pixels": (2, 3), "regression": (), "embedding": ()}
FITTED = ("adaptive:0.05:f16:3", "dense:q8:scaled")
CASES = [
    (kind, encoding)
    for kind in KINDS
    for encoding in ENCODINGS
    # Values to regress on have no classes to list.
    if kind in DISTRIBUTIONS or encoding.startswith("dense")
] + [("regression", "dense:q8:scaled"), ("embedding", "dense:q8:scaled")]


def write(path, kind, encoding, shard_format):
    """A store of 48 rows in several units and chunks, with token rows of 0 to 4 positions."""
    shape = KINDS[kind]
    positions = {"tokens": ROWS * 2, "pixels": ROWS * 6}.get(kind, ROWS)
    logits = random_logits(positions, CLASSES)
    values = logits.reshape(ROWS, *(side for side in shape if side), CLASSES) if kind != "tokens" else None
    if kind == "tokens":
        lengths = np.resize([0, 3, 1, 4, 2, 2], ROWS)
        values = np.split(logits, np.cumsum(lengths)[:-1])
    head = sl.Head(classes=CLASSES, kind=kind, encoding=encoding, shape=shape)
    pilot = {"logits": random_logits(80, CLASSES, seed=1)}
    options = {"pilot": pilot} if encoding.count(":") == 3 or encoding in FITTED else {}
    with sl.create(path, heads={"logits": head}, unit_rows=20, shard_format=shard_format, **options) as writer:
        writer.append(range(ROWS), {"logits": values})
    return sl.open(path)


def assert_same_labels(labels, expected):
    """The same numbers in every array; a device gets them in the dtypes they are stored in."""
    assert type(labels) is type(expected)
    names = [name for name, value in vars(expected).items() if isinstance(value, np.ndarray)]
    assert names
    if getattr(expected, "dither", None) is not None:
        assert labels.dither.step == expected.dither.step
        np.testing.assert_array_equal(np.asarray(labels.dither.offsets), expected.dither.offsets)
    for name, value in vars(expected).items():
        if name == "dither" and value is not None:
            continue
        if name in names:
            array = np.asarray(getattr(labels, name))
            np.testing.assert_array_equal(array.astype(value.dtype), value, err_msg=name)
        else:
            assert getattr(labels, name) == value, name


@pytest.mark.parametrize(
    ("kind", "encoding", "shard_format"),
    [
        (kind, encoding, shard_format)
        for index, (kind, encoding) in enumerate(CASES)
        for shard_format in ("zarr", "parquet")
        # Pixels take turns: their columns are those of rows and of ragged rows, which both formats hold above.
        if kind != "pixels" or encoding.startswith("dense") or shard_format == ("zarr", "parquet")[index % 2]
    ],
)
def test_every_reader_returns_the_labels_of_the_store(tmp_path, kind, encoding, shard_format):
    assert_readers_agree(write(tmp_path / "store", kind, encoding, shard_format))


@pytest.mark.parametrize(
    "name", ["threshold-zarr", "threshold-parquet", "counts-zarr", "counts-parquet", "unbiased-zarr"]
)
def test_every_reader_returns_the_labels_of_a_store_of_the_first_rule(name):
    """Writers make no such stores any more: rows and texts whose draws have no offsets."""
    store = sl.open(GOLDEN / name)
    assert parse(store.heads["logits"].encoding, classes=300).first_rule
    assert_readers_agree(store)


def assert_readers_agree(store):
    """A Loader with much and with little memory, for NumPy and for a device, and a LabelDataset."""
    readers = {
        (device, memory): sl.loader(store, batch_size=11, seed=1, window=2, device=device, memory=memory)
        for device in (None, "cpu")
        for memory in (None, memory_for(store, 2))
    }
    dataset = sl.LabelDataset(store, memory=1)
    for (device, _), reader in readers.items():
        rows = []
        for batch in reader:
            labels, expected = batch.targets["logits"], store.read(batch.rows)
            assert isinstance(labels.values, np.ndarray if device is None else torch.Tensor)
            assert_same_labels(labels, expected)
            rows += batch.rows.tolist()
        assert sorted(rows) == list(range(store.rows))
    numbers = np.random.default_rng(0).permutation(store.rows)[:7]
    (batch,) = dataset.__getitems__(numbers.tolist())
    assert_same_labels(batch.targets["logits"], store.read(numbers))
    assert_same_labels(collate([batch]).targets["logits"], store.read(numbers))


@pytest.mark.parametrize(("kind", "encoding"), [case for case in CASES if case[0] in DISTRIBUTIONS])
def test_losses_are_equal_on_every_device(tmp_path, kind, encoding):
    """Labels in stored dtypes are widened by the loss; a codebook row has its own tail prior (KL 6.315, not 6.489)."""
    store = write(tmp_path / "store", kind, encoding, "zarr")
    for batch in sl.loader(store, batch_size=16, device="cpu"):
        expected = store.read(batch.rows)
        student = torch.from_numpy(random_logits(expected.log_probs()[..., 0].size, CLASSES, seed=2))
        student = student.reshape(expected.log_probs().shape)
        value = losses.kl(student, batch.targets["logits"]).item()
        assert value == pytest.approx(losses.kl(student, expected).item(), abs=1e-6)
