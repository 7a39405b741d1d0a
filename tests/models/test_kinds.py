"""Kinds of MODEL: adding one is adding one file."""

import importlib
import sys

import numpy as np
import pytest

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models import OutputHead
from softlabels.models.spec import parse
from softlabels.training import train_teacher

TOY = """
from torch import nn
from softlabels.models.kind import Kind, Option


def build(spec, input_shape, heads):
    return nn.Linear(input_shape[0], heads["logits"].classes, bias=bool(spec.options["bias"]))


KIND = Kind(name="linear", form="linear:bias=1", options={"bias": Option(default=1, minimum=0, maximum=1)}, build=build)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """One more file in the folder of kinds."""
    (tmp_path / "toy_linear.py").write_text(TOY)
    package = importlib.import_module("softlabels.models.kinds")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    models.kinds.cache_clear()
    yield
    sys.modules.pop("softlabels.models.kinds.toy_linear", None)
    models.kinds.cache_clear()


def test_a_new_kind_is_parsed_built_trained_and_loaded(toy, tmp_path):
    model = models.build("linear:bias=0", input_shape=(3,), heads={"logits": OutputHead(classes=2)})
    assert model.spec == "linear:bias=0"
    assert model.predict(np.zeros((4, 3), np.float32))["logits"].shape == (4, 2)
    with pytest.raises(InvalidArgument, match="Did you mean 'linear'"):
        models.load("linaer")
    data = {"x": np.eye(3, dtype=np.float32)[np.arange(60) % 3], "label": np.arange(60) % 3}
    trained = train_teacher(data, "linear", tmp_path / "run", steps=5)
    assert models.load(f"run:{tmp_path / 'run'}").digest == trained.digest


def test_every_kind_says_how_it_is_written():
    assert {"cnn", "mlp", "python", "run"} <= {*models.kinds()}
    for name, kind in models.kinds().items():
        assert kind.form.partition(":")[0] == kind.name == name
        assert kind.build is not None or kind.load is not None


def test_a_specification_without_its_kind_gets_a_hint(tmp_path, monkeypatch):
    """A run directory, MODULE:NAME, and a file of code."""
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="Did you mean 'run:student'"):
        parse("student")
    with pytest.raises(InvalidArgument, match="Did you mean 'python:my_teacher:model'"):
        parse("my_teacher:model")
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").touch()
    with pytest.raises(InvalidArgument, match="Did you mean 'hf:gpt2'"):
        parse("gpt2")
    (tmp_path / "nets.py").touch()  # close to unet
    for text, named in (("nets.py", "NAME"), ("nets", "NAME"), ("nets:Small", "Small")):
        with pytest.raises(InvalidArgument, match=f"Did you mean 'python:nets:{named}'"):
            parse(text)
