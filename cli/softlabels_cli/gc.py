"""``softlabels gc``: list, and with --delete delete, files that nothing in a store refers to."""

from __future__ import annotations

import click

from softlabels_cli.options import json_option, store_argument
from softlabels_cli.output import count, format_bytes, note, print_json, printable


@click.command("gc", epilog="Example:  softlabels gc labels --delete")
@store_argument()
@click.option("--delete", is_flag=True, help="Delete the files instead of only listing them.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Skip younger files: a commit may be in progress.",
)
@json_option
def command(*, store: str, delete: bool, older_than: float, as_json: bool) -> None:
    """List files of STORE that nothing refers to, left by crashes and repairs."""
    from softlabels.store import collect_garbage

    orphaned = collect_garbage(store, delete=delete, older_than=older_than * 86_400)
    size = sum(file.size for file in orphaned)
    if as_json:
        listed = [{"path": str(file.path), "bytes": file.size, "reason": file.reason} for file in orphaned]
        print_json({"deleted": delete, "files": listed, "bytes": size})
        return
    for file in orphaned:
        click.echo(printable(f"{file.path}  {format_bytes(file.size)}: {file.reason}"))
    click.echo(
        f"{store}: {count(len(orphaned), 'file')}, {format_bytes(size)}{', deleted' if delete and orphaned else ''}"
    )
    if orphaned and not delete:
        note("Nothing was deleted; add --delete to do so.")
