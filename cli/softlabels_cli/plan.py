"""``softlabels plan``: what each encoding would cost and keep, before the teacher runs for days."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from softlabels_cli.options import data_options
from softlabels_cli.output import format_bytes, format_table, json_option, note, print_json
from softlabels_cli.progress import Progress, quiet_option

if TYPE_CHECKING:
    from softlabels.planning import Plan, Sample


@click.command(
    "plan",
    epilog="Example:  softlabels plan labels --max-kl 0.05\n\n"
    "          softlabels plan digits --teacher run:teacher --budget 50MB",
)
@click.argument("source", metavar="STORE|DATA")
@click.option("--teacher", metavar="MODEL", help="Ask this teacher about a sample of DATA, instead of a store's probe.")
@click.option("--head", default="logits", show_default=True, help="Which output of a store.")
@click.option(
    "--sample", "sampled", type=click.IntRange(min=16), default=1024, show_default=True, help="Rows to ask about."
)
@click.option("--rows", type=click.IntRange(min=1), help="Size of the dataset to plan for. [that of STORE or DATA]")
@click.option(
    "--temperature", "temperatures", multiple=True, type=float, default=(1.0,), show_default=True,
    help="Of the labels; the first decides. A store has its own.",
)  # fmt: skip
@click.option("--budget", metavar="SIZE", help="Recommend the most faithful labels within SIZE, such as 50GB.")
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0, min_open=True),
    metavar="NATS",
    help="Recommend the smallest labels as close as this.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw bytes against fidelity to this .svg, .png or .pdf.")
@click.option(
    "--all", "show_all", is_flag=True, help="Also show encodings that another one beats in size and fidelity."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Rows the teacher sees at a time."
)
@click.option("--device", help="cpu, cuda, cuda:1, ... [cuda where there is one]")
@data_options
@json_option
@quiet_option
def command(
    *,
    source: str,
    teacher: str | None,
    head: str,
    sampled: int,
    rows: int | None,
    temperatures: tuple[float, ...],
    budget: str | None,
    max_kl: float | None,
    plot: Path | None,
    show_all: bool,
    batch_size: int,
    device: str | None,
    input_column: str | None,
    label_column: str | None,
    id_column: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show bytes against fidelity for every encoding, on dense rows that STORE keeps or on a sample of DATA.

    KL is in nats, over all classes, of the teacher's distribution to what the labels give back. Unbiased labels
    (sampled, threshold) have no finite KL; their error is the mean squared distance, the noise of the gradient.
    """
    from softlabels import generation, planning
    from softlabels.planning.plot import draw
    from softlabels.sources import open_source

    wanted = _target(budget, max_kl)
    if teacher is None:
        sample = planning.sample_of_store(source, head)
    else:
        settings = generation.Settings(temperatures=temperatures, batch_size=batch_size, device=device)
        data = open_source(source, input=input_column, label=label_column, id=id_column)
        sample = generation.sample(data, teacher=teacher, settings=settings, rows=sampled)
    sample = sample.for_rows(rows)
    with Progress("plan", unit="encodings", quiet=quiet) as progress:
        found = planning.plan(sample, progress=progress.update)
    recommended = None if wanted is None else planning.resolve(wanted, sample)
    if plot is not None:
        draw(found, plot)
    if as_json:
        shown = {"rows": [row.to_json() for row in found.rows], "sampled": found.sampled, "entropy": found.entropy}
        print_json(shown | {"recommended": recommended})
        return
    _print(found, show_all=show_all)
    if recommended is not None:
        _print_recommended(sample, recommended, wanted)
    elif not show_all:
        note("Encodings that another one beats are left out; --all shows them.")


def _target(budget: str | None, max_kl: float | None) -> str | None:
    if budget is not None and max_kl is not None:
        raise click.UsageError("--budget and --max-kl each recommend one encoding; give one of them")
    if budget is not None:
        from softlabels.planning import parse_size

        parse_size(budget)  # says what is wrong before anything is measured
        return f"auto:budget={budget}"
    return None if max_kl is None else f"auto:max-kl={max_kl:g}"


def _print(found: Plan, *, show_all: bool) -> None:
    header = ("encoding", "bytes a row", "total", "KL", "error", "listed mass", "ids", "top-1 kept")
    lines = [
        (
            row.encoding + (" (this store)" if row.current else ""),
            f"{row.bytes_per_row:.1f}",
            format_bytes(row.bytes_total),
            "-" if row.kl is None else f"{row.kl:.2g}",
            f"{row.error:.1e}",
            f"{row.mass:.4f}",
            f"{row.ids:.1f}",
            f"{row.top1:.2%}",
        )
        for row in found.rows
        if row.front or row.current or show_all
    ]
    click.echo(format_table(header, lines))
    click.echo(f"\nmeasured on {found.sampled:,} rows; mean entropy of the teacher {found.entropy:.2f} nats")


def _print_recommended(sample: Sample, recommended: str, wanted: str | None) -> None:
    from softlabels.planning.table import measure_row

    row, _ = measure_row(sample, recommended)
    distance = f"error {row.error:.1e}, right on average" if row.kl is None else f"KL {row.kl:.2g} nats"
    click.echo(
        f"recommended: --encoding {recommended} ({row.bytes_per_row:.1f} bytes a row, "
        f"{format_bytes(row.bytes_total)} in all, {distance}); generate finds it itself with --encoding {wanted}"
    )
