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
    help="Skip files that are younger: they may belong to a commit in progress. After repair, 0 lists them at once.",
)
@json_option
def command(*, store: str, delete: bool, older_than: float, as_json: bool) -> None:
    """List files of STORE that nothing refers to, left by crashes and repairs."""
    from softlabels.store import collect_garbage

    garbage = collect_garbage(store, delete=delete, older_than=older_than)
    if as_json:
        print_json({"deleted": delete, **garbage.to_json()})
        return
    for file in garbage.files:
        click.echo(printable(f"{file.path}  {format_bytes(file.size)}: {file.reason}"))
    deleted = ", deleted" if delete and garbage.files else ""
    click.echo(printable(f"{store}: {count(len(garbage.files), 'file')}, {format_bytes(garbage.bytes)}{deleted}"))
    if garbage.young:
        note(
            f"Skipped {count(len(garbage.young), 'file')} ({format_bytes(garbage.young_bytes)}) younger than "
            f"{older_than:g} days: they may belong to a commit in progress. If nothing writes to the store, add "
            "--older-than 0."
        )
    if garbage.files and not delete:
        note("Nothing was deleted; add --delete to do so.")
