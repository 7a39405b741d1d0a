"""``softlabels verify``: is every byte of a store what was committed?"""

from __future__ import annotations

from pathlib import Path

import click

from softlabels_cli.output import count, json_option, note, print_json, printable
from softlabels_cli.progress import Progress, quiet_option

FOUND_BAD = 3


@click.command("verify", epilog="Example:  softlabels verify labels --deep")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Also decode every row and check its values.")
@click.option(
    "--incremental", is_flag=True, help="Skip units found good on this machine before, and not touched since."
)
@json_option
@quiet_option
def command(*, store: Path, deep: bool, incremental: bool, as_json: bool, quiet: bool) -> None:
    """Check every file of STORE against its digests; exit 3 where something is bad."""
    from softlabels.store import verify

    with Progress("verify", unit="units", quiet=quiet) as progress:
        report = verify(store, deep=deep, incremental=incremental, progress=progress.update)
    if as_json:
        print_json(report.to_json())
    else:
        for problem in report.bad:
            where = f"unit {problem.unit}, " if problem.unit is not None else ""
            click.echo(printable(f"bad: {where}{problem.path}: {problem.problem}"))
        verdict = "whole" if report.ok else f"{len(report.bad)} problems"
        skipped = f" ({report.skipped:,} as they were when last verified)" if report.skipped else ""
        click.echo(f"{store}: {count(report.units, 'unit')}{skipped}, {count(report.rows, 'row')}: {verdict}")
    if not report.ok:
        note(f"To mend it: softlabels repair {store}, then generate again to fill the holes.")
        raise click.exceptions.Exit(FOUND_BAD)
