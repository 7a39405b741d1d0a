"""``softlabels repair``: set damaged files aside, so that they can be made again."""

from __future__ import annotations

import click

from softlabels_cli.options import json_option, quiet_option, store_argument
from softlabels_cli.output import count, note, print_json, printable
from softlabels_cli.progress import Progress


@click.command("repair", epilog="Example:  softlabels repair labels")
@store_argument()
@json_option
@quiet_option
def command(*, store: str, as_json: bool, quiet: bool) -> None:
    """Move the damaged units of STORE to its quarantine folder.

    Nothing is deleted. The generate command that made the store then makes the units again and seals.
    """
    from softlabels.store import repair, verify

    with Progress("verify", unit="units", quiet=quiet) as progress:
        report = verify(store, deep=True, progress=progress.update)
    moved = repair(store, report)
    if as_json:
        print_json({**report.to_json(), "quarantined": moved, "advice": report.advice_after_repair(moved)})
        return
    for problem in report.bad:
        click.echo(printable(f"bad: {problem.path}: {problem.problem}"))
    click.echo(printable(f"{store}: {count(len(moved), 'unit')} set aside"))
    if (advice := report.advice_after_repair(moved)) is not None:
        note(advice)
