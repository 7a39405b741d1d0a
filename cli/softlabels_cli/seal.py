"""``softlabels seal``: publish the committed units of a store as a snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from softlabels_cli.output import json_option, print_json


@click.command("seal", epilog="Example:  softlabels seal labels")
@click.argument("store", type=click.Path(path_type=Path))
@json_option
def command(*, store: Path, as_json: bool) -> None:
    """Check that every unit of STORE is there and publish them as a snapshot, which readers open.

    Nothing new since the last snapshot: that one stands. ``generate`` seals by itself when it made the last unit.
    """
    from softlabels.store import seal

    snapshot = seal(store)
    if as_json:
        print_json({"number": snapshot.number, "digest": snapshot.digest, "rows": snapshot.rows})
    else:
        click.echo(f"{store}: snapshot {snapshot.number}, {snapshot.rows:,} rows, digest {snapshot.digest}")
