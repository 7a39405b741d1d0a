"""Names of options in messages: what a Python caller passes as ``student`` was typed as ``--student``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

MODEL = re.compile(r"MODEL '?([^':]*)")
"""The subject of a message on a specification, with its kind."""
ARGUMENT = re.compile(r"([a-z][a-z_]*): ")


def name_options(message: str, command: click.Command, arguments: Sequence[str]) -> str:
    """Return a message on an invalid argument that begins with the option that was typed.

    Args:
        message: Message of the library. Its subject is the name of a Python argument, or MODEL and a specification.
        command: Command that was run.
        arguments: Arguments of the command.

    Example:
        >>> command = click.Command("train", params=[click.Option(["--student"], metavar="MODEL")])
        >>> name_options("MODEL 'mpl': unknown kind", command, ["labels", "--student", "mpl"])
        "--student 'mpl': unknown kind"
        >>> name_options("student: got 3", command, ["--student=3"])
        '--student: got 3'
    """
    options = [option for option in command.params if isinstance(option, click.Option)]
    if subject := MODEL.match(message):
        typed = {
            option.opts[0]: _value_of(option.opts[0], arguments) for option in options if option.metavar == "MODEL"
        }
        named = [name for name, value in typed.items() if value and value.partition(":")[0] == subject[1]]
        return f"{named[0]}{message.removeprefix('MODEL')}" if len(named) == 1 else message
    if subject := ARGUMENT.match(message):
        name = f"--{subject[1].replace('_', '-')}"
        if any(name in option.opts for option in options):
            return f"{name}: {message.removeprefix(subject[0])}"
    return message


def _value_of(name: str, arguments: Sequence[str]) -> str:
    """Return the value that was typed for an option; empty if it was not typed."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == name:
            return following
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""
