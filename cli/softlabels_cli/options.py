"""Options that several commands share: each is declared here once and applied as a decorator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from softlabels.labels import HeadKind
    from softlabels.models import PreprocessingOptions
    from softlabels.sources.request import DataOptions

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

DATA = "softlabels.data"
PRICES = "softlabels.prices"
STATEMENTS = "softlabels.statements"
DECLARED = "softlabels.declared"
"""Keys of the context that hold the options of a group that were given."""


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


def run_folder(text: str) -> str | None:
    """Return the directory of a run, without the modules that load one, which import torch; None if it names none.

    Args:
        text: A directory that holds a finished run, or MODEL: ``run:DIR`` or ``python:MODULE:NAME@DIR``.
    """
    if text.startswith("run:"):
        return text.removeprefix("run:")
    if text.startswith("python:") and "@" in text:
        return text.partition("@")[2]
    return text if "://" not in text and (Path(text) / "run.json").exists() else None


def out_option(help_text: str) -> Callable[[Command], Command]:
    """Return the option --out of commands that write a store.

    Args:
        help_text: Help of the option.
    """
    return click.option("--out", required=True, metavar="STORE", help=help_text)


def remembered_option(key: str, *names: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return an option whose value is no argument of the command, but is stored in the context if it was given.

    Args:
        key: Key of the context that holds such values by parameter; see ``remembered``.
        names: Names of the option.
        attributes: Attributes of ``click.option``; ``callback`` converts the value.
    """
    convert = attributes.pop("callback", None)

    def remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        value = value if convert is None else convert(context, parameter, value)
        if value is not None and parameter.name is not None:
            context.meta.setdefault(key, {})[parameter.name] = value

    return click.option(*names, expose_value=False, callback=remember, **attributes)


def remembered(key: str) -> dict[str, Any]:
    """Return the values of the options that were given, by parameter.

    Args:
        key: Key of the context, as of ``remembered_option``.
    """
    return dict(click.get_current_context().meta.get(key, {}))


def _targets(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    """Return texts ``NAME=COLUMN`` as a mapping; None for no text."""
    targets: dict[str, str] = {}
    for value in values:
        head, separator, column = value.partition("=")
        if not separator or not head or not column:
            raise click.UsageError(f"--target: no column, got {value!r}; expected NAME=COLUMN")
        if head in targets:
            raise click.UsageError(
                f"--target: head {head!r} has columns {targets[head]!r} and {column!r}; expected one"
            )
        targets[head] = column
    return targets or None


def chosen_data() -> DataOptions:
    """Return the options of the data that the command was given.

    Raises:
        UsageError: Options exclude each other.
    """
    options = remembered(DATA)
    if options.pop("no_label", False):
        if "label" in options:
            raise click.UsageError("--label and --no-label exclude each other")
        options["label"] = False
    return cast("DataOptions", options)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print no progress on stderr.")
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Rows predicted at a time."
)
device_option = click.option("--device", metavar="DEVICE", help="cpu, cuda, ... [an accelerator if there is one]")
digest_option = click.option("--digest", metavar="HEX", help="Fail unless the snapshot of STORE has this digest.")


def digests_option(stores: str) -> Callable[[Command], Command]:
    """Return the option --digest of commands that read several stores.

    Args:
        stores: Name of the stores in the help of the command.
    """
    help_text = f"Fail unless the {stores} have these digests, in order."
    return click.option("--digest", "digests", multiple=True, metavar="HEX", help=help_text)


shard_format_option = click.option(
    "--format",
    "shard_format",
    metavar="zarr|parquet",
    default="zarr",
    show_default=True,
    help="zarr: arrays in a zip; parquet: lists for Polars, DuckDB, viewers and the hub.",
)
codec_option = click.option(
    "--codec",
    type=click.Choice(["zstd", "lz4"]),
    default="zstd",
    show_default=True,
    help="zstd: smaller shards; lz4: faster to read.",
)
unit_rows_option = click.option(
    "--unit-rows", type=click.IntRange(min=1), help="Rows committed at a time. [from the size of a row]"
)
layout_options = group_of(shard_format_option, codec_option, unit_rows_option)
"""The layout of a store."""

price_options = group_of(
    remembered_option(PRICES, "--price-hour", type=click.FloatRange(min=0), help="Price of an hour of the teacher."),
    remembered_option(
        PRICES, "--price-gb-month", type=click.FloatRange(min=0), help="Price of keeping a gigabyte for a month."
    ),
)
"""Prices that a cost is computed with; ``remembered(PRICES)`` returns them."""

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
    remembered_option(DATA, "--input", metavar="COLUMN", help="Column of inputs, or several: a,b,c."),
    remembered_option(DATA, "--label", metavar="COLUMN", help="Column of hard labels."),
    remembered_option(DATA, "--no-label", is_flag=True, help="No hard labels."),
    remembered_option(
        DATA,
        "--target",
        "targets",
        metavar="NAME=COLUMN",
        multiple=True,
        callback=_targets,
        help="Column of the ground truth of a head: classes, numbers or masks; repeat for more heads.",
    ),
    remembered_option(
        DATA,
        "--size",
        type=click.IntRange(min=1),
        metavar="PIXELS",
        help="Resize the shorter side of images to PIXELS and crop the centre. [their own size]",
    ),
    remembered_option(DATA, "--id", metavar="COLUMN", help="Column that names rows, instead of their content."),
)
"""Roles of the columns of DATA; ``chosen_data`` returns their values."""

teacher_options = group_of(
    click.option(
        "--teacher", required=True, metavar="MODEL", help="run:DIR, hf:PATH, onnx:FILE, python:MODULE:NAME, ..."
    ),
    click.option("--teacher-version", metavar="TEXT", help="Version of the teacher that code and weights do not show."),
)
"""The teacher that labels."""

description_options = group_of(
    remembered_option(STATEMENTS, "--license", metavar="TEXT", help="Licence of the labels, such as CC-BY-4.0."),
    remembered_option(STATEMENTS, "--terms", metavar="TEXT", help="Terms of use."),
    remembered_option(
        STATEMENTS, "--data-statement", metavar="TEXT", help="Source, consent and personal data of the inputs."
    ),
    remembered_option(STATEMENTS, "--contact", metavar="TEXT", help="Address for questions and removal requests."),
)
"""What the owner of a store states; ``chosen_statements`` returns it."""


def chosen_statements() -> dict[str, str]:
    """Return the statements that the command was given, as arguments of ``describe``."""
    return {"data" if name == "data_statement" else name: text for name, text in remembered(STATEMENTS).items()}


declared_options = group_of(
    remembered_option(
        DECLARED, "--mean", metavar="M,M,M", help="Mean of each channel after scaling, or imagenet. [the model's own]"
    ),
    remembered_option(
        DECLARED, "--std", metavar="S,S,S", help="Deviation of each channel after scaling, or imagenet. [likewise]"
    ),
    remembered_option(DECLARED, "--scale", metavar="FACTOR", help="Factor of pixels, such as 1/255. [the model's own]"),
    remembered_option(
        DECLARED, "--layout", type=click.Choice(["nchw", "nhwc"]), help="Axes of the network. [its own, or nchw]"
    ),
    remembered_option(
        DECLARED,
        "--head",
        "kinds",
        metavar="NAME=KIND",
        multiple=True,
        callback=lambda _context, _parameter, values: values or None,
        help="Meaning of an output: classes, pixels, regression, embedding; others are not used. [what the file says]",
    ),
)
"""Preprocessing of images and heads of a model whose file does not say them; ``chosen_declared`` returns them."""


def chosen_declared() -> tuple[dict[str, HeadKind], PreprocessingOptions]:
    """Return the kinds of heads and the preprocessing that the command was given.

    Raises:
        InvalidArgument: A kind is malformed.
    """
    from softlabels.models import PreprocessingOptions
    from softlabels.models.declared import parse_kinds

    options = remembered(DECLARED)
    return parse_kinds(options.pop("kinds", ())), PreprocessingOptions(**options)


def declare(model: Any, source: Any) -> Any:
    """Return a teacher with the heads and preprocessing that the command was given; the teacher itself without any.

    Args:
        model: MODEL specification, or a loaded model.
        source: The data, whose first row shows the heads.

    Raises:
        InvalidArgument: An option is malformed, or the model has its heads and preprocessing already.
    """
    if not remembered(DECLARED):
        return model
    import numpy as np

    from softlabels.models import as_model

    heads, preprocessing = chosen_declared()
    sample = source.inputs(np.zeros(1, np.int64))
    return as_model(model, sample=sample, heads=heads, preprocessing=preprocessing or None)
