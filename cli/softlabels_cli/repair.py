"""``softlabels repair``: set damaged units aside, so that they can be made again."""

from __future__ import annotations

from pathlib import Path

import click

from softlabels_cli.output import count, json_option, print_json, printable
from softlabels_cli.progress import Progress, quiet_option


@click.command("repair", epilog="Example:  softlabels repair labels")
@click.argument("store", type=click.Path(path_type=Path))
@json_option
@quiet_option
def command(*, store: Path, as_json: bool, quiet: bool) -> None:
    """Verify STORE and move damaged units to its quarantine folder; nothing is deleted.

    Then run the generate command that made the store again: it fills the holes and seals.
    """
    from softlabels.store import repair, verify

    with Progress("verify", unit="units", quiet=quiet) as progress:
        report = verify(store, deep=True, progress=progress.update)
    moved = repair(store, report)
    if as_json:
        print_json({"quarantined": moved, **report.to_json()})
        return
    for problem in report.bad:
        click.echo(printable(f"bad: {problem.path}: {problem.problem}"))
    click.echo(
        f"{store}: {count(len(moved), 'unit')} set aside" + ("; now generate again to fill the holes" if moved else "")
    )
