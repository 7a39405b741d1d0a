"""``softlabels merge``: one store of the rows of several."""

from __future__ import annotations

from pathlib import Path

import click

from softlabels_cli.output import json_option, print_json
from softlabels_cli.progress import Progress, quiet_option


@click.command("merge", epilog="Example:  softlabels merge monday tuesday --out week")
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory of the new store.")
@click.option(
    "--conflicts",
    type=click.Choice(["error", "first"]),
    default="error",
    show_default=True,
    help="Where stores hold unlike labels for one row: stop and name it, or keep the first store's.",
)
@json_option
@quiet_option
def command(*, stores: tuple[Path, ...], out: Path, conflicts: str, as_json: bool, quiet: bool) -> None:
    """Copy the rows of sealed STORES by one teacher into one store, each row once, by key.

    The stores stay as they are. Run again, it goes on where it stopped.
    """
    from softlabels.store import merge

    with Progress("merge", unit="rows", quiet=quiet) as progress:
        snapshot = merge(stores, out, conflicts=conflicts, progress=progress.update)
    if as_json:
        print_json({"rows": snapshot.rows, "units": snapshot.units, "digest": snapshot.digest})
    else:
        click.echo(f"{out}: {snapshot.rows:,} rows of {len(stores)} stores, digest {snapshot.digest}")
