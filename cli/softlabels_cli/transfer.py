"""Progress and output that ``push`` and ``pull`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from softlabels_cli.output import count, format_bytes, print_json
from softlabels_cli.progress import Progress

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
    with Progress(verb, unit="B", quiet=quiet) as progress:
        outcome = transfer(source, target, digest=digest, progress=progress.update, **options)
    if as_json:
        print_json(outcome.to_json())
        return
    click.echo(
        f"{target}: {count(outcome.rows, 'row')} in {count(outcome.units, 'unit')}, digest {outcome.digest}; "
        f"{count(outcome.new_units, 'unit')} copied now, {format_bytes(outcome.bytes)}"
    )
