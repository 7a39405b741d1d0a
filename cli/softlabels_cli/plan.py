"""``softlabels plan``: bytes and fidelity of each encoding, before the teacher runs for days."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from softlabels_cli.options import (
    PRICES,
    batch_size_option,
    chosen_data,
    data_options,
    device_option,
    digest_option,
    json_option,
    layout_options,
    price_options,
    quiet_option,
    remembered,
    temperature_option,
)
from softlabels_cli.output import cost_lines, format_bytes, format_table, line_width, note, print_json, wrap
from softlabels_cli.progress import Progress
from softlabels_cli.text_options import chosen_text, text_options

if TYPE_CHECKING:
    from softlabels.generation.settings import Codec, ShardFormat
    from softlabels.planning import Plan, Recommendation


COLUMNS = {
    "bytes/row": "labels, key and container, compressed",
    "KL": "nats from the teacher to the labels at the first temperature, - if labels are right on average instead",
    "total": "bytes of the dataset",
    "error": "sum of the squared differences of the probabilities",
    "mass": "probability of the listed classes",
    "ids": "classes listed per distribution",
    "top-1 agreement": "rows whose likeliest class is the teacher's",
}
"""Columns of the table, with what they mean; of text, bytes are counted per token."""


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
@digest_option
@click.option("--rows", type=click.IntRange(min=1), help="Size of the dataset to plan for. [that of STORE or DATA]")
@temperature_option
@layout_options
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
@price_options
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
    digest: str | None,
    sampled: int,
    rows: int | None,
    temperatures: tuple[float, ...],
    shard_format: ShardFormat,
    codec: Codec,
    unit_rows: int | None,
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

    The sample is the dense rows of STORE, or predictions of the teacher for rows of DATA. One encoding is recommended:
    the default, or the best for --budget or --max-kl. Its cost is printed, with --price-hour and --price-gb-month in
    money too. STORE decides on --temperature, and on --format, --codec and --unit-rows unless they are named.
    """
    from softlabels import generation, planning
    from softlabels.planning.picture import check_target
    from softlabels.planning.plot import draw

    goal = _goal(budget, max_kl)
    if plot is not None:
        check_target(plot)
    layout = {"shard_format": shard_format, "codec": codec, "unit_rows": unit_rows}
    with Progress("plan", unit="encodings", quiet=quiet) as progress:
        plan = generation.plan(
            source,
            teacher=teacher,
            head=head,
            temperatures=temperatures,
            rows=rows,
            sampled=sampled,
            digest=digest,
            batch_size=batch_size,
            device=device,
            text=chosen_text(),
            progress=progress.update,
            **_named(layout),
            **chosen_data(),
        )
    recommended = planning.recommend(plan.sample, goal)
    costs = generation.Costs.of(
        size=recommended.row.bytes_total,
        units=recommended.row.units,
        seconds=plan.sample.seconds,
        **remembered(PRICES),
    )
    if plot is not None:
        draw(plan, plot)
    if as_json:
        print_json(plan.to_json() | recommended.to_json() | {"costs": costs.to_json()})
        return
    _print(plan, show_all=show_all)
    _print_recommended(recommended, _item(plan))
    for line in cost_lines(costs):
        click.echo(wrap(line))
    if "price_hour" in remembered(PRICES) and costs.teacher_hours is None:
        note("A store does not tell how long its teacher takes: plan DATA with --teacher to time it.")
    if not show_all:
        note("Encodings that another one beats in bytes and KL are left out; --all shows them.")


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that the command line names."""
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in options.items() if source(name) is ParameterSource.COMMANDLINE}


def _goal(budget: str | None, max_kl: float | None) -> str | None:
    if budget is not None and max_kl is not None:
        raise click.UsageError("--budget and --max-kl each recommend one encoding; give one of them")
    if budget is not None:
        from softlabels.planning import parse_size

        parse_size(budget)  # an invalid size is an error before anything is measured
        return f"auto:budget={budget}"
    return None if max_kl is None else f"auto:max-kl={max_kl:g}"


def _print(plan: Plan, *, show_all: bool) -> None:
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
    columns = {name.replace("/row", f"/{_item(plan)}"): meaning for name, meaning in COLUMNS.items()}
    table = format_table(("encoding", *columns), lines, width=line_width())
    click.echo(table)
    shown = [name for name in columns if name in table.splitlines()[0]]
    click.echo()
    click.echo(wrap("; ".join(f"{name}: {columns[name]}" for name in shown)))
    click.echo(wrap(f"measured on {plan.sampled:,} rows; mean entropy of the teacher {plan.entropy:.2f} nats"))
    hidden = [name for name in columns if name not in shown]
    if hidden:
        note(f"Columns left out for the width of the terminal: {', '.join(hidden)}; --json has all of them.")


def _item(plan: Plan) -> str:
    """Return the word for what bytes are counted of: a token of text, or a row."""
    return "token" if plan.sample.kind == "tokens" else "row"


def _print_recommended(recommended: Recommendation, item: str) -> None:
    row = recommended.row
    distance = f"error {row.error:.1e}, right on average" if row.kl is None else f"KL {row.kl:.2g} nats"
    if row.kl is not None and recommended.goal is not None:
        distance += f", at most {row.kl_bound:.2g} with 95 % confidence"
    click.echo(
        wrap(
            f"recommended: --encoding {row.encoding} ({row.bytes_per_row:.1f} bytes per {item}, "
            f"{format_bytes(row.bytes_total)} in all, {distance}); {recommended.reason}"
        )
    )
    if recommended.goal is None:
        click.echo(wrap("With --max-kl NATS or --budget SIZE, the best encoding for that goal is recommended."))
