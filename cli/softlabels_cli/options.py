"""Options that several commands share, worded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def data_options(command: Command) -> Command:
    """--input, --label, --id: which columns of DATA are what."""
    for option in reversed(
        (
            click.option("--input", "input_column", metavar="COLUMN", help="Column of model inputs."),
            click.option("--label", "label_column", metavar="COLUMN", help="Column of hard labels."),
            click.option("--id", "id_column", metavar="COLUMN", help="Name rows by this column, not by content."),
        )
    ):
        command = option(command)
    return command


def training_options(command: Command) -> Command:
    """What every training run can be told."""
    for option in reversed(
        (
            click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps (instead of --epochs)."),
            click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Passes over the rows. [20]"),
            click.option(
                "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows a step."
            ),
            click.option(
                "--lr",
                type=click.FloatRange(min=0, min_open=True),
                default=1e-3,
                show_default=True,
                help="Peak learning rate.",
            ),
            click.option(
                "--weight-decay", type=click.FloatRange(min=0), default=0.01, show_default=True, help="AdamW's."
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, dropout and order."),
            click.option("--device", metavar="DEVICE", help="cpu, cuda, ... [an accelerator if there is one]"),
            click.option(
                "--hard-labels",
                type=click.IntRange(min=1),
                metavar="N",
                help="Know the hard labels of N training rows only, a seeded choice balanced over classes.",
            ),
        )
    ):
        command = option(command)
    return command
