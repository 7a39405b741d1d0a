"""Progress and output that ``push`` and ``pull`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from softlabels_cli.options import group_of
from softlabels_cli.output import count, format_bytes, print_json
from softlabels_cli.progress import Progress


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    names = _names(context, parameter, value)
    if names is not None and not all(name.isdecimal() for name in names):
        raise click.BadParameter(f"got {value!r}; expected numbers such as 0,1")
    return None if names is None else tuple(map(int, names))


part_options = group_of(
    click.option("--rows", metavar="A:B", help="Copy rows A up to B alone, counted from 0; A or B may be left out."),
    click.option("--keys", metavar="FILE", help="Copy the rows with these keys or ids, one a line."),
    click.option("--heads", metavar="NAMES", callback=_names, help="Copy these heads: logits,boxes."),
    click.option("--views", metavar="NUMBERS", callback=_numbers, help="Copy these views: 0,1."),
    click.option("--top", type=click.IntRange(min=1), metavar="K", help="Copy the K likeliest classes of each row."),
)
"""The part of a store that is copied."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from softlabels.sharing import Transfer


def run_transfer(
    verb: str,
    transfer: Callable[..., Transfer],
    source: str,
    target: str,
    *,
    digest: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Copy a store and print what was copied.

    Args:
        verb: Name of the command.
        transfer: ``push`` or ``pull``.
        source: Location to copy from.
        target: Location to copy to.
        digest: Digest that the snapshot must have; None for any.
        as_json: If True, print JSON.
        quiet: If True, show no progress.
        options: Further options of the transfer.
    """
    is_part = any(options.get(name) is not None for name in ("rows", "keys", "heads", "views", "top"))
    with Progress(verb, unit="rows" if is_part else "B", quiet=quiet) as progress:
        outcome = transfer(source, target, digest=digest, progress=progress.update, **options)
    if as_json:
        print_json(outcome.to_json())
        return
    click.echo(
        f"{target}: {count(outcome.rows, 'row')} in {count(outcome.units, 'unit')}, digest {outcome.digest}; "
        f"{count(outcome.new_units, 'unit')} copied now, {format_bytes(outcome.bytes)}"
    )
