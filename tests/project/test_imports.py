"""Imports happen when they are needed: the command line answers at once, and reading labels needs no torch."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "zarr", "polars", "pyarrow", "numcodecs", "numpy"}
COMMANDS = ["", "demo", "train-teacher", "generate", "train-student", "compare", "inspect", "verify", "repair", "seal"]


def modules_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after ``code``."""
    program = (
        f"import contextlib, io, json, sys\n{code}\nprint(json.dumps([name.split('.')[0] for name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command):
    arguments = [*command.split(), "--help"]
    code = (
        "from softlabels_cli.main import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        f"    cli.main({arguments!r})\n"
        "assert 'Usage' in out.getvalue()"
    )
    assert not modules_after(code) & HEAVY


@pytest.mark.parametrize("module", ["softlabels", "softlabels.errors", "softlabels.labels"])
def test_the_words_of_the_library_load_no_framework(module):
    assert not modules_after(f"import {module}") & (HEAVY - {"numpy"})


def test_reading_a_store_needs_no_torch(sealed):
    code = (
        f"import softlabels as sl\nlabels = sl.open({str(sealed)!r}).read([3, 1, 4])\n"
        "assert labels.log_probs(1.0).shape == (3, 10)"
    )
    assert "torch" not in modules_after(code)


@pytest.mark.parametrize("command", ["verify", "verify --deep", "inspect", "repair", "gc"])
def test_commands_on_a_store_load_no_torch(sealed, command):
    """It takes ten times as long to import as a small store takes to verify."""
    arguments = [*command.split(), str(sealed)]
    code = f"from softlabels_cli.main import cli\ncli.main({arguments!r}, standalone_mode=False)"
    assert "torch" not in modules_after(code)


def test_sources_need_no_torch(digits_path):
    assert "torch" not in modules_after(
        f"from softlabels.sources import open_source\nopen_source({str(digits_path)!r})"
    )


@pytest.mark.parametrize(
    ("data", "model", "options", "form"),
    [
        ("digits", "mlp:width=4,depth=1", [], "parquet"),
        ("corpus.txt", "gpt:layers=1,width=8,heads=1", ["--tokenizer", "bpe:260", "--pack", "16"], "zarr"),
    ],
    ids=["digits", "text"],
)
def test_training_and_labelling_load_neither_a_compiler_nor_pandas(tmp_path, data, model, options, form):
    """Either takes about as long to import as torch: sympy is a part of torch's compiler."""
    (tmp_path / "corpus.txt").write_text("a line of text\n" * 40)
    commands = [
        ["train-teacher", data, "--model", model, *options, "--steps", "1", "--batch-size", "8", "--out", "teacher"],
        ["generate", data, "--teacher", "run:teacher", *options[2:], "--format", form, "--no-gate", "--out", "s"],
        [
            "train-student",
            "s",
            *(["--data", data] if data == "digits" else []),
            "--student",
            model,
            "--steps",
            "1",
            "--batch-size",
            "8",
            "--out",
            "run",
        ],
    ]
    code = f"import os\nos.chdir({str(tmp_path)!r})\nfrom softlabels_cli.main import cli\n" + "".join(
        f"cli.main({command!r}, standalone_mode=False)\n" for command in commands
    )
    assert not modules_after(code) & {"sympy", "pandas"}


def test_every_public_name_resolves():
    import softlabels as sl

    modules = [
        sl,
        *(
            importlib.import_module(entry.name)
            for entry in pkgutil.walk_packages(sl.__path__, "softlabels.")
            if entry.ispkg
        ),
    ]
    named = [(module.__name__, name) for module in modules for name in getattr(module, "__all__", ())]
    assert [pair for pair in named if getattr(sys.modules[pair[0]], pair[1], None) is None] == []


def test_type_checkers_see_every_public_name():
    """Names are resolved when first used, so a name that is only in the table has no type."""
    import softlabels as sl

    (guarded,) = (node for node in ast.parse(Path(sl.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {
        entry.asname or entry.name
        for node in ast.walk(guarded)
        if isinstance(node, ast.ImportFrom)
        for entry in node.names
    }
    assert set(sl.__all__) - {"__version__"} == seen


def test_every_verb_of_the_command_line_is_a_name_of_the_package():
    """``demo`` runs the command line itself and has no function."""
    import click

    import softlabels as sl
    from softlabels_cli.main import cli

    verbs = {name.replace("-", "_") for name in cli.list_commands(click.Context(cli))} - {"demo"}
    assert verbs - set(sl.__all__) == set()
