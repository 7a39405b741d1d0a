"""Options of training commands, declared once: the fields of Recipe, and the recipe file that may hold all options.

An option has its value from the command line, else from the variable ``SOFTLABELS_`` with its name, else from the table
of the command in the file of ``--config``, else its default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from softlabels_cli import recipe_file
from softlabels_cli.options import DATA, device_option, group_of, remembered
from softlabels_cli.output import printable
from softlabels_cli.text_options import META as TEXT

PREFIX = "SOFTLABELS_"
"""Prefix of environment variables."""

EXCLUDED = ("config", "explain", "as_json", "quiet", "debug", "help", "out")
"""Options that are no part of a recipe file; ``out`` may be in one, but is not written."""

RECIPE = "softlabels.recipe"
"""Key of the context that holds the path of the recipe file."""

SOURCES = {
    ParameterSource.COMMANDLINE: "command line",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}


def _option(*names: str, **attributes: Any) -> Any:
    return click.option(*names, envvar=PREFIX + names[-1].lstrip("-").replace("-", "_").upper(), **attributes)


def _load(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Make the values of a recipe file the defaults of the command."""
    if value is not None:
        known = {key_of(entry): entry for entry in context.command.params if entry.name not in EXCLUDED[:-1]}
        values = recipe_file.read(value, str(context.info_name), sorted(known))
        context.meta[RECIPE] = value
        context.default_map = {str(known[key].name): _as_click(known[key], entry) for key, entry in values.items()}
    return value


def recipe_directories() -> set[Path]:
    """Return the directories whose lock file counts: the current one, and that of the recipe file."""
    recipe: Path | None = click.get_current_context().meta.get(RECIPE)
    return {directory.resolve() for directory in (Path(), *([] if recipe is None else [recipe.parent]))}


def key_of(parameter: click.Parameter) -> str:
    """Return the key of an option in a recipe file: its long name with underscores.

    Args:
        parameter: Option or argument.
    """
    if isinstance(parameter, click.Argument):
        return str(parameter.name)
    return max(parameter.opts, key=len).lstrip("-").replace("-", "_")


def _as_click(parameter: click.Parameter, value: Any) -> Any:
    """Return a value of a file as click takes it: texts ``HEAD=VALUE`` for a table, a list for a repeated option."""
    if isinstance(value, Mapping):
        return [text if head == "*" else f"{head}={text}" for head, text in value.items()]
    return [value] if getattr(parameter, "multiple", False) and not isinstance(value, list) else value


def _by_head(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """Return ``[HEAD=]VALUE`` texts as one value, or a mapping by head; numbers as floats."""
    if not values:
        return None
    is_number = parameter.name != "loss"
    entries: dict[str, Any] = {}
    for text in values:
        head, separator, value = str(text).partition("=")
        if not separator or any(mark in head for mark in ":+*"):  # huber:delta=2 has no head
            head, value = "*", str(text)
        if head in entries:
            raise click.BadParameter(f"there are two values for {head!r}, {entries[head]!r} and {value!r}")
        entries[head] = _number(value) if is_number else value
    return entries["*"] if set(entries) == {"*"} else entries


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number; expected [HEAD=]NUMBER") from None


def _needed(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Require a run directory, except for ``--explain``, which trains nothing."""
    if value is None and context.params.get("explain") is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


run_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="RUN",
    callback=_needed,
    help="Directory of the run.  [required]",
)
"""The directory that a run is written to."""

config_options = group_of(
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="Recipe in TOML that holds any of these options.",
    ),
    click.option(
        "--explain", metavar="KEY", is_eager=True, help="Print the value of an option and where it came from, and stop."
    ),
)
"""A recipe file; to be applied last, above all other options."""

training_options = group_of(
    _option("--steps", type=click.IntRange(min=1), help="Optimiser steps (instead of --epochs)."),
    _option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Passes over the rows. [20]"),
    _option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="End after that much training."),
    _option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows per step."),
    _option("--accumulation", type=click.IntRange(min=1), default=1, show_default=True, help="Shares of a step."),
    _option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True, help="Optimiser."),
    _option(
        "--lr", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True, help="Peak learning rate."
    ),
    _option("--weight-decay", type=click.FloatRange(min=0), default=0.01, show_default=True, help="Weight decay."),
    _option("--momentum", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="Momentum of sgd."),
    _option(
        "--schedule", type=click.Choice(["cosine", "linear", "constant"]), default="cosine", show_default=True,
        help="Learning rate after the warm-up.",
    ),
    _option("--warmup", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Share of rising steps."),
    _option(
        "--clip", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
        help="Greatest norm of the gradient.",
    ),
    _option(
        "--precision", type=click.Choice(["float32", "bf16", "fp16"]), default="float32", show_default=True,
        help="Dtype of matrix products; fp16 needs a GPU.",
    ),
    _option("--ema", type=click.FloatRange(0, 1), metavar="DECAY", help="Average the weights over the steps."),
    _option("--eval-every", type=click.IntRange(min=1), metavar="STEPS", help="Evaluate on held-out rows. [never]"),
    _option(
        "--patience", type=click.IntRange(min=1), metavar="N",
        help="End after N evaluations without a lower held-out loss. [never]",
    ),
    _option("--compile", is_flag=True, help="Compile the network with torch.compile."),
    _option("--gradient-checkpointing", is_flag=True, help="Save memory of gpt and hf; a step takes longer."),
    _option("--seed", type=int, default=0, show_default=True, help="Seed of weights, dropout and order."),
    device_option,
    _option(
        "--hard-labels", type=click.IntRange(min=1), metavar="N",
        help="Use the hard labels of N training rows only, chosen by the seed and balanced over classes.",
    ),
    _option(
        "--loss", metavar="[HEAD=]LOSS", multiple=True, callback=_by_head,
        help="kl, mse, kl+0.1*logit_mse, huber:delta=2, ...; repeat for more heads. [by the kind of the head]",
    ),
    _option(
        "--weight", metavar="[HEAD=]W", multiple=True, callback=_by_head,
        help="Weight of a head; repeat for more heads. [1]",
    ),
    _option("--log-every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps between metrics."),
    click.option(
        "--track", metavar="TRACKER", multiple=True, help="Send metrics to tensorboard, wandb or trackio; repeatable."
    ),
    click.option(
        "--checkpoint-seconds", type=click.FloatRange(min=0), default=20.0, show_default=True,
        help="Time between checkpoints.",
    ),
    click.option(
        "--keep-checkpoints", type=click.IntRange(min=1), default=1, show_default=True, help="Checkpoints to preserve."
    ),
)  # fmt: skip
"""The recipe of a training run."""

soft_options = group_of(
    _option(
        "--temperature", metavar="[HEAD=]T", multiple=True, callback=_by_head,
        help="Temperature of the losses. [the highest in the store]",
    ),
    _option("--alpha", metavar="[HEAD=]A", multiple=True, callback=_by_head, help="Weight of the soft labels. [0.9]"),
    _option(
        "--views", type=click.Choice(["one", "all", "mean"]), default="one", show_default=True,
        help="Views of each image in an epoch, if the labels are of several; mean: the image with their mean label.",
    ),
    click.option("--head", "heads", metavar="NAME", multiple=True, help="Head to learn; repeatable. [all]"),
)  # fmt: skip
"""Options of soft labels."""


def recipe_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a command as keyword arguments of ``train_teacher`` and ``train_student``.

    Args:
        options: Values by parameter; None, and no values of a repeated option, leave the default.
    """
    context = click.get_current_context()
    chosen = {name: value for name, value in options.items() if value is not None and value != ()}
    if "steps" in chosen and "epochs" in chosen:
        # One of them replaces the other if it comes from a higher place.
        steps, epochs = (_rank(context, name) for name in ("steps", "epochs"))
        if steps != epochs:
            del chosen["epochs" if steps < epochs else "steps"]
    return chosen


def _rank(context: click.Context, name: str) -> int:
    order = [ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP]
    source = context.get_parameter_source(name)
    return order.index(source) if source in order else len(order)


def explain(key: str) -> str:
    """Return the value of an option and where it came from, in a line.

    Args:
        key: Name of the option, as in a recipe file or on the command line.

    Raises:
        InvalidArgument: There is no such option; names the nearest.
    """
    context = click.get_current_context()
    known = {key_of(parameter): parameter for parameter in context.command.params if parameter.name not in EXCLUDED}
    name = key.lstrip("-").replace("-", "_")
    recipe_file.check_key(name, sorted(known), "--explain")
    parameter = known[name]
    source = context.get_parameter_source(str(parameter.name))
    where = SOURCES.get(source, "default") if source is not None else "default"
    if source == ParameterSource.ENVIRONMENT:
        where = f"environment variable {parameter.envvar}"
    return f"{name} = {recipe_file.value_to_toml(_value(context, parameter))} ({where})"


def resolved(**changes: Any) -> str:
    """Return the options of the command as a recipe file that alone repeats it.

    Args:
        changes: Values that replace those of options, by key.
    """
    from softlabels.training.recipe import Recipe, RecipeOptions

    context = click.get_current_context()
    values = {
        key_of(parameter): _value(context, parameter)
        for parameter in context.command.params
        if parameter.name not in EXCLUDED
    }
    fields = recipe_of({name: value for name, value in context.params.items() if name in RecipeOptions.__annotations__})
    for name in RecipeOptions.__annotations__:
        if name in values:
            values[name] = fields.get(name, getattr(Recipe, name))
    values |= changes
    return recipe_file.to_toml(str(context.info_name), {key: _absolute(value) for key, value in values.items()})


def _value(context: click.Context, parameter: click.Parameter) -> Any:
    name = str(parameter.name)
    if name in context.params:
        return context.params[name]
    return (remembered(TEXT) | remembered(DATA)).get(name)


def _absolute(value: Any) -> Any:
    """Return a path that exists as an absolute one, also behind ``run:`` and ``hf:``; other values as they are."""
    if not isinstance(value, str):
        return value
    kind, separator, rest = value.rpartition(":")
    if kind in {"", "run", "hf"} and rest and os.path.lexists(rest):
        return f"{kind}{separator}{Path(rest).absolute()}"
    return value


def print_explained(key: str | None) -> bool:
    """Print the option that ``--explain`` names; return True if it names one.

    Args:
        key: Value of --explain.
    """
    if key is not None:
        click.echo(printable(explain(key)))
    return key is not None
