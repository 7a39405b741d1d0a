"""``softlabels plot``: curves of one or several runs as a picture."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("plot", epilog="Example:  softlabels plot teacher student-0 student-1 --out curves.svg")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out", type=click.Path(path_type=Path), default="curves.svg", show_default=True, help="A .svg, .png or .pdf file."
)
def command(*, runs: tuple[str, ...], out: Path) -> None:
    """Draw loss, KL, agreement and accuracy of RUNs over their steps; figures of held-out rows are dashed.

    Runs that have not finished are drawn as far as they are.
    """
    from softlabels.training.curves import plot

    click.echo(f"{plot(runs, out)}: {len(runs)} runs" if len(runs) > 1 else f"{plot(runs, out)}: 1 run")
