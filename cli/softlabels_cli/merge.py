"""``softlabels merge``: copy the rows of several stores into one."""

from __future__ import annotations

import click

from softlabels_cli.options import json_option, out_option, quiet_option
from softlabels_cli.output import print_json
from softlabels_cli.progress import Progress


@click.command("merge", epilog="Example:  softlabels merge monday tuesday --out week")
@click.argument("stores", nargs=-1, required=True)
@out_option("Directory or URL of the new store.")
@click.option(
    "--conflicts",
    type=click.Choice(["error", "first"]),
    default="error",
    show_default=True,
    help="If stores have different labels for a row: stop with an error, or keep those of the first store.",
)
@json_option
@quiet_option
def command(*, stores: tuple[str, ...], out: str, conflicts: str, as_json: bool, quiet: bool) -> None:
    """Copy the rows of sealed STORES into one store, each row once.

    The stores must be of one teacher, and do not change. After an interruption the same command resumes.
    """
    from softlabels.store import merge

    with Progress("merge", unit="rows", quiet=quiet) as progress:
        snapshot = merge(stores, out, conflicts=conflicts, progress=progress.update)
    if as_json:
        print_json({"rows": snapshot.rows, "units": snapshot.units, "digest": snapshot.digest})
    else:
        click.echo(f"{out}: {snapshot.rows:,} rows of {len(stores)} stores, digest {snapshot.digest}")
