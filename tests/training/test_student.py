"""Students of every kind, on data of every kind."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

import softlabels as sl
from softlabels import models
from softlabels.errors import InvalidArgument, RunCorrupt
from softlabels.sources import DatasetSource, TokenSource, as_source
from softlabels.training import compare, train_student, train_teacher
from tests.cli.calls import call

RECIPE = {"steps": 20, "batch_size": 16}

MODULE = """import torch
class Student(torch.nn.Module):
    def __init__(self, input_shape, heads):
        super().__init__()
        self.layer = torch.nn.Linear(input_shape[0], heads["logits"].classes)
    def forward(self, x):
        return self.layer(x.float()){code}
"""


@pytest.fixture
def labels(data, columns, tmp_path):
    """A store of soft labels of the small data."""
    logits = torch.from_numpy(columns()["x"][:, :2] * [[-1, 1]]).float()
    with sl.create(tmp_path / "labels", heads={"logits": sl.Head(classes=2, encoding="dense:f32")}) as writer:
        writer.append(np.asarray(data.keys()), {"logits": logits})
    return tmp_path / "labels"


def test_data_of_every_kind_trains_the_same_student(labels, data, columns, tmp_path, weights_of):
    rows = columns()
    np.savez(tmp_path / "data.npz", **rows)
    frame = pd.DataFrame({"x": list(rows["x"]), "label": rows["label"], "split": rows["split"]})
    students = [
        train_student(labels, kind, "mlp:width=4,depth=1", tmp_path / f"run{number}", **RECIPE)
        for number, kind in enumerate([data, rows, frame, tmp_path / "data.npz", str(tmp_path / "data.npz")])
    ]
    assert len({tuple(weights_of(student).values()) for student in students}) == 1


def test_a_network_and_a_callable_compare_with_a_run(labels, data, tmp_path, student):
    trained = train_student(labels, data, student, tmp_path / "run", **RECIPE)
    assert trained.spec.startswith("python:Dropping@")
    rows = compare([trained, student, lambda x: x[:, :2]], data)
    assert [row.runs for row in rows] == [1, 1, 1]
    assert rows[0].trained_on == "dense:f32"


def test_examples_of_a_dataset_train_a_network(columns, tmp_path):
    rows = columns()
    ids = [f"row {number}" for number in range(120)]
    with sl.create(tmp_path / "labels", heads={"logits": sl.Head(classes=2, encoding="dense:f32")}) as writer:
        writer.append(ids, {"logits": torch.from_numpy(rows["x"][:, :2])})
    examples = [{"image": torch.from_numpy(row), "scale": torch.ones(1)} for row in rows["x"]]

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, inputs):
            return {"logits": self.layer(inputs["image"] * inputs["scale"]), "features": inputs["image"]}

    source = DatasetSource(examples, ids)
    assert train_student(tmp_path / "labels", source, Scaled(), tmp_path / "run", **RECIPE).run.metrics.steps == 20
    with pytest.raises(InvalidArgument, match="cannot take these inputs, got dict; expected an array"):
        train_student(tmp_path / "labels", source, "mlp", tmp_path / "other", **RECIPE)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    def write(code=""):
        sys.modules.pop("my_student", None)
        (tmp_path / "my_student.py").write_text(MODULE.format(code=code))

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write()
    yield write
    sys.modules.pop("my_student", None)


def test_a_student_by_name_is_trained_and_its_code_runs_only_where_it_is_named(labels, data, tmp_path, user_module):
    trained = train_student(labels, data, "python:my_student:Student", tmp_path / "run", **RECIPE)
    assert train_student(labels, data, "python:my_student:Student", tmp_path / "run", **RECIPE).digest == trained.digest
    named = models.load(f"python:my_student:Student@{tmp_path / 'run'}", sample=np.zeros((2, 3), np.float32))
    assert named.digest == trained.digest
    inputs = np.ones((4, 3), np.float32)
    assert (named.predict(inputs)["logits"] == trained.predict(inputs)["logits"]).all()
    with pytest.raises(InvalidArgument, match="code of yours, got a run without it; expected python:my_student"):
        models.load(f"run:{tmp_path / 'run'}")
    assert f"expected python:my_student:Student@{tmp_path / 'run'}" in call("verify", tmp_path / "run", code=2)
    assert f"digest {trained.digest}" in call("verify", f"python:my_student:Student@{tmp_path / 'run'}")
    user_module(" * 2")
    with pytest.raises(RunCorrupt, match="use the code it was trained with"):
        models.load(f"python:my_student:Student@{tmp_path / 'run'}")


def test_a_store_does_not_choose_what_is_opened(labels, data, tmp_path):
    with pytest.raises(InvalidArgument, match=r"the inputs are needed, got none.*made from .*name it with data="):
        train_student(labels, None, "mlp:width=4,depth=1", tmp_path / "run", **RECIPE)
    teacher = models.build("mlp:width=4", input_shape=(8, 8), heads={"logits": models.OutputHead(classes=10)})
    sl.generate("digits", teacher=teacher, out=tmp_path / "digit-labels")
    student = train_student(tmp_path / "digit-labels", None, "mlp:width=4,depth=1", tmp_path / "digits", **RECIPE)
    assert student.run.data.spec == "digits"


def test_columns_of_unlike_scales_are_standardised(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    x = np.stack([labels + rng.normal(0, 0.2, 600), rng.uniform(2e4, 2e6, 600)], axis=1)
    trained = train_teacher(
        as_source({"x": x, "label": labels}), "mlp:width=16,depth=1", tmp_path / "run", steps=200, lr=0.01
    )
    assert trained.run.metrics.accuracy > 0.9


def test_a_language_model_learns_from_labels_of_tokens(tmp_path):
    rng = np.random.default_rng(0)
    source = TokenSource([rng.integers(0, 20, size=length) for length in rng.integers(3, 9, size=40)])
    heads = {"logits": models.OutputHead(classes=20, kind="tokens", shape=(None,))}
    teacher = models.build("gpt:layers=1,width=32,heads=2", input_shape=(), heads=heads, seed=1)
    sl.generate(source, teacher=teacher, out=tmp_path / "labels", encoding="topk:4")
    spec = "gpt:layers=1,width=16,heads=2"
    first = train_student(tmp_path / "labels", source, spec, tmp_path / "run", **RECIPE)
    assert first.heads == heads
    live = train_student(teacher, source, spec, tmp_path / "live", **RECIPE)
    assert live.run.metrics.accuracy is None
    with pytest.raises(InvalidArgument, match="ragged rows"):
        train_student(tmp_path / "labels", source, "mlp", tmp_path / "other", **RECIPE)
