"""Names of options in messages: what a Python caller passes as ``student=`` was typed as ``--student``.

The library names arguments of Python: as the subject, ``size: out of range``, or as advice, ``Leave out size=``,
``Use gate=False``, ``encoding='dense:f32'``, ``targets={'road': COLUMN}``. This is the only place that translates them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

MODEL = re.compile(r"MODEL '?([^':]*)")
"""The subject of a message on a specification, with its kind."""
SUBJECT = re.compile(r"([a-z][a-z_]*): ")
ADVICE = re.compile(
    r"(?<![\w:,./=+'\"-])(?P<name>[a-z][a-z_0-9]*)="
    r"(?:\{(?P<entries>'[^}]*)\}|'(?P<text>[^']*)'|(?P<word>(?!=)[^\s'\"{,;)]*?))(?=[.,;:)]*(?:\s|$))"
)
"""An argument with or without a value. Parts of specifications, such as ``seed=5`` in ``roads:9,seed=5``, are none."""
ENTRY = re.compile(r"'([^']*)': '?([^',}]*)'?")


def name_options(message: str, command: click.Command, arguments: Sequence[str] = (), *, subject: bool = True) -> str:
    """Return a message of the library with the options of a command in place of arguments of Python.

    Args:
        message: Message of the library. Arguments that the command has no option for stay as they are.
        command: Command that was run.
        arguments: Arguments of the command; they tell which option holds the MODEL of a message.
        subject: If True, the message may begin with the name of an argument, or with MODEL and a specification.

    Example:
        >>> options = [click.Option(["--student"], metavar="MODEL"), click.Option(["--gate/--no-gate"])]
        >>> command = click.Command("train", params=options)
        >>> name_options("MODEL 'mpl': unknown kind", command, ["labels", "--student", "mpl"])
        "--student 'mpl': unknown kind"
        >>> name_options("student: got 3. Use student='cnn' or gate=False", command)
        '--student: got 3. Use --student cnn or --no-gate'
    """
    options = [option for option in command.params if isinstance(option, click.Option)]
    names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    message = ADVICE.sub(lambda match: _as_option(match, names) or match[0], message)
    # A store or a file may have the name of an argument, such as ``labels``.
    if not subject or any(message.startswith(f"{argument}: ") for argument in arguments):
        return message
    if model := MODEL.match(message):
        typed = {
            option.opts[0]: _value_of(option.opts[0], arguments) for option in options if option.metavar == "MODEL"
        }
        named = [name for name, value in typed.items() if value and value.partition(":")[0] == model[1]]
        return f"{named[0]}{message.removeprefix('MODEL')}" if len(named) == 1 else message
    if (argument := SUBJECT.match(message)) and (option := _option_of(argument[1], names)):
        return f"{option}: {message.removeprefix(argument[0])}"
    return message


def in_options(text: str) -> str:
    """Return a text of the library, such as advice, with the options of the command that runs.

    Args:
        text: Text that may name arguments of Python.
    """
    return name_options(text, click.get_current_context().command, subject=False)


def _option_of(name: str, options: set[str]) -> str | None:
    """Return the option for an argument of Python; one that repeats has a singular name."""
    option = f"--{name.replace('_', '-')}"
    return next((known for known in (option, option.removesuffix("s")) if known in options), None)


def _as_option(match: re.Match[str], options: set[str]) -> str | None:
    """Return an argument with its value as it is typed; None if there is no such option."""
    name, value = match["name"], match["text"] or match["word"]
    if value == "False":
        return _option_of(f"no_{name}", options)
    option = _option_of(name, options)
    if option is None:
        return None
    if match["entries"]:
        return " ".join(f"{option} {key}={entry}" for key, entry in ENTRY.findall(match["entries"]))
    return option if value in {"", None, "True"} else f"{option} {value}"


def _value_of(name: str, arguments: Sequence[str]) -> str:
    """Return the value that was typed for an option; empty if it was not typed."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == name:
            return following
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""
