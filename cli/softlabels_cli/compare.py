"""``softlabels compare``: quality kept, parameters, FLOPs, latency and size of models, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from softlabels_cli.options import chosen_data, data_options, json_option, quiet_option
from softlabels_cli.output import format_bytes, format_table, note, print_json, printable
from softlabels_cli.text_options import chosen_text, text_options

if TYPE_CHECKING:
    from softlabels.training import ComparedModel


@click.command(
    "compare",
    epilog="Example:  softlabels compare run:teacher run:student-0 run:student-1 --data digits",
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", required=True, metavar="DATA", help="Labelled data.")
@click.option("--split", help="Split to measure on. [test, or the rows that the runs held out]")
@click.option("--each", "ungrouped", is_flag=True, help="One row a run, also where runs differ only in their seed.")
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
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure MODELs on the same rows, and compare them with the first.

    Measured are the rows of the split test. Without splits, these are the rows that the runs held out. Runs that differ
    only in their seed are one row: the mean, and the standard deviation behind ±.
    """
    from softlabels.training import compare

    rows = compare(list(models), data, split=split, group_seeds=not ungrouped, text=chosen_text(), **chosen_data())
    for row in rows:
        if row.trained_share > 0:
            note(f"Warning: about {row.trained_share:.0%} of the training rows of {printable(row.name)} are measured.")
    if as_json:
        print_json({"rows": [row.to_json() for row in rows]})
        return
    header = [
        "model",
        "runs",
        rows[0].metric,
        *(["bits/byte", "KL", "agreement"] if rows[0].text is not None else ["kept"]),
        "parameters",
        "FLOPs",
        "latency",
        "file",
        "labels/row",
        "trained on",
    ]
    note(f"Measured on {rows[0].measured_rows:,} rows: {printable(rows[0].measured_on)}.")
    click.echo(format_table(header, [[printable(cell) for cell in _cells(row)] for row in rows]))


def _cells(row: ComparedModel) -> list[str]:
    label_bytes = f"{row.label_bytes_per_row:.1f} B" if row.label_bytes_per_row is not None else "-"
    return [
        row.name,
        str(row.runs),
        *_quality(row),
        f"{row.parameters:,}",
        f"{row.flops:,}",
        f"{row.latency_ms:.3f} ms",
        format_bytes(row.bytes),
        label_bytes,
        _trained_on(row),
    ]


def _quality(row: ComparedModel) -> list[str]:
    """Return the cells of the metric: perplexity and what goes with it, or accuracy and the share of the first."""
    if row.text is not None:
        spread = f" ± {row.spread:.2f}" if row.spread is not None else ""
        text = row.text
        return [f"{row.value:.2f}{spread}", f"{text.bits_per_byte:.3f}", f"{text.kl:.3f}", f"{text.agreement:.1%}"]
    spread = f" ± {row.spread:.2%}" if row.spread is not None else ""
    return [f"{row.value:.2%}{spread}", f"{row.retention:.1%}" if row.retention is not None else "-"]


def _trained_on(row: ComparedModel) -> str:
    """Return the labels of a model in words: ``topk:4:q8 + 50 hard labels``."""
    if row.trained_on is None:
        return "-"
    count = "all" if row.hard_labels is None else str(row.hard_labels)
    if row.text is not None:
        return "next tokens" if row.trained_on == "hard labels" else f"{row.trained_on} + next tokens"
    if row.trained_on == "hard labels":
        return f"{count} hard labels"
    return f"{row.trained_on} + {count} hard labels"
