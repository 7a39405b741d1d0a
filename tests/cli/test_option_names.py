"""Messages name arguments of Python in the library, and options on the command line."""

import io
import re
import tokenize
from pathlib import Path

import click
import pytest

import softlabels
from softlabels_cli.option_names import name_options

PACKAGE = Path(softlabels.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
COMMANDS = ("softlabels ", "pip install", "docker run", "nproc-per-node", "vLLM")
"""Beginnings of commands, whose options a message may name."""

OPTIONS = ("--label", "--no-label", "--gate/--no-gate", "--head", "--size", "--pack", "--seed", "--target", "--teacher")
COMMAND = click.Command("generate", params=[click.Option([name]) for name in OPTIONS])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("x: no. Use label=, or use label=False", "x: no. Use --label, or use --no-label"),
        ("Leave out label= or targets=.", "Leave out --label or --target."),
        ("(gate=False)", "(--no-gate)"),
        ("Use size=224; or pack=16.", "Use --size 224; or --pack 16."),
        ("size={'a': 'b'}", "--size a=b"),
        ("Name its column with targets={'road': COLUMN}", "Name its column with --target road=COLUMN"),
        ("as heads={'a': 'classes', 'f': 'pixels'}, or", "as --head a=classes --head f=pixels, or"),
        ("label='a b' is", "--label a b is"),
        ("size: out of range, got 0", "--size: out of range, got 0"),
        ("targets: no mapping", "--target: no mapping"),
        ("roads:9,seed=5: no scene, cnn:size=3", "roads:9,seed=5: no scene, cnn:size=3"),
        ("Use workers=0 or memory=", "Use workers=0 or memory="),
        ("seed=5 is used", "--seed 5 is used"),
        ("x.pack=3 and 'pack=3' and pack==3", "x.pack=3 and 'pack=3' and pack==3"),
    ],
)
def test_arguments_become_options_of_the_command(message, expected):
    assert name_options(message, COMMAND) == expected


def test_a_store_named_like_an_argument_stays():
    assert name_options("labels: no rows", COMMAND, ["plan", "labels"]) == "labels: no rows"
    assert name_options("label: no rows", COMMAND, ["plan", "labels"]) == "--label: no rows"


def test_the_subject_of_other_errors_stays():
    assert name_options("label: no column", COMMAND, subject=False) == "label: no column"


def test_messages_of_the_library_name_no_option_outside_of_commands():
    """A Python caller has no options; ``softlabels_cli.option_names`` translates what the library names."""
    violations = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            is_text = token.type == tokenize.STRING and '"""' not in token.string
            if is_text and OPTION.search(token.string) and not any(command in token.string for command in COMMANDS):
                violations.append(f"{path.relative_to(PACKAGE)}:{token.start[0]}: {token.string}")
    assert violations == []
