"""The chain that made a run, and curves of runs."""

import json
import shutil
from xml.etree import ElementTree as ET

import pytest

import softlabels as sl
from softlabels.errors import DataNotFound, InvalidArgument
from softlabels.training import train_student, train_teacher
from softlabels.training.run_chain import chain
from tests.cli.calls import call

RECIPE = {"steps": 4, "batch_size": 16, "log_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """Two generations: a teacher, a student, and a student of that student."""
    root = tmp_path_factory.mktemp("provenance")
    train_teacher(digits, "mlp:width=8,depth=1", root / "teacher", **RECIPE)
    sl.generate(digits, teacher=f"run:{root / 'teacher'}", out=root / "labels", encoding="topk:3")
    train_student(root / "labels", digits, "mlp:width=6,depth=1", root / "student", eval_every=2, **RECIPE)
    sl.generate(digits, teacher=f"run:{root / 'student'}", out=root / "more", encoding="topk:3")
    train_student(root / "more", digits, "mlp:width=4,depth=1", root / "last", **RECIPE)
    return root


def test_the_chain_goes_back_through_students_that_became_teachers(folder):
    links = chain(folder / "last")
    assert [link.kind for link in links] == ["data", "teacher", "data", "store", "student", "data", "store", "student"]
    assert all(link.state in {"here", "recorded"} for link in links)
    assert links[-1].digest == sl.models.load(f"run:{folder / 'last'}").run.model.digest
    assert links[-2].digest == sl.open(folder / "more").snapshot.digest
    assert links[-2].details == {"encoding of logits": "topk:3:f16"}
    assert links[1].digest == sl.models.load(f"run:{folder / 'teacher'}").run.model.digest
    assert links[4].details["loss of logits"] == "0.9 * kl at T = 1 + 0.1 * cross_entropy"
    assert links[4].details["torch"]


def test_links_that_moved_or_were_replaced_are_named(folder, tmp_path, digits):
    for name in ("student", "last", "labels", "more"):
        shutil.copytree(folder / name, tmp_path / name)
    record = sl.models.read_run(tmp_path / "last")
    assert record.labels.store == str(folder / "more")
    shutil.move(folder / "labels", folder / "elsewhere")
    try:
        states = {(link.kind, link.name): link.state for link in chain(folder / "last")}
        assert states["store", str(folder / "labels")] == "missing"
        sl.generate(digits, teacher=f"run:{folder / 'teacher'}", out=folder / "labels", encoding="topk:2")
        states = {(link.kind, link.name): link.state for link in chain(folder / "last")}
        assert states["store", str(folder / "labels")] == "other"
    finally:
        shutil.rmtree(folder / "labels", ignore_errors=True)
        shutil.move(folder / "elsewhere", folder / "labels")


def test_inspect_prints_the_chain_of_a_run(folder):
    lines = call("inspect", folder / "last").splitlines()
    assert lines[0].split()[0] == "data"
    assert f"-> store    {folder / 'more'}" in lines
    assert '"kind": "student"' in call("inspect", folder / "last", "--json")
    assert call("inspect", f"run:{folder / 'last'}").splitlines() == lines
    assert call("verify", f"run:{folder / 'last'}") == call("verify", folder / "last")
    assert "nothing-here: not a finished run" in call("inspect", "run:nothing-here", code=2)


def test_plot_draws_the_curves_of_several_runs(folder, tmp_path):
    out = call("plot", folder / "teacher", folder / "student", "--out", tmp_path / "curves.svg")
    assert out == f"{tmp_path / 'curves.svg'}: 2 runs\n"
    text = (tmp_path / "curves.svg").read_text()
    ET.fromstring(text)  # noqa: S314  written by this test
    for name in ("loss", "kl", "agreement", "accuracy", "(held-out)", str(folder / "student")):
        assert f"<!-- {name}" in text or f"{name} -->" in text, name
    assert call("plot", f"run:{folder / 'teacher'}", "--out", tmp_path / "one.svg").endswith("one.svg: 1 run\n")
    assert sl.plot(folder / "teacher", tmp_path / "alone.svg").read_text() == (tmp_path / "one.svg").read_text()
    again = sl.plot([folder / "teacher", folder / "student"], tmp_path / "again.svg")
    assert again.read_text() == text


def test_plot_draws_what_is_a_number(tmp_path):
    """A file of metrics may hold anything: other types, numbers that no axis has, formulas and control characters."""
    values = (1.0, 1e308, 10**300, "x", None, [1], {"a": 1}, float("nan"), float("inf"))
    lines = [{"step": step, "loss": value, "$x_{$\x1b[31m": 2.0} for step, value in enumerate(values)]
    lines += [{"step": 2**70, "loss": 1.0}, {"step": 10, "loss": 0.5}]
    run = tmp_path / "$run_{$"
    run.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text + '{"step": 3, "loss": ' + "9" * 5000 + "}\n")
    drawn = sl.plot([run], tmp_path / "curves.svg").read_text()
    ET.fromstring(drawn)  # noqa: S314  written by this test
    assert "loss" in drawn
    assert "x_{" in drawn
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": "x"}\n')
    with pytest.raises(DataNotFound, match="nothing to draw"):
        sl.plot([run], tmp_path / "curves.svg")


def test_runs_without_metrics_are_named(tmp_path):
    with pytest.raises(DataNotFound, match=r"no metrics, got no metrics\.jsonl"):
        sl.plot([tmp_path], tmp_path / "curves.svg")
    with pytest.raises(InvalidArgument, match="no runs"):
        sl.plot([], tmp_path / "curves.svg")
