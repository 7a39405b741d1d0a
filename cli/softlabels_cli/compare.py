"""``softlabels compare``: quality by head, parameters, FLOPs, latency, memory and size of models, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from softlabels_cli.options import (
    chosen_data,
    chosen_declared,
    data_options,
    declared_options,
    json_option,
    quiet_option,
)
from softlabels_cli.output import format_blocks, format_bytes, line_width, note, print_json, printable, wrap
from softlabels_cli.text_options import chosen_text, text_options

if TYPE_CHECKING:
    from softlabels.training import ComparedModel
    from softlabels.training.head_quality import HeadQuality

BUSY = 0.5
"""Load average per core from which a note says that figures of time are of a busy machine."""

COLUMNS = {
    "retention": "share of the first model's quality",
    "KL": "nats from the first model's predictions",
    "agreement": "rows whose likeliest class is the first model's",
    "labels/row": "stored labels that it was trained from",
    "labels/token": "stored labels that it was trained from",
    "FLOPs": "operations of the matrix products and convolutions of one forward pass in torch",
    "latency": "median time of one example on one CPU thread",
    "p99": "99th percentile of that time",
    "start": "time to import and load it",
    "resident": "memory once it is loaded",
}
"""Columns whose names do not say it all, with what they mean."""


@click.command(
    "compare",
    epilog="Example:  softlabels compare run:teacher run:student-0 run:student-1 --data digits",
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", required=True, metavar="DATA", help="Labelled data.")
@click.option("--split", help="Split to measure on. [test, or the rows that the runs held out]")
@click.option("--each", "ungrouped", is_flag=True, help="One row a run, also where runs differ only in their seed.")
@click.option("--memory", is_flag=True, help="Start each model in a process of its own; measure time and memory.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw quality against latency to a .svg, .png or .pdf file."
)
@declared_options
@text_options
@data_options
@json_option
@quiet_option
def command(
    *,
    models: tuple[str, ...],
    data: str,
    split: str | None,
    ungrouped: bool,
    memory: bool,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure MODELs on the same rows, and compare them with the first.

    Measured are the rows of the split test. Without splits, these are the rows that the runs held out. Runs that differ
    only in their seed are one row: the mean, and the standard deviation behind ±.
    """
    from softlabels.planning.picture import check_target
    from softlabels.training import compare
    from softlabels.training.comparison_plot import draw_comparison

    if plot is not None:
        check_target(plot)
    heads, preprocessing = chosen_declared()
    rows = compare(
        list(models),
        data,
        split=split,
        group_seeds=not ungrouped,
        memory=memory,
        heads=heads,
        preprocessing=preprocessing,
        text=chosen_text(),
        **chosen_data(),
    )
    if plot is not None:
        draw_comparison(rows, plot)
    _print_notes(rows)
    if as_json:
        print_json({"rows": [row.to_json() for row in rows]})
        return
    note(f"Measured on {rows[0].measured_rows:,} rows: {printable(rows[0].measured_on)}.")
    tables = [_table([_quality(row, rows[0]) for row in rows]), _table([_cost(row) for row in rows])]
    click.echo("\n\n".join(tables))
    shown = [name for name in COLUMNS if any(name in table for table in tables)]
    note(wrap("; ".join(f"{name}: {COLUMNS[name]}" for name in shown)))


def _print_notes(rows: list[ComparedModel]) -> None:
    """Print warnings about rows that were trained on and about a busy machine, and what labels saved."""
    import os

    for row in rows:
        name = printable(row.name)
        if row.trained_share > 0:
            note(f"Warning: about {row.trained_share:.0%} of the training rows of {name} are measured.")
        if row.teacher_flops and row.teacher_flops_live and row.teacher_flops_live > row.teacher_flops:
            note(
                f"{name}: its labels cost {row.teacher_flops:.1e} FLOPs of the teacher. Running the teacher in every "
                f"epoch would have cost {row.teacher_flops_live:.1e}."
            )
    load = max(row.load_average for row in rows)
    if load > BUSY * (os.cpu_count() or 1):
        note(f"Other processes ran: load average {load:.1f} on {os.cpu_count()} cores. Times may be too long.")


def _table(rows: list[dict[str, str]]) -> str:
    """Return a table; a column that no row fills is left out."""
    names = [name for name in rows[0] if any(row[name] != "-" for row in rows)]
    return format_blocks(names, [[printable(row[name]) for name in names] for row in rows], width=line_width())


def _quality(row: ComparedModel, first: ComparedModel) -> dict[str, str]:
    """Return the cells of the quality by name of the column."""
    cells = {"model": row.name, "runs": str(row.runs)}
    if row.text is not None:
        spread = f" ± {row.spread:.2f}" if row.spread is not None else ""
        cells |= {
            "loss": f"{row.text.loss:.3f}",
            row.metric: f"{row.value:.2f}{spread}",
            "bits/byte": f"{row.text.bits_per_byte:.3f}",
            "KL": f"{row.text.kl:.3f}",
            "agreement": f"{row.text.agreement:.1%}",
        }
    single = len(first.heads) == len(row.heads) == 1
    names = list(row.heads) if single else list(dict.fromkeys(first.heads))
    for name in names:
        reference = next(iter(first.heads.values())) if single else first.heads[name]
        prefix = "" if single else f"{name} "
        cells |= _head_cells(prefix, reference, row.heads.get(name))
    return cells | _label_size(row) | {"trained on": _trained_on(row)}


def _head_cells(prefix: str, reference: HeadQuality, quality: HeadQuality | None) -> dict[str, str]:
    """Return the cells of one head; dashes if the model does not have it."""
    metric = "error" if reference.unit and reference.metric == "mean absolute error" else reference.metric
    title = f"{prefix}{metric}" + (f", {reference.unit}" if reference.unit else "")
    names = (title, f"{prefix}retention", f"{prefix}top-5", f"{prefix}F1", f"{prefix}KL", f"{prefix}agreement")
    if quality is None:
        return dict.fromkeys(names, "-")
    is_share = reference.kind in {"classes", "pixels", "tokens"}
    values = (
        _with_spread(quality, is_share=is_share),
        _share(quality.retention),
        _share(quality.top5),
        _share(quality.f1),
        "-" if quality.kl is None else f"{quality.kl:.3f}",
        _share(quality.agreement if quality.agreement is not None else quality.retrieval),
    )
    return dict(zip(names, values, strict=True))


def _with_spread(quality: HeadQuality, *, is_share: bool) -> str:
    form = ".2%" if is_share else ".3f"
    spread = "" if quality.spread is None else f" ± {quality.spread:{form}}"
    return f"{quality.value:{form}}{spread}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _cost(row: ComparedModel) -> dict[str, str]:
    """Return the cells of the cost by name of the column."""
    start = row.start
    return {
        "model": row.name,
        "parameters": f"{row.parameters:,}" if row.parameters else "-",
        "FLOPs": "not counted" if row.flops is None else f"{row.flops:,}",
        "latency": f"{row.latency_ms:.3f} ms",
        "p99": f"{row.latency_p99_ms:.3f} ms",
        **_speed(row),
        "file": format_bytes(row.bytes) if row.bytes else "-",
        "start": "-" if start is None else f"{start.init_s:.2f} s",
        "first": "-" if start is None else f"{start.first_ms:.1f} ms",
        "resident": "-" if start is None else format_bytes(start.resident_bytes),
        "peak": "-" if start is None else format_bytes(start.peak_bytes),
    }


def _speed(row: ComparedModel) -> dict[str, str]:
    """Return the throughput: tokens of a text, rows of other data."""
    if row.text is None:
        return {"rows/s": f"{row.rows_per_second:,.0f}"}
    return {"tokens/s": f"{row.text.tokens_per_second:,.0f}"}


def _label_size(row: ComparedModel) -> dict[str, str]:
    """Return the size of the labels per token of a text, per row of other data."""
    unit = "row" if row.text is None else "token"
    size = row.label_bytes_per_row if row.text is None else row.text.label_bytes_per_token
    return {f"labels/{unit}": "-" if size is None else f"{size:.1f} B"}


def _trained_on(row: ComparedModel) -> str:
    """Return the labels of a model in words: ``topk:4:q8 + 50 hard labels``."""
    if row.trained_on is None:
        return "-"
    count = "all" if row.hard_labels is None else str(row.hard_labels)
    if row.text is not None:
        return "next tokens" if row.trained_on == "hard labels" else f"{row.trained_on} + next tokens"
    if row.trained_on == "hard labels":
        return f"{count} hard labels"
    return row.trained_on if row.hard_labels == 0 else f"{row.trained_on} + {count} hard labels"
