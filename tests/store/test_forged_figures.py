"""Figures and dense rows that a store claims: sealing takes them within bounds, or names the file that holds them."""

import json

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import load, save

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreCorrupt
from softlabels.fidelity import Fidelity, combine
from softlabels.labels import Head
from softlabels.store.format import canonical_json


@pytest.fixture
def unsealed(tmp_path):
    """A committed store without a snapshot, its record and its extras."""
    root = tmp_path / "s"
    head = Head(classes=5, encoding="topk:2")
    with sl.create(root, heads={"logits": head}, unit_rows=20) as writer:
        writer.append(range(20), {"logits": np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)})
    for path in (root / "snapshots").iterdir():
        path.unlink()
    (record,) = (root / "records").rglob("*.json")
    (extras,) = (root / "extras").rglob("*.safetensors")
    return root, record, extras


def sign(path, document):
    document.pop("digest")
    path.write_bytes(canonical_json.to_bytes(canonical_json.sign(document)))


@pytest.mark.parametrize("name", ["kl", "mass", "top1", "entropy", "error", "rows"])
@pytest.mark.parametrize("value", [1e308, -1e308, 2**60, 1e90])
def test_a_figure_of_a_record_that_cannot_be_added_is_refused(unsealed, name, value):
    root, path, _ = unsealed
    record = json.loads(path.read_bytes())
    record["fidelity"]["logits"][name] = {"1": value} if name == "kl" else value
    sign(path, record)
    if abs(value) <= 1e100 and name != "rows":
        assert sl.seal(root).fidelity["logits"].units.rows == 20
    else:
        with pytest.raises(StoreCorrupt, match=path.name):
            sl.seal(root)


@pytest.mark.parametrize("row", [np.inf, -np.inf, [np.inf, 0, 0, 0, 0], 3e38, -3e38, [3e38, -3e38, 0, 0, 0]])
def test_dense_rows_are_finite_or_refused(unsealed, row):
    root, path, extras = unsealed
    arrays = load(extras.read_bytes())
    arrays["logits/probe"][0] = row
    extras.write_bytes(save(arrays))
    record = json.loads(path.read_bytes())
    record["extras"] = {"size": extras.stat().st_size, "blake3": blake3(extras.read_bytes()).hexdigest()}
    sign(path, record)
    if np.isinf(row).any():
        with pytest.raises(StoreCorrupt, match="without a finite greatest value"):
            sl.seal(root)
    else:
        sl.seal(root)
        assert sl.verify(root, deep=True).ok


def test_figures_without_bound_are_stored_as_the_greatest():
    """JSON has no infinity; a row whose label rules out the teacher's class has an infinite KL."""
    figure = Fidelity(rows=1, kl={"1": np.inf}, mass=np.inf, top1=-np.inf, entropy=1.0, error=1e308)
    value = figure.to_json()
    assert value == {"rows": 1, "kl": {"1": 1e100}, "mass": 1e100, "top1": 1e100, "entropy": 1.0, "error": 1e100}
    canonical_json.to_bytes(combine([Fidelity.from_json(value)] * 3).to_json())


@pytest.mark.parametrize("temperature", [0.0, 1e-308, 0.0009, 1001.0, 1e308, float("inf"), float("nan")])
def test_a_temperature_beyond_its_bounds_is_refused(temperature):
    with pytest.raises(InvalidArgument, match=r"expected numbers from 0\.001 to 1000"):
        Head(classes=5, encoding="topk:2", temperatures=(temperature,))
