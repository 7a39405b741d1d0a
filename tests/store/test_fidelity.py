"""Every store says how good its labels are: by unit and on the probe, as float64 says, whoever wrote it and how."""

import shutil

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels import encodings, fidelity
from softlabels.errors import StoreCorrupt
from softlabels.generation import generate
from softlabels.labels import Head
from softlabels.store import UnitStatistics, describe_store
from softlabels.store.format.record import read_record

OPTIONS = {"encoding": "topk:4", "temperatures": (1.0, 4.0), "unit_rows": 400}


def log_softmax64(logits, temperature):
    scaled = logits.astype(np.float64) / temperature
    return scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)


def oracle(logits, k, temperatures, prior=None):
    """Figures of the k likeliest with the rest as ``prior`` says (evenly for None), from the definition."""
    kl, order = {}, np.argsort(-logits, axis=1, kind="stable")[:, k:]
    for index, temperature in enumerate(temperatures):
        log_p = log_softmax64(logits, temperature)
        rest = np.take_along_axis(log_p, order, axis=1)
        pi = np.ones(logits.shape[1]) if prior is None else prior[index].astype(np.float64)
        share = pi[order] / pi[order].sum(axis=1, keepdims=True)
        tail_sum = np.logaddexp.reduce(rest, axis=1, keepdims=True)
        kl[f"{temperature:g}"] = (np.exp(rest) * (rest - tail_sum - np.log(share))).sum(axis=1).mean()
    p = np.exp(log_softmax64(logits, temperatures[0]))
    return {"kl": kl, "mass": 1 - np.take_along_axis(p, order, axis=1).sum(axis=1).mean(), "top1": 1.0,
            "entropy": -(p * np.log(p)).sum(axis=1).mean()}  # fmt: skip


def assert_alike(figures, expected, tolerance=2e-3):
    assert figures["kl"].keys() == expected["kl"].keys()
    for name in figures["kl"]:
        assert figures["kl"][name] == pytest.approx(expected["kl"][name], rel=tolerance, abs=2e-6)
    for name in ("mass", "top1", "entropy"):
        assert figures[name] == pytest.approx(expected[name], rel=tolerance, abs=2e-6)


def records_of(root):
    store = sl.open(root)
    return [read_record(store.storage, unit, store.descriptor) for unit in range(store.units)], store


def test_each_unit_measures_a_seeded_sample_of_its_rows(sealed, dense_logits):
    records, store = records_of(sealed)
    for record in records:
        rows = np.arange(record.rows)
        chosen = rows[UnitStatistics(store.descriptor, record.unit).wants_measured(rows)]
        measured = record.fidelity["logits"]
        assert measured.rows == len(chosen)
        assert 15 < len(chosen) * 400 / record.rows < 64
        assert_alike(measured.to_json(), oracle(dense_logits[400 * record.unit + chosen], 4, (1.0, 4.0)))


def test_sealing_adds_them_up_and_names_the_poorest(sealed):
    records, store = records_of(sealed)
    parts = [record.fidelity["logits"] for record in records]
    fidelity = store.snapshot.fidelity["logits"]
    units = fidelity.units
    weights = [figures.rows for figures in parts]
    assert units.rows == sum(weights)
    for name in ("mass", "top1", "entropy", "error"):
        expected = np.average([getattr(figures, name) for figures in parts], weights=weights)
        assert getattr(units, name) == pytest.approx(expected, rel=1e-12)
    for name in ("1", "4"):
        assert units.kl[name] == pytest.approx(np.average([p.kl[name] for p in parts], weights=weights), rel=1e-12)
    poorest = min(range(len(parts)), key=lambda unit: parts[unit].mass)
    assert (fidelity.poorest_unit, fidelity.poorest) == (poorest, parts[poorest])


def test_the_probe_is_measured_with_the_prior_that_readers_use(sealed, dense_logits):
    store = sl.open(sealed)
    probe = store.probe()
    np.testing.assert_allclose(probe.logits, dense_logits[probe.rows], atol=1e-4)
    figures = store.snapshot.fidelity["logits"].probe
    assert figures.rows == len(probe.rows)
    assert_alike(figures.to_json(), oracle(probe.logits, 4, (1.0, 4.0), store.prior("logits")))


def test_any_batch_size_order_and_resume_measure_the_same(tmp_path, sealed, digits, teacher):
    root = tmp_path / "s"
    generate(digits, teacher=teacher, out=root, batch_size=37, **OPTIONS)
    shutil.rmtree(root / "snapshots")
    shutil.rmtree(root / "probe")
    for unit in (0, 3):
        (root / "records" / "00" / f"{unit:08d}.json").unlink()
    generate(digits, teacher=teacher, out=root, batch_size=1000, **OPTIONS)
    (records, store), (expected, other) = records_of(root), records_of(sealed)
    for a, b in zip(records, expected, strict=True):
        assert a.fidelity["logits"].rows == b.fidelity["logits"].rows
        assert_alike(a.fidelity["logits"].to_json(), b.fidelity["logits"].to_json(), 1e-4)
    np.testing.assert_array_equal(store.probe().rows, other.probe().rows)
    assert_alike(store.snapshot.fidelity["logits"].to_json(), other.snapshot.fidelity["logits"].to_json(), 1e-4)


def test_of_ragged_rows_one_position_each_is_kept_and_measured(tmp_path):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 120)
    parts = [(3 * rng.standard_normal((n, 30))).astype(np.float32) for n in lengths]
    head = Head(classes=30, encoding="topk:4:f16", kind="tokens", shape=(None,), temperatures=(1.0, 2.0))
    with sl.create(tmp_path / "s", heads={"logits": head}, unit_rows=50) as writer:
        writer.append(range(120), {"logits": parts})
    store = sl.open(tmp_path / "s")
    rows, logits, positions = store.probe()
    assert (positions < lengths[rows]).all()
    assert len(set(positions.tolist())) > 3
    np.testing.assert_array_equal(logits, [parts[row][position] for row, position in zip(rows, positions, strict=True)])
    measured = store.snapshot.fidelity["logits"].probe.to_json()
    assert_alike(measured, oracle(logits, 4, (1.0, 2.0), store.prior("logits")))


def test_a_probe_that_is_not_what_was_sealed_is_refused(tmp_path, sealed):
    root = tmp_path / "s"
    shutil.copytree(sealed, root)
    (path,) = (root / "probe").iterdir()
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    with pytest.raises(StoreCorrupt, match=rf"{path.name} is damaged: it is not what was committed"):
        sl.open(root).probe()
    path.unlink()
    with pytest.raises(StoreCorrupt, match=path.name):
        sl.open(root).probe()


@pytest.mark.parametrize(
    ("scale", "encoding", "poor"),
    [(1.0, "topk:2", True), (1.0, "topk:30", False), (12.0, "topk:4", False), (0.0, "topk:2", False),
     (1.0, "threshold:0.1", False), (1.0, "dense:f16", False)],
    ids=["few of many", "all", "sure of itself", "no opinion", "a sample", "dense"],
)  # fmt: skip
def test_poor_labels_are_warned_of_and_good_ones_are_not(tmp_path, scale, encoding, poor):
    logits = (scale * 1.5 * np.random.default_rng(0).standard_normal((400, 30))).astype(np.float32)
    with sl.create(tmp_path / "s", heads={"logits": sl.Head(classes=30, encoding=encoding)}, unit_rows=400) as writer:
        writer.append(range(400), {"logits": logits})
    head = describe_store(tmp_path / "s").to_json()["heads"]["logits"]
    if poor:
        assert "nats from the teacher: list more" in head["warning"]
        assert "softlabels plan" in head["warning"]
    else:
        assert head["warning"] is None
    assert {"mass", "top1", "entropy", "error", "kl", "units"} <= head["fidelity"].keys()


def test_a_missing_probe_says_what_it_costs(sealed, tmp_path):
    """Labels are read without it; planning names the command that restores it."""
    shutil.copytree(sealed, tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "probe")
    assert len(sl.open(tmp_path / "s").read([0, 1])) == 2
    with pytest.raises(StoreCorrupt, match=r"softlabels seal.*can be read and trained from without the probe"):
        sl.plan(tmp_path / "s")
    sl.seal(tmp_path / "s")
    assert sl.plan(tmp_path / "s").rows


@pytest.mark.parametrize("spec", ["topk:3", "dense:q8", "sampled:5"])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_groups_have_the_figures_of_their_rows_alone(monkeypatch, spec, shape):
    """Also where a group begins in the midst of a block of rows."""
    monkeypatch.setattr(fidelity, "BLOCK", 45)
    logits = np.random.default_rng(0).standard_normal((9, *shape, 10)).astype(np.float32)
    head = Head(encoding=spec, classes=10, shape=shape, kind="pixels" if shape else "classes")
    encoding = encodings.parse(spec, classes=10)
    labels = encoding.decode(encoding.encode(torch.from_numpy(logits), head, np.arange(9)).arrays, head)
    groups = [slice(0, 2), slice(2, 8), slice(8, 9)]
    together = fidelity.measure_groups(logits, labels, [1.0], [2, 6, 1])
    for figures, group in zip(together, groups, strict=True):
        rows = np.arange(9)[group]
        alone = fidelity.measure(logits[group], labels.take(rows), [1.0])
        assert figures.rows == alone.rows == len(rows) * int(np.prod(shape))
        for name in fidelity.MEANS:
            assert getattr(figures, name) == pytest.approx(getattr(alone, name), rel=1e-9), name
        assert figures.kl == pytest.approx(alone.kl, rel=1e-9)
