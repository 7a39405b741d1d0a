"""``softlabels plot``: curves of one or several runs as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from softlabels_cli.options import json_option, run_folder
from softlabels_cli.output import count, print_json


@click.command("plot", epilog="Example:  softlabels plot teacher student-0 student-1 --out curves.svg")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out", type=click.Path(path_type=Path), default="curves.svg", show_default=True, help="A .svg, .png or .pdf file."
)
@json_option
def command(*, runs: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Draw loss, KL, agreement and accuracy of RUNs over their steps; figures of held-out rows are dashed.

    Runs that have not finished are drawn as far as they are.
    """
    from softlabels.training.curves import plot

    path = plot([run_folder(run) or run for run in runs], out)
    if as_json:
        print_json({"path": str(path), "runs": list(runs)})
    else:
        click.echo(f"{path}: {count(len(runs), 'run')}")
