"""Trackers receive the metrics of a run, in the run directory and without a network."""

import json
import sqlite3
import sys
from contextlib import closing

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from softlabels.errors import InvalidArgument
from softlabels.training import train_teacher
from softlabels.training.metrics import read_metrics

RECIPE = {"steps": 6, "batch_size": 16, "log_every": 2, "eval_every": 3}


class Recorded:
    def __init__(self):
        self.lines, self.closed = [], False

    def log(self, step, figures):
        self.lines.append({"step": step, **figures})

    def close(self):
        self.closed = True


def test_a_tracker_of_the_user_receives_every_line(data, tmp_path):
    tracker = Recorded()
    train_teacher(data, "mlp:width=4,depth=1", tmp_path / "run", track=[tracker], **RECIPE)
    assert tracker.lines == read_metrics(tmp_path / "run")
    assert tracker.closed


def test_trackers_are_closed_after_an_error(data, tmp_path):
    tracker = Recorded()

    def fail(done, total, **figures):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_teacher(data, "mlp:width=4,depth=1", tmp_path / "run", track=[tracker], progress=fail, **RECIPE)
    assert tracker.closed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own imports
def test_tensorboard_has_the_same_figures(data, tmp_path):
    train_teacher(data, "mlp:width=4,depth=1", tmp_path / "run", track=["tensorboard"], **RECIPE)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    expected = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line}
    assert losses == pytest.approx(expected)
    assert "held_out/accuracy" in events.Tags()["scalars"]


def test_unknown_trackers_are_named(data, tmp_path):
    with pytest.raises(
        InvalidArgument, match="tracker: unknown name, got 'tensorbord'; expected one of tensorboard, wandb, trackio"
    ):
        train_teacher(data, "mlp:width=4,depth=1", tmp_path / "run", track=["tensorbord"], **RECIPE)


def test_trackio_has_the_same_figures(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    train_teacher(data, "mlp:width=4,depth=1", tmp_path / "run", track=["trackio"], **RECIPE)
    with closing(sqlite3.connect(tmp_path / "trackio" / "softlabels.db")) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in rows} == {"run"}
    assert [{"step": step, **json.loads(figures)} for _, step, figures in rows] == read_metrics(tmp_path / "run")
    assert capsys.readouterr().out == "", "results alone are on stdout"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named(name, data, tmp_path, monkeypatch):
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidArgument, match=f"tracker {name}: the package is missing.*pip install {name}"):
        train_teacher(data, "mlp:width=4,depth=1", tmp_path / "run", track=[name], **RECIPE)
