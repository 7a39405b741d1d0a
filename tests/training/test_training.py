"""Training: resumes to the bit, needs no teacher, and gains what distillation should gain."""

import json
import os
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import softlabels as sl
from softlabels import models
from softlabels.errors import (
    ColumnMissing,
    InvalidArgument,
    InvalidData,
    KeyMissing,
    StoreConflict,
    TemperatureNotStored,
    TrainingFailed,
)
from softlabels.generation import generate
from softlabels.models import load_run
from softlabels.sources import open_source
from softlabels.training import Recipe, compare, train_student, train_teacher
from softlabels.training.splits import choose_hard_labels, split_rows
from tests.warm import CONTEXT

STUDENT = "mlp:width=16,depth=1"


def weights(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.module.state_dict().items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """A teacher worth learning from, its labels, and the folder both are in."""
    folder = tmp_path_factory.mktemp("trained")
    teacher = train_teacher(digits, "cnn:width=16,depth=2", folder / "teacher", epochs=12, lr=3e-3)
    generate(digits, teacher=teacher, out=folder / "labels", encoding="topk:4", temperatures=(1.0, 4.0))
    return folder


def test_a_teacher_learns_the_digits(trained):
    run = load_run(trained / "teacher").run
    assert run.metrics.accuracy > 0.95
    assert run.metrics.held_out_rows == 450


def test_dense_labels_train_the_student_a_live_teacher_would_to_the_bit(teacher, digits, tmp_path):
    """In the same batches: what a network says of a row may differ in the last bit with the batch around it.

    So the teacher labels batches of one row, in generation and live, and then order and batch size do not matter.
    """

    class OneByOne(torch.nn.Module):
        def forward(self, inputs):
            return torch.cat([teacher.predict(row)["logits"] for row in inputs.split(1)])

    one_by_one = models.as_model(OneByOne(), sample=digits.inputs(np.arange(1)))
    generate(digits, teacher=one_by_one, out=tmp_path / "labels", encoding="dense:f32")
    recipe = {"steps": 60, "seed": 3, "temperature": 2.0, "hard_labels": 100}
    stored = train_student(tmp_path / "labels", digits, STUDENT, tmp_path / "stored", **recipe)
    live = train_student(one_by_one, digits, STUDENT, tmp_path / "live", **recipe)
    assert weights(stored) == weights(live)
    other = train_student(tmp_path / "labels", digits, STUDENT, tmp_path / "other", **(recipe | {"seed": 4}))
    assert weights(other) != weights(live), "the comparison can fail"


def test_the_student_trains_with_the_teacher_gone(trained, tmp_path, digits_path, root):
    """Labels alone travel: the teacher's run is not there, nor is its folder."""
    shutil.copytree(trained / "labels", tmp_path / "labels")
    assert not (tmp_path / "teacher").exists()
    worker = CONTEXT.Process(target=train_elsewhere, args=(tmp_path, digits_path))
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0
    run = json.loads((tmp_path / "student" / "run.json").read_text())
    assert run["labels"]["snapshot"] == sl.open(trained / "labels").snapshot.digest
    assert run["metrics"]["accuracy"] > 0.9


def train_elsewhere(folder, digits_path):
    """In another process, in another folder."""
    os.chdir(folder)
    torch.set_num_threads(1)
    train_student("labels", open_source(digits_path), STUDENT, "student", steps=400, lr=3e-3)


def test_soft_labels_beat_hard_ones_where_those_are_few(trained, digits, tmp_path):
    """The point of it all, in small: two seeds each, the same steps, 50 hard labels."""
    recipe = {"steps": 250, "lr": 3e-3, "hard_labels": 50}
    runs = []
    for seed in (0, 1):
        train_student(trained / "labels", digits, STUDENT, tmp_path / f"soft-{seed}", seed=seed, **recipe)
        train_teacher(digits, STUDENT, tmp_path / f"hard-{seed}", seed=seed, **recipe)
    runs = [f"run:{tmp_path}/{kind}-{seed}" for kind in ("soft", "hard") for seed in (0, 1)]
    rows = compare([f"run:{trained / 'teacher'}", *runs], digits)
    assert [row.runs for row in rows] == [1, 2, 2]
    assert [row.name for row in rows][1:] == [f"run:{tmp_path}/soft-*", f"run:{tmp_path}/hard-*"]
    reference, soft, hard = rows
    assert soft.value > hard.value + 0.03
    assert reference.retention == 1.0
    assert soft.retention == pytest.approx(soft.value / reference.value)
    assert soft.spread is not None
    assert soft.spread >= 0
    assert (soft.trained_on, soft.hard_labels, hard.trained_on) == ("topk:4:f16", 50, "hard labels")
    assert soft.label_bytes_per_row == sl.open(trained / "labels").bytes_per_row
    assert hard.label_bytes_per_row is None
    assert reference.parameters > 5 * soft.parameters
    ungrouped = compare(runs, digits, group_seeds=False)
    assert [row.runs for row in ungrouped] == [1, 1, 1, 1]
    assert soft.value == pytest.approx((ungrouped[0].value + ungrouped[1].value) / 2)


def test_comparison_names_hard_labels_only_where_they_were_used(trained, digits, tmp_path):
    inputs = sl.open_source("digits", label=False)
    train_student(trained / "labels", inputs, STUDENT, tmp_path / "none", steps=2)
    train_student(trained / "labels", digits, STUDENT, tmp_path / "soft", steps=2, alpha={"*": 1.0})
    train_student(trained / "labels", digits, STUDENT, tmp_path / "both", steps=2, alpha={"logits": 0.9})
    rows = compare([f"run:{tmp_path}/{name}" for name in ("none", "soft", "both")], digits)
    assert [row.hard_labels for row in rows] == [0, 0, None]
    assert [row.hard_labels for row in compare(f"run:{tmp_path}/none", digits)] == [0]


def test_a_finished_run_is_returned_and_another_is_left_alone(trained, digits, tmp_path):
    recipe = {"steps": 5}
    first = train_student(trained / "labels", digits, STUDENT, tmp_path / "run", **recipe)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert train_student(trained / "labels", digits, STUDENT, tmp_path / "run", **recipe).digest == first.digest
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(StoreConflict, match="holds another run"):
        train_student(trained / "labels", digits, STUDENT, tmp_path / "run", steps=6)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(StoreConflict, match=r"holds other files, got notes\.txt"):
        train_teacher(digits, STUDENT, tmp_path / "mine", steps=5)


def test_a_loss_that_is_not_finite_stops_and_names_rows(digits, tmp_path):
    with pytest.raises(TrainingFailed, match=r"loss at step \d+: not finite, got (nan|inf) \(rows \d"):
        train_teacher(digits, STUDENT, tmp_path / "run", steps=50, lr=1e30)
    assert not (tmp_path / "run" / "run.json").exists()


def test_what_does_not_fit_is_refused_before_the_first_step(trained, digits, digits_path, tmp_path):
    labels = trained / "labels"
    with pytest.raises(TemperatureNotStored, match="1, 4"):
        train_student(labels, digits, STUDENT, tmp_path / "a", temperature=2.0)
    with pytest.raises(InvalidArgument, match="no head 'other'"):
        train_student(labels, digits, STUDENT, tmp_path / "b", heads=["other"])
    with pytest.raises(InvalidArgument, match="steps and epochs: got 3 and 1"):
        train_student(labels, digits, STUDENT, tmp_path / "c", steps=3, epochs=1)
    with pytest.raises(InvalidArgument, match="hard_labels: too many, got 5000; expected at most the 1347"):
        train_student(labels, digits, STUDENT, tmp_path / "d", hard_labels=5000)
    table = pq.read_table(digits_path)
    fives = pa.array(table.column("label").to_numpy().astype(np.int64) + 5)
    wide = table.set_column(1, "label", fives)
    pq.write_table(wide, tmp_path / "wide.parquet")
    with pytest.raises(InvalidArgument, match="more classes than the soft labels have, got 15; expected at most 10"):
        train_student(labels, open_source(tmp_path / "wide.parquet"), STUDENT, tmp_path / "e")
    pq.write_table(table.drop_columns(["label"]), tmp_path / "bare.parquet")
    with pytest.raises(ColumnMissing, match="Name it with label="):
        train_teacher(open_source(tmp_path / "bare.parquet"), STUDENT, tmp_path / "f")
    stranger = tmp_path / "stranger.npz"
    np.savez(stranger, x=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(KeyMissing):
        train_student(labels, open_source(stranger), STUDENT, tmp_path / "g")
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and (path / "run.json").exists()]


def test_unlabelled_data_trains_a_student_on_soft_labels_alone(trained, digits_path, tmp_path):
    pq.write_table(pq.read_table(digits_path).drop_columns(["label"]), tmp_path / "bare.parquet")
    bare = open_source(tmp_path / "bare.parquet")
    student = train_student(trained / "labels", bare, STUDENT, tmp_path / "run", steps=300, lr=3e-3)
    row = compare([f"run:{tmp_path / 'run'}"], open_source(digits_path))[0]
    assert row.value > 0.85
    assert student.run.metrics.accuracy is None


def test_hard_labels_are_chosen_in_turn_by_class(digits):
    train, held_out = split_rows(digits)
    assert len(train) == 1347
    assert not set(train) & set(held_out)
    known = choose_hard_labels(digits, train, Recipe(hard_labels=50, seed=1))
    assert np.bincount(known[known >= 0]).tolist() == [5] * 10
    assert set(np.flatnonzero(known >= 0)) <= set(train)
    assert (known == choose_hard_labels(digits, train, Recipe(hard_labels=50, seed=1))).all()
    assert (known != choose_hard_labels(digits, train, Recipe(hard_labels=50, seed=2))).any()


def test_without_a_split_column_the_same_tenth_is_held_out(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(100.0)[:, None], y=np.arange(100) % 2)
    source = open_source(tmp_path / "d.npz")
    train, held_out = split_rows(source)
    assert sorted([*train, *held_out]) == list(range(100))
    assert len(held_out) == 10
    assert (split_rows(source)[1] == held_out).all()


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(lr=1.0, warmup=0.1)
    rates = [recipe.learning_rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_comparing_needs_labels_and_models_of_the_task(trained, digits, digits_path, tmp_path):
    pq.write_table(pq.read_table(digits_path).drop_columns(["label"]), tmp_path / "bare.parquet")
    with pytest.raises(InvalidData, match="no hard labels to measure run:"):
        compare([f"run:{trained / 'teacher'}"], open_source(tmp_path / "bare.parquet"))
    with pytest.raises(InvalidArgument, match="expected at least one"):
        compare([], digits)
