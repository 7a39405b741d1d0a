"""``softlabels verify``: check every file of a store."""

from __future__ import annotations

import click

from softlabels.errors import FOUND_BAD
from softlabels_cli.options import digest_option, json_option, quiet_option, store_argument
from softlabels_cli.output import count, note, print_json, printable
from softlabels_cli.progress import Progress


@click.command("verify", epilog="Example:  softlabels verify labels --deep")
@store_argument()
@click.option("--deep", is_flag=True, help="Also decode every row and check its values.")
@click.option(
    "--incremental", is_flag=True, help="Skip units that were right on this machine and have not changed since."
)
@digest_option
@json_option
@quiet_option
def command(*, store: str, deep: bool, incremental: bool, digest: str | None, as_json: bool, quiet: bool) -> None:
    """Check every file of STORE; exit 3 if it is damaged, incomplete or not sealed."""
    from softlabels.store import open_store, verify

    if digest is not None:
        open_store(store, digest=digest)

    with Progress("verify", unit="units", quiet=quiet) as progress:
        report = verify(store, deep=deep, incremental=incremental, progress=progress.update)
    if as_json:
        print_json(report.to_json())
    else:
        for problem in report.bad:
            unit = f"unit {problem.unit}, " if problem.unit is not None else ""
            click.echo(printable(f"bad: {unit}{problem.path}: {problem.problem}"))
        skipped = f" ({report.skipped:,} unchanged since they were last verified)" if report.skipped else ""
        counts = f"{count(report.units, 'unit')}{skipped}, {count(report.rows, 'row')}"
        click.echo(printable(f"{store}: {counts}: {report.verdict}"))
    if not report.ok:
        note(str(report.advice))
        raise click.exceptions.Exit(FOUND_BAD)
