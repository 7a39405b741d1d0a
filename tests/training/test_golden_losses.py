"""The losses of a short run of each recipe, committed as text.

    python -m tests.training.test_golden_losses

writes them again. With the versions and the processor that a file names, each digit must be equal; elsewhere, sums in
another order may change the last ones, and losses are equal to 1e-3 relative.
"""

import hashlib
import platform
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import softlabels as sl
from softlabels import models
from softlabels.sources import as_source
from softlabels.text import Tokenizer
from softlabels.text.options import TextOptions
from softlabels.training import train_student
from softlabels.training.metrics import read_metrics
from softlabels.training.recipe import RecipeOptions

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
TEXTS = [f"def f{i}(path):\n    return {i} + len(path)\n" for i in range(60)]
SMALLER = {"batch_size": 8, "log_every": 1, "steps": 12, "eval_every": 6, "hard_labels": None}
"""Options that make a recipe short."""


def environment():
    """Return the versions and the processor that digits depend on."""
    flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")][:1]
    processor = hashlib.sha256("".join(flags).encode()).hexdigest()[:12]
    return f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()} {processor}"


def text():
    tokenizer = Tokenizer.train(TEXTS, vocabulary=290)
    return as_source(pa.table({"text": TEXTS}), text=TextOptions(tokenizer=tokenizer, pack=24))


DATA = {"digits": lambda: as_source("digits"), "driving": lambda: as_source("roads:40,size=32x48"), "language": text}
TEACHERS = {
    "digits": "mlp:width=16,depth=1",
    "driving": "unet:width=4,depth=2",
    "language": "gpt:layers=1,width=16,heads=2",
}
HEADS = {
    "digits": {"logits": models.OutputHead(classes=10)},
    "driving": {
        "road": models.OutputHead(classes=5, kind="pixels", shape=(32, 48)),
        "steering": models.OutputHead(classes=1, kind="regression"),
    },
    "language": {"logits": models.OutputHead(classes=290, kind="tokens", shape=(None,))},
}


def short_run(name, folder):
    """Train the student of a recipe from an untrained teacher, and return the lines of the golden file."""
    torch.set_num_threads(1)
    table = tomllib.loads((ROOT / "recipes" / f"{name}.toml").read_text())["train-student"]
    options = {key: value for key, value in table.items() if key in RecipeOptions.__annotations__}
    options = {key: value for key, value in (options | SMALLER).items() if value is not None}
    source = DATA[name]()
    teacher = models.build(
        TEACHERS[name], input_shape=source.input_shape if name != "language" else (), heads=HEADS[name]
    )
    temperatures = (1.0, float(options.get("temperature", 1.0)))
    sl.generate(source, teacher=teacher, out=folder / "labels", temperatures=tuple(dict.fromkeys(temperatures)))
    train_student(folder / "labels", source, table["student"], folder / "run", **options)
    lines = read_metrics(folder / "run")
    return [f"{line['step']:>3} {line['loss']!r}" for line in lines if "loss" in line]


@pytest.mark.parametrize("name", sorted(DATA))
def test_losses_of_a_recipe_are_those_that_were_committed(name, tmp_path):
    header, *expected = (GOLDEN / f"{name}.txt").read_text().splitlines()
    lines = short_run(name, tmp_path)
    if header == f"# {environment()}":
        assert lines == expected
    losses, golden = ([float(line.split()[1]) for line in entries] for entries in (lines, expected))
    assert losses == pytest.approx(golden, rel=1e-3)


def test_there_is_a_golden_file_for_each_recipe():
    assert sorted(path.stem for path in (ROOT / "recipes").glob("*.toml")) == sorted(DATA)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for recipe in DATA:
        with tempfile.TemporaryDirectory() as name:
            (GOLDEN / f"{recipe}.txt").write_text(
                "\n".join([f"# {environment()}", *short_run(recipe, Path(name))]) + "\n"
            )
