"""Options that several commands share: each is declared here once and applied as a decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

NO_LABEL = "softlabels.no_label"
"""Key of the context that says that the data has no labels."""


def group_of(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return a decorator that applies several options, in their order.

    Args:
        options: Decorators of click.
    """

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def store_argument(name: str = "store") -> Callable[[Command], Command]:
    """Return the argument STORE.

    Args:
        name: Name of the argument.
    """
    return click.argument(name)  # text: a Path would join the slashes of a URL


def out_option(help_text: str) -> Callable[[Command], Command]:
    """Return the option --out of commands that write a store.

    Args:
        help_text: Help of the option.
    """
    return click.option("--out", required=True, metavar="STORE", help=help_text)


def _set_no_label(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[NO_LABEL] = value


def _label(context: click.Context, parameter: click.Parameter, value: str | None) -> str | bool | None:
    """Return the label column; False if the data has none."""
    if not context.meta.get(NO_LABEL):
        return value
    if value is not None:
        raise click.UsageError("--label and --no-label exclude each other")
    return False


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print no progress on stderr.")
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Rows predicted at a time."
)
device_option = click.option("--device", metavar="DEVICE", help="cpu, cuda, ... [an accelerator if there is one]")
digest_option = click.option("--digest", metavar="HEX", help="Fail unless the snapshot of STORE has this digest.")
temperature_option = click.option(
    "--temperature",
    "temperatures",
    multiple=True,
    type=float,
    default=(1.0,),
    show_default=True,
    help="Temperature of the labels; repeat for more.",
)
data_options = group_of(
    click.option("--input", "input_column", metavar="COLUMN", help="Column of inputs, or several: a,b,c."),
    click.option("--label", "label_column", metavar="COLUMN", callback=_label, help="Column of hard labels."),
    click.option(
        "--no-label", is_flag=True, is_eager=True, expose_value=False, callback=_set_no_label, help="No hard labels."
    ),
    click.option("--id", "id_column", metavar="COLUMN", help="Column that names rows, instead of their content."),
)
"""Roles of the columns of DATA."""

teacher_options = group_of(
    click.option("--teacher", required=True, metavar="MODEL", help="run:DIR, hf:PATH, python:MODULE:NAME, ..."),
    click.option("--teacher-version", metavar="TEXT", help="Version of the teacher that code and weights do not show."),
)
"""The teacher that labels."""

training_options = group_of(
    click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps (instead of --epochs)."),
    click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Passes over the rows. [20]"),
    click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows per step."),
    click.option(
        "--lr", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True, help="Peak learning rate."
    ),
    click.option(
        "--weight-decay", type=click.FloatRange(min=0), default=0.01, show_default=True, help="Weight decay of AdamW."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, dropout and order."),
    device_option,
    click.option(
        "--hard-labels",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use the hard labels of N training rows only, chosen by the seed and balanced over classes.",
    ),
)
"""The recipe of a training run."""
