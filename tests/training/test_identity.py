"""The identity of a run: the same command returns the same run, and any change of its causes is refused."""

import copy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import softlabels as sl
from softlabels.errors import StoreConflict
from softlabels.sources import as_source
from softlabels.training import train_student, train_teacher

MODEL = "mlp:width=4,depth=1"
RECIPE = {"steps": 2, "batch_size": 16}
OTHER = {"seed": 1, "steps": 3, "lr": 0.01, "batch_size": 8, "hard_labels": 10}


def changed_at(values, row, value):
    values = values.copy()
    values[row] = value
    return values


@given(
    change=st.sampled_from(
        ["label", "split", "input", "names", "seed", "steps", "lr", "batch_size", "hard_labels", "model"]
    ),
    row=st.integers(0, 99),
)
@settings(max_examples=40)
def test_any_single_change_is_refused_and_no_change_returns_the_run(change, row, columns, tmp_path_factory):
    table = columns()
    out = tmp_path_factory.mktemp("run") / "run"
    first = train_teacher(as_source(table), MODEL, out, **RECIPE)
    model, recipe = MODEL, dict(RECIPE)
    if change == "label":
        table["label"] = changed_at(table["label"], row, 1 - table["label"][row])
    elif change == "split":
        table["split"] = changed_at(table["split"], row, "test")
    elif change == "input":
        table["x"] = changed_at(table["x"], row, 9.0)
    elif change == "names":
        table["label"] = np.where(table["label"] == 0, "cat", "dog")
    elif change == "model":
        model = "mlp:width=5,depth=1"
    else:
        recipe[change] = OTHER[change]
    with pytest.raises(StoreConflict, match=r"holds another run: .* is "):
        train_teacher(as_source(table), model, out, **recipe)
    again = train_teacher(as_source(columns()), MODEL, out, **RECIPE)
    assert again.digest == first.digest


def test_inputs_under_the_same_ids_are_covered(columns, tmp_path):
    named = columns(id=[f"row {i}" for i in range(120)])
    out = tmp_path / "run"
    train_teacher(as_source(named, id="id"), MODEL, out, **RECIPE)
    train_teacher(as_source(named, id="id"), MODEL, out, **RECIPE)
    with pytest.raises(StoreConflict, match=r"data\.content is "):
        train_teacher(as_source(named | {"x": named["x"] + 1}, id="id"), MODEL, out, **RECIPE)


def test_labels_are_covered(data, columns, tmp_path):
    keys = np.asarray(data.keys())
    logits = torch.from_numpy(columns()["x"][:, :2])
    for name, outputs in (("a", logits), ("b", logits + torch.eye(2)[0])):
        with sl.create(tmp_path / name, heads={"logits": sl.Head(classes=2, encoding="dense:f32")}) as writer:
            writer.append(keys, {"logits": outputs})
    train_student(tmp_path / "a", data, MODEL, tmp_path / "run", **RECIPE)
    with pytest.raises(StoreConflict, match=r"labels\.snapshot is "):
        train_student(tmp_path / "b", data, MODEL, tmp_path / "run", **RECIPE)


def test_code_and_weights_of_a_student_are_covered(data, student, tmp_path):
    first = train_teacher(data, student, tmp_path / "run", **RECIPE)
    assert train_teacher(data, student, tmp_path / "run", **RECIPE).digest == first.digest
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.head.weight[0, 0] += 1
    with pytest.raises(StoreConflict, match=r"model\.initial is "):
        train_teacher(data, other, tmp_path / "run", **RECIPE)


def test_a_moved_file_is_the_same_data(columns, tmp_path):
    rows = columns()
    plain = pa.table({"x": rows["x"].tolist(), "label": rows["label"], "split": rows["split"]})
    for name in ("a", "b"):
        pq.write_table(plain, tmp_path / f"{name}.parquet")
    first = train_teacher(tmp_path / "a.parquet", MODEL, tmp_path / "run", **RECIPE)
    assert train_teacher(str(tmp_path / "b.parquet"), MODEL, tmp_path / "run", **RECIPE).digest == first.digest
