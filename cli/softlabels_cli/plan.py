"""``softlabels plan``: bytes and fidelity of each encoding, before the teacher runs for days."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from softlabels_cli.options import (
    batch_size_option,
    chosen_data,
    data_options,
    device_option,
    json_option,
    quiet_option,
    temperature_option,
)
from softlabels_cli.output import format_bytes, format_table, line_width, note, print_json
from softlabels_cli.progress import Progress
from softlabels_cli.text_options import chosen_text, text_options

if TYPE_CHECKING:
    from softlabels.planning import Plan, Sample


@click.command(
    "plan",
    epilog="Example:  softlabels plan labels --max-kl 0.05\n\n"
    "          softlabels plan digits --teacher run:teacher --budget 50MB",
)
@click.argument("source", metavar="STORE|DATA")
@click.option(
    "--teacher", metavar="MODEL", help="Predict a sample of DATA with this teacher, instead of a store's rows."
)
@click.option("--head", metavar="HEAD", help="Output to plan for. [the first distribution]")
@click.option(
    "--sample", "sampled", type=click.IntRange(min=16), default=1024, show_default=True, help="Rows of the sample."
)
@click.option("--rows", type=click.IntRange(min=1), help="Size of the dataset to plan for. [that of STORE or DATA]")
@temperature_option
@click.option("--budget", metavar="SIZE", help="Recommend the most faithful labels within SIZE, such as 50GB.")
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0, min_open=True),
    metavar="NATS",
    help="Recommend the smallest labels with at most this KL.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw bytes against fidelity to a .svg, .png or .pdf file."
)
@click.option(
    "--all", "show_all", is_flag=True, help="Also show encodings that another one beats in size and fidelity."
)
@batch_size_option
@device_option
@text_options
@data_options
@json_option
@quiet_option
def command(
    *,
    source: str,
    teacher: str | None,
    head: str | None,
    sampled: int,
    rows: int | None,
    temperatures: tuple[float, ...],
    budget: str | None,
    max_kl: float | None,
    plot: Path | None,
    show_all: bool,
    batch_size: int,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure bytes and fidelity of every encoding on a sample.

    The sample is the dense rows of STORE, or predictions of the teacher for rows of DATA. Bytes include keys and
    containers. With --budget or --max-kl, one encoding is recommended.
    """
    from softlabels import generation, planning
    from softlabels.generation.text_data import open_data
    from softlabels.planning.plot import check_target, draw

    target = _target(budget, max_kl)
    if plot is not None:
        check_target(plot)
    if teacher is None:
        sample = planning.sample_of_store(source, head)
    else:
        settings = generation.Settings(temperatures=temperatures, batch_size=batch_size, device=device)
        data, model = open_data(source, teacher, text=chosen_text(), **chosen_data())
        sample = generation.sample(data, teacher=model, settings=settings, head=head, rows=sampled)
    sample = sample.for_rows(rows)
    with Progress("plan", unit="encodings", quiet=quiet) as progress:
        plan = planning.plan(sample, progress=progress.update)
    recommended = None if target is None else planning.resolve(target, sample)
    if plot is not None:
        draw(plan, plot)
    if as_json:
        document = {"rows": [row.to_json() for row in plan.rows], "sampled": plan.sampled, "entropy": plan.entropy}
        print_json(document | {"recommended": recommended})
        return
    _print(plan, show_all=show_all)
    if recommended is not None and target is not None:
        _print_recommended(sample, recommended, target)
    elif not show_all:
        note("Encodings that another one beats are left out; --all shows them.")


def _target(budget: str | None, max_kl: float | None) -> str | None:
    if budget is not None and max_kl is not None:
        raise click.UsageError("--budget and --max-kl each recommend one encoding; give one of them")
    if budget is not None:
        from softlabels.planning import parse_size

        parse_size(budget)  # an invalid size is an error before anything is measured
        return f"auto:budget={budget}"
    return None if max_kl is None else f"auto:max-kl={max_kl:g}"


def _print(plan: Plan, *, show_all: bool) -> None:
    header = ("encoding", "bytes/row", "KL", "total", "error", "mass", "ids", "top-1 kept")
    lines = [
        (
            row.encoding + (" (this store)" if row.current else ""),
            f"{row.bytes_per_row:.1f}",
            "-" if row.kl is None else f"{row.kl:.2g}",
            format_bytes(row.bytes_total),
            f"{row.error:.1e}",
            f"{row.mass:.4f}",
            f"{row.ids:.1f}",
            f"{row.top1:.2%}",
        )
        for row in plan.rows
        if row.front or row.current or show_all
    ]
    table = format_table(header, lines, width=line_width())
    click.echo(table)
    click.echo(f"\nmeasured on {plan.sampled:,} rows; mean entropy of the teacher {plan.entropy:.2f} nats")
    hidden = [name for name in header if name not in table.splitlines()[0]]
    if hidden:
        note(f"Columns left out for the width of the terminal: {', '.join(hidden)}; --json has all of them.")


def _print_recommended(sample: Sample, recommended: str, target: str) -> None:
    from softlabels.planning.table import measure_row

    row, _ = measure_row(sample, recommended)
    distance = f"error {row.error:.1e}, right on average" if row.kl is None else f"KL {row.kl:.2g} nats"
    click.echo(
        f"recommended: --encoding {recommended} ({row.bytes_per_row:.1f} bytes per row, "
        f"{format_bytes(row.bytes_total)} in all, {distance}); generate --encoding {target} finds it by itself"
    )
