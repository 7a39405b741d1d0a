"""``softlabels gc``: find, and where asked delete, what nothing in a store refers to."""

from __future__ import annotations

from pathlib import Path

import click

from softlabels_cli.output import count, format_bytes, json_option, note, print_json, printable


@click.command("gc", epilog="Example:  softlabels gc labels --delete")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--delete", is_flag=True, help="Delete them; otherwise they are only listed.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Leave younger files alone: a commit may be under way.",
)
@json_option
def command(*, store: Path, delete: bool, older_than: float, as_json: bool) -> None:
    """List the files of STORE that no record or snapshot refers to: what crashes, lost races and repairs left."""
    from softlabels.store import collect_garbage

    found = collect_garbage(store, delete=delete, older_than=older_than * 86_400)
    size = sum(litter.size for litter in found)
    if as_json:
        listed = [{"path": str(litter.path), "bytes": litter.size, "reason": litter.reason} for litter in found]
        print_json({"deleted": delete, "files": listed, "bytes": size})
        return
    for litter in found:
        click.echo(printable(f"{litter.path}  {format_bytes(litter.size)}: {litter.reason}"))
    click.echo(f"{store}: {count(len(found), 'file')}, {format_bytes(size)}{', deleted' if delete and found else ''}")
    if found and not delete:
        note("Nothing was deleted; to do so add --delete.")
