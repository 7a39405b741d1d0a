"""Batches hold copies: changing one in place changes neither data nor store nor other batches."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels.loading import Loader
from softlabels.loading.collate.collator import effective_check
from softlabels.sources import DatasetSource, Ragged, TokenSource, as_source, id_keys
from tests.loading.stores import random_logits, write_store

ROWS = 60
INPUTS = np.arange(ROWS * 6, dtype=np.float32).reshape(ROWS, 2, 3)
HARD = np.arange(ROWS) % 7


def arrays(tmp_path):
    return INPUTS.copy(), None


def files(kind):
    def make(tmp_path):
        path = tmp_path / f"data.{kind}"
        if kind == "npz":
            np.savez(path, x=INPUTS)
        else:
            flat = pa.FixedSizeListArray.from_arrays(pa.array(INPUTS.reshape(-1)), 6)
            pq.write_table(pa.table({"x": flat}), path)
        return str(path), None

    return make


def dataset(tmp_path):
    tensor = torch.from_numpy(INPUTS.copy())
    return DatasetSource(tensor, ids=range(ROWS), collate=lambda examples: tensor[: len(examples)]), id_keys(
        range(ROWS)
    )


def tokens(tmp_path):
    return TokenSource([[row, row + 1, row + 2] for row in range(ROWS)]), None


def all_values(inputs):
    return np.asarray(inputs.values if isinstance(inputs, Ragged) else inputs)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    "make",
    [arrays, files("npz"), files("parquet"), dataset, tokens],
    ids=["arrays", "npz", "parquet", "dataset", "tokens"],
)
def test_inputs_changed_in_place_change_no_data(tmp_path, make, shuffle):
    """Every array of every batch is overwritten; the next epoch returns the same inputs and labels."""
    data, keys = make(tmp_path)
    source = as_source(data)
    store = write_store(tmp_path / "s", random_logits(ROWS), keys=source.keys() if keys is None else keys)
    loader = Loader(store, inputs=data, batch_size=20, shuffle=shuffle, check="all")
    epochs = []
    for _ in range(3):
        inputs, labels = [], []
        for batch in loader.epoch(0):
            inputs.append(all_values(batch.inputs).copy())
            labels.append(batch.targets["logits"].values.copy())
            all_values(batch.inputs)[...] = 0
            batch.targets["logits"].values[...] = 0
            batch.targets["logits"].ids[...] = 0
            batch.rows[...] = 0
        epochs.append((np.concatenate(inputs), np.concatenate(labels)))
    for inputs, labels in epochs[1:]:
        np.testing.assert_array_equal(inputs, epochs[0][0])
        np.testing.assert_array_equal(labels, epochs[0][1])


def test_hard_labels_changed_in_place_change_no_data(tmp_path):
    data = (INPUTS.copy(), HARD.copy())
    loader = Loader(None, inputs=data, batch_size=ROWS, shuffle=False)
    for device in (None, "cpu"):
        loader = Loader(None, inputs=data, batch_size=ROWS, shuffle=False, device=device)
        for _ in range(2):
            (batch,) = loader.epoch(0)
            np.testing.assert_array_equal(np.asarray(batch.hard), HARD)
            batch.hard[...] = -1


def test_a_loader_takes_paths_arrays_and_tables(tmp_path, sealed, digits_path, digits):
    """``inputs`` is whatever ``as_source`` opens, for a Loader and for a LabelDataset."""
    store = sl.open(sealed)
    images = digits.inputs(np.arange(len(digits)))
    for inputs in (
        digits,
        "digits",
        str(digits_path),
        digits_path,
        images,
        torch.from_numpy(images),
        {"image": images},
    ):
        (batch,) = sl.loader(store, inputs=inputs, batch_size=1797, check="all")
        np.testing.assert_array_equal(batch.inputs, images[batch.rows])
        np.testing.assert_array_equal(sl.LabelDataset(store, inputs=inputs, check="all")[7].inputs[0], images[7])
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"image": images.reshape(1797, 64)[:50].tolist()})
    assert len(sl.loader(None, inputs=table, batch_size=50)) == 1


def test_relative_paths_survive_a_change_of_directory(tmp_path, monkeypatch, sealed, digits):
    """In this process and in workers, which are started after the change."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", image=digits.inputs(np.arange(1797)))
    store = sl.open(os.path.relpath(sealed))
    loaders = [sl.loader(store, inputs="data.npz", batch_size=600, workers=workers) for workers in (0, 1)]
    dataset = sl.LabelDataset(store, inputs="data.npz")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for loader in loaders:
        assert sum(len(batch) for batch in loader) == 1797
    assert dataset[3].rows.tolist() == [3]


def test_only_inputs_named_by_content_are_checked(sealed, digits):
    store = sl.open(sealed)
    assert effective_check("all", store, digits) == "all"
    assert effective_check("all", None, digits) == effective_check("all", store, None) == "off"
    named = DatasetSource(torch.zeros(3, 2), ids=range(3))
    assert effective_check("sample", store, named) == "off"
    with pytest.raises(InvalidArgument, match="check: unknown value, got 'maybe'; expected sample, all, off"):
        effective_check("maybe", store, digits)
