"""``softlabels merge``: copy the rows of several stores into one."""

from __future__ import annotations

import click

from softlabels_cli.options import (
    batch_size_option,
    chosen_data,
    data_options,
    device_option,
    digests_option,
    json_option,
    out_option,
    quiet_option,
)
from softlabels_cli.output import count, note, print_json, printable
from softlabels_cli.progress import Progress
from softlabels_cli.text_options import chosen_text, text_options


@click.command(
    "merge",
    epilog="Example:  softlabels merge monday tuesday --out week --teacher run:teacher --data photos.parquet",
)
@click.argument("stores", nargs=-1, required=True)
@out_option("Directory or URL of the new store.")
@click.option(
    "--conflicts",
    type=click.Choice(["error", "first"]),
    default="error",
    show_default=True,
    help="If stores have different labels for a row: stop with an error, or keep those of the first store.",
)
@click.option("--teacher", metavar="MODEL", help="Predict some rows of every store again, and compare them.")
@click.option("--data", multiple=True, metavar="DATA", help="Data of the stores, for --teacher; repeat for more.")
@digests_option("STORES")
@batch_size_option
@device_option
@text_options
@data_options
@json_option
@quiet_option
def command(
    *,
    stores: tuple[str, ...],
    out: str,
    conflicts: str,
    teacher: str | None,
    data: tuple[str, ...],
    digests: tuple[str, ...],
    batch_size: int,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Copy the rows of sealed STORES into one store, each row once.

    The stores must be of one teacher, and do not change. Rows that stores share are compared, and with --teacher some
    rows of every store are predicted again. After an interruption the same command resumes.
    """
    from softlabels.generation import merge

    with Progress("merge", unit="rows", quiet=quiet) as progress:
        merged = merge(
            stores,
            out,
            conflicts=conflicts,
            teacher=teacher,
            data=data,
            text=chosen_text(),
            batch_size=batch_size,
            device=device,
            digests=digests,
            progress=progress.update,
            **chosen_data(),
        )
    snapshot = merged.snapshot
    if as_json:
        print_json(merged.to_json())
        return
    click.echo(printable(f"{out}: {snapshot.rows:,} rows of {len(stores)} stores, digest {snapshot.digest}"))
    shared = f"{count(merged.shared_rows, 'row')} that stores share compared"
    if merged.checked_rows:
        note(f"{shared}; {count(merged.checked_rows, 'row')} predicted again by {teacher}.")
    else:
        note(f"{shared}; no other row was checked. With --teacher and --data, some rows of each store are.")
