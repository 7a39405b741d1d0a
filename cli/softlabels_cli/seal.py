"""``softlabels seal``: publish the committed units of a store as a snapshot."""

from __future__ import annotations

import click

from softlabels_cli.options import json_option, store_argument
from softlabels_cli.output import print_json


@click.command("seal", epilog="Example:  softlabels seal labels")
@store_argument()
@json_option
def command(*, store: str, as_json: bool) -> None:
    """Publish the committed units of STORE as a snapshot, which readers open.

    Every unit must be there. Without new units the last snapshot stays. ``generate`` seals after the last unit.
    """
    from softlabels.store import seal

    snapshot = seal(store)
    if as_json:
        print_json({"number": snapshot.number, "digest": snapshot.digest, "rows": snapshot.rows})
    else:
        click.echo(f"{store}: snapshot {snapshot.number}, {snapshot.rows:,} rows, digest {snapshot.digest}")
