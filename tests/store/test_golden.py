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
    if "which" in expected:
        if "lengths" in expected:
            np.testing.assert_array_equal(columns["logits/length"], expected["lengths"])
        if "logits/tail" in columns:
            np.testing.assert_array_equal(columns["logits/tail"], expected["tail"])
        np.testing.assert_array_equal(columns["logits/prior"], expected["which"])
        np.testing.assert_array_equal(independent_reader.codebook(GOLDEN / name, kind), expected["priors"])


def places_of(kind, shape):
    """Row of each item; also the position in a ragged row; or the column and the line of a pixel."""
    if kind == "classes":
        return [(row,) for row in range(260)]
    if kind == "tokens":
        return [(row, position) for row, length in enumerate([3, 0, 5]) for position in range(length)]
    return [(row, column, line) for row in range(3) for line in range(shape[0]) for column in range(shape[1])]


@pytest.mark.parametrize(
    ("encoding", "kind", "shape", "shard_format"),
    [
        ("counts:9:0:3:dither", "classes", (), "zarr"),
        ("counts:9:0:3:dither", "pixels", (2, 3), "zarr"),
        ("threshold:0.1:9:dither", "tokens", (None,), "parquet"),
        ("threshold:0.1:9:dither", "pixels", (3, 2), "parquet"),
    ],
)
def test_the_document_is_enough_to_use_the_offsets(tmp_path, encoding, kind, shape, shard_format):
    """Numbers of items are those of their formula, and with the teacher's logits they make the draws again."""
    places = places_of(kind, shape)
    logits = np.random.default_rng(3).normal(0, 2, (len(places), 30)).astype(np.float32)
    values = np.split(logits, [3, 3]) if kind == "tokens" else logits.reshape(-1, *shape, 30)
    head = sl.Head(classes=30, encoding=encoding, kind=kind, shape=shape)
    pilot = {"logits": np.random.default_rng(4).normal(0, 2, (60, 30)).astype(np.float32)}
    with sl.create(tmp_path / "s", heads={"logits": head}, shard_format=shard_format, pilot=pilot) as writer:
        writer.append(range(len(values)), {"logits": values})
    columns, descriptor = independent_reader.read_store(tmp_path / "s")
    kind_of = descriptor["heads"]["logits"]
    numbers = columns["logits/dither"].tolist()
    assert numbers == [independent_reader.dither(descriptor["seed"], *place) for place in places]
    codes = independent_reader.codebook(tmp_path / "s", kind_of) if "codebook" in kind_of else None
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    for item, (ids, weights) in enumerate(independent_reader.listed(columns, kind_of, "logits", 0, codes)):
        u = independent_reader.offsets(numbers[item], 30)
        if encoding.startswith("counts"):
            draws = np.zeros(30)
            draws[ids] = 9 * weights
            np.testing.assert_allclose(draws, np.floor(9 * p[item] + u), atol=1e-9)
        else:
            assert sorted(ids) == np.flatnonzero(p[item] / 0.1 + u >= 1).tolist()


def test_the_document_is_enough_to_decode_scaled_numbers():
    columns, descriptor = independent_reader.read_store(GOLDEN / SCALED)
    assert descriptor["requires"] == ["codebook"]
    codes = independent_reader.codebook(GOLDEN / SCALED, descriptor["heads"]["logits"])
    expected = np.load(GOLDEN / f"{SCALED}.npz")["values"]
    np.testing.assert_array_equal(independent_reader.scaled(columns, "logits", codes), expected)


def test_the_independent_reader_imports_nothing_of_ours_and_is_short():
    path = Path(independent_reader.__file__)
    assert len(path.read_text().splitlines()) < 240
    code = (
        f"import sys, runpy\nsys.argv = ['x', {str(GOLDEN / 'topk-zarr')!r}]\n"
        f"runpy.run_path({str(path)!r}, run_name='__main__')\n"
        "assert not [name for name in sys.modules if name.startswith('softlabels')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 11
