"""Recipe files: values by precedence, unknown keys, where a value came from, and a file that repeats the run."""

import tomllib

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import DataNotFound, InvalidArgument
from softlabels_cli.recipe_file import to_toml
from softlabels_cli.train_student import command as train_student
from softlabels_cli.train_teacher import command as train_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and labels of two heads."""
    root = tmp_path_factory.mktemp("recipes")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    np.savez(root / "data.npz", x=x, kind=np.arange(64) % 2, angle=x[:, 0])
    source = sl.open_source(root / "data.npz", label=False, targets={"kind": "kind", "angle": "angle"})
    heads = {
        "kind": sl.Head(classes=2, encoding="dense:f32"),
        "angle": sl.Head(classes=1, kind="regression", encoding="dense:f32"),
    }
    with sl.create(root / "labels", heads=heads) as writer:
        outputs = {"kind": torch.from_numpy(x[:, :2]), "angle": torch.from_numpy(x[:, :1])}
        writer.append(np.asarray(source.keys()), outputs)
    return root


RECIPE = """
[train-student]
store = "labels"
data = "data.npz"
student = "mlp:width=4,depth=1"
label = "kind"
target = {angle = "angle"}
no-label = false
steps = 3
lr = 0.01
weight = {angle = 0.5}

[train-student.loss]
kind = "kl+0.1*logit_mse"
angle = "huber:delta=2"
"""


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Run a command with a recipe beside the data; return its result."""

    def call(*arguments, recipe=RECIPE, command=train_student, name="train-student"):
        path = tmp_path / "recipe.toml"
        path.write_text(recipe)
        return CliRunner().invoke(command, ["--config", str(path), "-q", *map(str, arguments)], prog_name=name)

    monkeypatch.chdir(folder)
    return call


TARGETS = RECIPE.replace('label = "kind"\n', "").replace('{angle = "angle"}', '{kind = "kind", angle = "angle"}')


def test_a_recipe_holds_every_option_and_the_resolved_one_repeats_the_run(run, tmp_path):
    first = run("--out", tmp_path / "a", "--seed", "7", recipe=TARGETS)
    assert first.exit_code == 0, first.output
    resolved = (tmp_path / "a" / "recipe.toml").read_text()
    values = tomllib.loads(resolved)["train-student"]
    assert values["seed"] == 7
    assert values["loss"] == {"kind": "kl+0.1*logit_mse", "angle": "huber:delta=2"}
    assert values["weight"] == {"angle": 0.5}
    assert values["alpha"] == 0.9
    assert values["target"] == {"kind": "kind", "angle": "angle"}
    assert "out" not in values
    again = run("--out", tmp_path / "b", recipe=resolved)
    assert again.exit_code == 0, again.output
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "key", "line"),
    [
        ([], "lr", "lr = 0.01 (file)"),
        (["--lr", "0.5"], "lr", "lr = 0.5 (command line)"),
        ([], "--batch-size", "batch_size = 64 (default)"),
        ([], "clip", "clip = 2.5 (environment variable SOFTLABELS_CLIP)"),
        (["--clip", "3"], "clip", "clip = 3.0 (command line)"),
        ([], "loss", 'loss = {kind = "kl+0.1*logit_mse", angle = "huber:delta=2"} (file)'),
        ([], "ema", "ema = not set (default)"),
    ],
)
def test_flags_come_before_variables_before_the_file_before_defaults(run, tmp_path, monkeypatch, arguments, key, line):
    monkeypatch.setenv("SOFTLABELS_CLIP", "2.5")
    result = run("--out", tmp_path / "run", *arguments, "--explain", key)
    assert result.output == f"{line}\n"
    assert not (tmp_path / "run").exists()


def test_explaining_needs_no_run_directory(run):
    assert run("--explain", "lr").output == "lr = 0.01 (file)\n"
    result = run()
    assert result.exit_code == 2
    assert "Missing option '--out'" in result.output


def test_epochs_on_the_command_line_replace_steps_in_the_file(run, tmp_path):
    result = run("--out", tmp_path / "run", "--epochs", "1", "--json", recipe=TARGETS)
    assert '"steps": 1,' in result.output


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (RECIPE.replace("lr =", "lrr ="), "unknown key, got 'lrr'; expected a known one. Did you mean 'lr'?"),
        (RECIPE.replace("[train-student]", "[train-studen]"), "got 'train-studen'.* Did you mean 'train-student'?"),
        (RECIPE.replace("train-student", "train-teacher"), r"got train-teacher; expected a table \[train-student\]"),
        ("lr = ", "cannot be read, got Invalid value"),
    ],
)  # fmt: skip
def test_a_recipe_that_is_none_is_named(run, tmp_path, recipe, message):
    result = run("--out", tmp_path / "run", recipe=recipe)
    assert isinstance(result.exception, InvalidArgument)
    with pytest.raises(InvalidArgument, match=message):
        raise result.exception


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 60_000, "a = " + "9" * 5000, "a." * 40_000 + "a = 1", "a = " + "{a=" * 2000], ids=len
)
def test_a_recipe_that_no_parser_should_read_is_refused(run, tmp_path, text):
    result = run("--out", tmp_path / "run", recipe=text)
    assert isinstance(result.exception, InvalidArgument)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        raise result.exception


def test_a_value_of_another_type_is_a_usage_error(run, tmp_path):
    result = run("--out", tmp_path / "run", recipe=RECIPE.replace("0.01", '"fast"'))
    assert result.exit_code == 2
    assert "Invalid value for '--lr': 'fast' is not a valid float" in result.output


def test_a_missing_recipe_is_named(tmp_path):
    result = CliRunner().invoke(train_student, ["--config", str(tmp_path / "none.toml")])
    assert isinstance(result.exception, DataNotFound)


def test_a_teacher_reads_its_own_table(run, tmp_path):
    recipe = (
        '[train-teacher]\ndata = "data.npz"\nmodel = "mlp:width=4,depth=1"\nlabel = "kind"\ninput = "x"\nsteps = 2\n'
    )
    result = run("--out", tmp_path / "run", recipe=RECIPE + recipe, command=train_teacher, name="train-teacher")
    assert result.exit_code == 0, result.output
    assert tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["train-teacher"]["steps"] == 2


def test_names_that_toml_must_quote_come_back():
    values = {"loss": {"a.b": "kl", "ö": 'k"l\\', "c-d": "mse"}, "size": [1, 2], "on": True, "off": False, "none": None}
    assert tomllib.loads(to_toml("x", values)) == {"x": {"loss": values["loss"], "size": [1, 2], "on": True}}
