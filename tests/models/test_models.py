"""Models: specifications, digests, run directories."""

import json

import numpy as np
import pytest
import torch

from softlabels import models
from softlabels.errors import DataNotFound, InvalidArgument, InvalidLogits, RunCorrupt
from softlabels.models import RUN_FILE, WEIGHTS_FILE


def build(spec="mlp:width=8,depth=1", seed=0, **options):
    return models.build(spec, input_shape=(8, 8), classes=10, seed=seed, **options)


def save(model, folder):
    description = {"model": {"spec": model.spec, "config": dict(model.config), "digest": model.digest}}
    models.write_run(folder, description, model.module.state_dict())


@pytest.mark.parametrize("spec", ["mlp", "mlp:width=16", "cnn:depth=2,width=8", "cnn"])
def test_built_in_models_map_inputs_to_logits(spec, digits):
    logits = build(spec).logits(digits.inputs(np.arange(5)))
    assert logits.shape == (5, 10)
    assert logits.isfinite().all()


def test_a_cnn_takes_colour_and_refuses_what_is_no_image():
    colour = models.build("cnn:width=8", input_shape=(16, 12, 3), classes=4)
    assert colour.logits(np.zeros((2, 16, 12, 3), np.uint8)).shape == (2, 4)
    with pytest.raises(InvalidArgument, match=r"\(64,\)"):
        models.build("cnn", input_shape=(64,), classes=4)


def test_what_a_model_says_of_one_input_does_not_depend_on_the_others(digits):
    model = build("cnn:width=8,depth=2")
    together = model.logits(digits.inputs(np.arange(20)))
    alone = torch.cat([model.logits(digits.inputs(np.array([row]))) for row in range(20)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_standardising_is_part_of_the_model_and_its_digest():
    inputs = np.full((1, 8, 8), 7, np.uint8)
    plain, scaled = build(), build(mean=7.0, std=2.0)
    assert plain.digest != scaled.digest
    assert (scaled.logits(inputs) == plain.logits(np.zeros((1, 8, 8), np.uint8))).all()


def test_the_digest_names_weights_and_configuration():
    assert build().digest == build().digest
    assert build().digest != build(seed=1).digest
    changed = build()
    with torch.no_grad():
        next(changed.module.parameters())[0, 0] += 1e-6
    assert changed.digest != build().digest


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build()
    assert (torch.rand(3) == expected).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mpl", "Did you mean 'mlp'"),
        ("mlp:wide=3", "no option 'wide'; it has width, depth"),
        ("mlp:width=no", "not a whole number above 0"),
        ("mlp:width=0", "not a whole number above 0"),
        ("run:", "names nothing"),
        ("python:", "names nothing"),
        ("", "unknown MODEL"),
    ],
)
def test_specifications_that_cannot_be_meant(spec, message):
    with pytest.raises(InvalidArgument, match=message):
        build(spec)


def test_a_run_comes_back_as_it_was(tmp_path, digits):
    model = build("cnn:width=8,depth=2", seed=3, mean=4.0, std=5.0)
    save(model, tmp_path / "run")
    again = models.load(f"run:{tmp_path / 'run'}")
    assert again.digest == model.digest
    inputs = digits.inputs(np.arange(9))
    assert (again.logits(inputs) == model.logits(inputs)).all()


def test_a_run_for_other_inputs_is_refused(tmp_path):
    save(build(), tmp_path / "run")
    with pytest.raises(InvalidArgument, match=r"takes inputs of shape \(8, 8\); the data has \(3,\)"):
        models.load(f"run:{tmp_path / 'run'}", sample=np.zeros((1, 3)))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 64
    path.write_bytes(data)


def pickled(path):
    torch.save({"w": torch.zeros(2)}, path)


def another_format(path):
    path.write_text(json.dumps({"format": "something else"}))


def future(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9}))


@pytest.mark.parametrize(
    ("file", "damage", "error"),
    [
        (WEIGHTS_FILE, truncate, RunCorrupt),
        (WEIGHTS_FILE, flip, RunCorrupt),
        (WEIGHTS_FILE, pickled, RunCorrupt),
        (WEIGHTS_FILE, lambda path: path.unlink(), RunCorrupt),
        (RUN_FILE, truncate, RunCorrupt),
        (RUN_FILE, another_format, RunCorrupt),
        (RUN_FILE, future, RunCorrupt),
        (RUN_FILE, lambda path: path.unlink(), DataNotFound),
    ],
)
def test_a_damaged_run_is_refused(tmp_path, file, damage, error):
    save(build(), tmp_path / "run")
    damage(tmp_path / "run" / file)
    with pytest.raises(error, match="run"):
        models.load(f"run:{tmp_path / 'run'}")


def test_code_is_named_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        return x.float().flatten(1)[:, :4]\n"
        "function = lambda x: x.float().flatten(1)[:, :3]\nnumber = 3\nwords = lambda x: 'no'\n"
    )
    monkeypatch.chdir(tmp_path)
    sample = np.ones((2, 8, 8), np.float32)
    assert models.load("python:mine:Net", sample=sample).classes == 4
    assert models.load("python:mine:function", sample=sample).classes == 3
    for spec, message in (
        ("python:mine:nothing", "imported"),
        ("python:nowhere:x", "imported"),
        ("python:mine", "lacks the name"),
        ("python:mine:number", "cannot be called"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            models.load(spec, sample=sample)
    with pytest.raises(InvalidLogits, match="gave str for 2 rows"):
        models.load("python:mine:words", sample=sample)


def test_costs_are_counted():
    model = build("mlp:width=8,depth=1")
    cost = models.measure(model, torch.zeros(1, 8, 8), repeats=20)
    assert cost.parameters == 64 * 8 + 8 + 8 * 10 + 10
    assert cost.flops == 2 * (64 * 8 + 8 * 10)
    assert cost.bytes == 4 * (cost.parameters + 2)
    assert 0 < cost.latency_ms <= cost.latency_p95_ms
