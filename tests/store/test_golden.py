"""Stores written once are read forever, by us and by a reader that knows the document alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import softlabels as sl
from tests.store import independent_reader

GOLDEN = Path(__file__).parent / "golden"
STORES = ["topk-zarr", "topk-parquet", "dense-zarr", "ragged-zarr", "ragged-parquet", "appended-zarr"]
LATER = ["adaptive-zarr", "adaptive-parquet", "threshold-zarr", "threshold-parquet", "counts-zarr", "counts-parquet",
         "unbiased-zarr", "excess-zarr", "excess-parquet", "pixels-zarr", "pixels-parquet",
         "dither-zarr", "dither-parquet"]  # fmt: skip
"""Of encodings whose columns are ragged, or with positions of a fixed shape."""
SCALED = "scaled-zarr"
"""Of numbers whose means and deviations are a file of the store."""


def by_class(ids, values):
    """Entries of each row by ascending id, padding last: draws are in no order."""
    order = np.argsort(np.where(np.isfinite(values), ids, np.iinfo(np.int64).max), axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)


@pytest.mark.parametrize("name", [*STORES, *LATER, SCALED])
def test_a_golden_store_holds_what_it_held(name):
    store = sl.open(GOLDEN / name)
    expected = np.load(GOLDEN / f"{name}.npz")
    labels = store.read(range(store.rows))
    if "ids" in expected:
        ids, values = by_class(labels.ids, labels.values)
        expected_ids, expected_values = by_class(expected["ids"], expected["values"])
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(values, expected_values)
        np.testing.assert_array_equal(labels.log_tail, expected["tail"])
    else:
        np.testing.assert_array_equal(labels.values, expected["values"])
    if "lengths" in expected:
        np.testing.assert_array_equal(labels.lengths, expected["lengths"])
    if "offsets" in expected:
        np.testing.assert_array_equal(labels.dither.offsets, expected["offsets"])
        assert labels.dither.step == expected["step"]
    if "which" in expected:
        np.testing.assert_array_equal(labels.prior_index, expected["which"])
        np.testing.assert_array_equal(store.codebook("logits").priors, expected["priors"])
    np.testing.assert_array_equal(store.keys(), expected["keys"])
    assert store.snapshot.digest == str(expected["digest"])
    assert sl.verify(GOLDEN / name, deep=True).ok


@pytest.mark.parametrize("name", STORES)
def test_the_document_is_enough_to_read_one(name):
    columns, descriptor = independent_reader.read_store(GOLDEN / name)
    expected = np.load(GOLDEN / f"{name}.npz")
    assert descriptor["shard"]["format"] in name
    np.testing.assert_array_equal(columns["key"], expected["keys"])
    np.testing.assert_array_equal(columns["logits/values"].astype(np.float32), expected["values"])
    if "ids" in expected:
        np.testing.assert_array_equal(columns["logits/ids"], expected["ids"])
        np.testing.assert_array_equal(columns["logits/tail"], expected["tail"])
    if "lengths" in expected:
        np.testing.assert_array_equal(columns["logits/length"], expected["lengths"])


@pytest.mark.parametrize("name", LATER)
def test_the_document_is_enough_to_decode_ragged_columns(name):
    columns, descriptor = independent_reader.read_store(GOLDEN / name)
    expected = np.load(GOLDEN / f"{name}.npz")
    kind = descriptor["heads"]["logits"]
    labels = sl.open(GOLDEN / name).read(range(sl.open(GOLDEN / name).rows))
    np.testing.assert_array_equal(columns["key"], expected["keys"])
    for index, temperature in enumerate(kind["temperatures"]):
        codes = None if "codebook" not in kind else independent_reader.codebook(GOLDEN / name, kind)
        result = independent_reader.listed(columns, kind, "logits", index, codes)
        assert len(result) == len(expected["ids"])
        for item, (ids, p) in enumerate(result):
            there = np.isfinite(labels.values[item])
            np.testing.assert_array_equal(ids, labels.ids[item][there])
            np.testing.assert_allclose(p, np.exp(labels.listed_log_probs(temperature)[item][there]), rtol=1e-5)
    if "offsets" in expected:
        np.testing.assert_array_equal(columns["logits/dither"], expected["offsets"])
        numbers = [number for length in expected["lengths"] for number in range(length)]
        first = [
            int(f"{offset:032b}"[::-1], 2) - number for offset, number in zip(expected["offsets"], numbers, strict=True)
        ]
        rows = np.repeat(np.arange(len(expected["lengths"])), expected["lengths"])
        counters = [independent_reader.first_counter(descriptor["seed"], int(row)) for row in rows]
        assert [number % 2**32 for number in first] == counters
    if "which" in expected:
        if "lengths" in expected:
            np.testing.assert_array_equal(columns["logits/length"], expected["lengths"])
        if "logits/tail" in columns:
            np.testing.assert_array_equal(columns["logits/tail"], expected["tail"])
        np.testing.assert_array_equal(columns["logits/prior"], expected["which"])
        np.testing.assert_array_equal(independent_reader.codebook(GOLDEN / name, kind), expected["priors"])


def test_the_document_is_enough_to_decode_scaled_numbers():
    columns, descriptor = independent_reader.read_store(GOLDEN / SCALED)
    assert descriptor["requires"] == ["codebook"]
    codes = independent_reader.codebook(GOLDEN / SCALED, descriptor["heads"]["logits"])
    expected = np.load(GOLDEN / f"{SCALED}.npz")["values"]
    np.testing.assert_array_equal(independent_reader.scaled(columns, "logits", codes), expected)


def test_the_independent_reader_imports_nothing_of_ours_and_is_short():
    path = Path(independent_reader.__file__)
    assert len(path.read_text().splitlines()) < 230
    code = (
        f"import sys, runpy\nsys.argv = ['x', {str(GOLDEN / 'topk-zarr')!r}]\n"
        f"runpy.run_path({str(path)!r}, run_name='__main__')\n"
        "assert not [name for name in sys.modules if name.startswith('softlabels')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 11
