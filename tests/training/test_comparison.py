"""Comparison of models: honest rows, classes by name, and no figure for outputs that are not finite."""

import json

import numpy as np
import pytest
import torch

from softlabels.errors import InvalidArgument, InvalidData, InvalidLogits
from softlabels.models import OutputHead
from softlabels.sources import as_source
from softlabels.training import compare, train_teacher
from softlabels.training.splits import held_out_rows, held_out_rule, split_rows

MODEL = "mlp:width=8,depth=1"
RECIPE = {"steps": 60, "batch_size": 16, "lr": 0.01}


def test_rows_that_a_run_held_out_measure_it(columns, tmp_path):
    """Random labels: a network that knows its training rows by heart is no better than chance on others."""
    rng = np.random.default_rng(1)
    noise = columns(split=None, label=rng.integers(0, 2, 120), x=rng.normal(size=(120, 40)).astype(np.float32))
    source = as_source(noise)
    run = train_teacher(source, "mlp:width=128,depth=1", tmp_path / "run", steps=200, lr=0.01)
    row = compare([f"run:{tmp_path / 'run'}"], source)[0]
    assert row.measured_on == "rows that the runs held out"
    assert row.measured_rows == run.run.data.held_out.rows == 12
    assert row.value == run.run.metrics.accuracy < 0.9
    assert row.trained_share == 0
    order = rng.permutation(120)
    reordered = as_source({name: values[order] for name, values in noise.items()})
    again = compare([f"run:{tmp_path / 'run'}"], reordered)[0]
    assert (again.value, again.measured_rows) == (row.value, 12)
    fresh = as_source({"x": rng.normal(size=(50, 40)).astype(np.float32), "label": rng.integers(0, 2, 50)})
    assert compare([f"run:{tmp_path / 'run'}"], fresh)[0].measured_on == "all rows"


def test_measured_training_rows_are_reported(data, tmp_path):
    train_teacher(data, MODEL, tmp_path / "run", **RECIPE)
    run = f"run:{tmp_path / 'run'}"
    test, train = compare([run], data)[0], compare([run], data, split="train")[0]
    assert (test.measured_on, test.measured_rows, test.trained_share) == ("split test", 20, 0)
    assert (train.measured_on, train.measured_rows, train.trained_share) == ("split train", 100, 1)


def test_no_rows_are_left(columns, tmp_path):
    source = as_source(columns(split=None))
    train_teacher(source, MODEL, tmp_path / "run", **RECIPE)
    train, _ = split_rows(source)
    trained = as_source({name: values[train] for name, values in columns(split=None).items()})
    with pytest.raises(InvalidData, match="got only rows that the runs were trained on"):
        compare([f"run:{tmp_path / 'run'}"], trained)


def test_classes_are_mapped_by_name(columns, tmp_path):
    names = np.array(["wolf", "cat"])
    rows = columns()
    train_teacher(as_source(columns(label=names[rows["label"]])), MODEL, tmp_path / "run", **RECIPE)
    run = f"run:{tmp_path / 'run'}"
    complete = compare([run], as_source(columns(label=names[rows["label"]])), split="train")[0]
    assert complete.value > 0.9
    wolves = rows["label"] == 0
    reduced = as_source({"x": rows["x"][wolves], "label": names[rows["label"]][wolves]})
    assert compare([run], reduced)[0].value > 0.8
    assert compare([run], as_source({"x": rows["x"], "label": np.where(wolves, "wolf", "cat")}))[0].value > 0.9
    with pytest.raises(InvalidData, match="not among the class names"):
        compare([run], as_source({"x": rows["x"], "label": np.where(wolves, "wolf", "dog")}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_have_no_accuracy(data, bad):
    def model(x):
        logits = x[:, :2].clone()
        logits[3:4, 1] = bad
        return logits

    with pytest.raises(InvalidLogits, match=r"NaN or infinity in 1 of 20 rows, first in row 103"):
        compare([model], data)


def test_masked_classes_are_fine(data):
    assert compare([lambda x: torch.stack([x.sum(1), x[:, 0] * 0 - torch.inf], dim=1)], data)[0].value == 0.5


def test_no_nan_in_json(data, columns):
    wrong = columns()["label"]
    first = compare([lambda x: torch.eye(2)[(x.sum(1) < 4.5).long()], lambda x: x[:, :2]], data)
    assert first[0].value < 0.2
    nothing = as_source(columns(label=np.zeros_like(wrong)))
    rows = compare([lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2)], nothing)
    assert (rows[0].value, rows[0].retention) == (0, None)
    json.dumps([row.to_json() for row in rows], allow_nan=False)


def test_models_of_another_task_are_refused(data):
    with pytest.raises(InvalidArgument, match="fewer classes than the data shows, got 1; expected at least the 2"):
        compare([lambda x: x[:, :1]], data)
    with pytest.raises(InvalidArgument, match="models: got none; expected at least one"):
        compare([], data)

    def two_heads(x):
        return {"a": x, "b": x}

    two_heads.heads = {name: OutputHead(classes=3) for name in "ab"}
    with pytest.raises(InvalidData, match="no head to compare with hard labels, got a, b"):
        compare([two_heads], data)


def test_a_row_is_on_one_side_whatever_the_order_and_the_file(columns):
    rows = columns(split=None)
    doubled = {name: np.concatenate([values, values]) for name, values in rows.items()}
    source = as_source(doubled)
    train, held_out = split_rows(source)
    assert len(held_out) == 24
    assert set(held_out % 120) & set(train % 120) == set()
    rule = held_out_rule(source)
    order = np.random.default_rng(0).permutation(120)
    permuted = as_source({name: values[order] for name, values in rows.items()})
    assert set(order[held_out_rows(rule, permuted)]) == set(held_out % 120)


def test_splits_without_train_are_refused_and_rows_without_split_are_not_used(columns):
    with pytest.raises(InvalidArgument, match="no split is called train, got test, validation"):
        split_rows(as_source(columns(split=np.where(np.arange(120) < 60, "test", "validation"))))
    partly = np.array(["train"] * 60 + ["validation"] * 30 + [""] * 30)
    train, held_out = split_rows(as_source({**columns(split=None), "split": partly}))
    assert (len(train), len(held_out)) == (60, 30)
