"""``softlabels generate``: run the teacher once over a dataset and keep what it said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softlabels_cli.options import data_options
from softlabels_cli.output import count, fidelity_lines, format_bytes, format_seconds, json_option, note, print_json
from softlabels_cli.progress import Progress, quiet_option

if TYPE_CHECKING:
    from softlabels.generation import Generated


@click.command(
    "generate",
    epilog="Example:  softlabels generate data/digits.parquet --teacher run:teacher --out labels --encoding topk:4",
)
@click.argument("data")
@click.option("--teacher", required=True, metavar="MODEL", help="run:DIR, python:MODULE:NAME, ...")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="STORE", help="Directory of the store.")
@click.option(
    "--encoding",
    metavar="SPEC",
    help="dense:f16, topk:32, adaptive:0.002, threshold:0.05, ... or what it is to reach: auto:max-kl=0.05, "
    "auto:budget=50GB. [dense:f16 to 64 classes, topk:32 below 4,096, then threshold:0.05, or adaptive:0.005 "
    "at several temperatures]",
)
@click.option(
    "--temperature",
    "temperatures",
    multiple=True,
    type=float,
    default=(1.0,),
    show_default=True,
    help="Keep the tail mass at this temperature (repeat for more).",
)
@click.option(
    "--format",
    "shard_format",
    type=click.Choice(["zarr", "parquet"]),
    default="zarr",
    show_default=True,
    help="zarr: arrays in a zip; parquet: lists for Polars, DuckDB, viewers and the hub.",
)
@click.option(
    "--codec",
    type=click.Choice(["zstd", "lz4"]),
    default="zstd",
    show_default=True,
    help="zstd: smaller shards; lz4: faster to read.",
)
@click.option("--unit-rows", type=click.IntRange(min=1), help="Rows committed at a time. [from the size of a row]")
@click.option(
    "--reuse",
    multiple=True,
    metavar="STORE",
    type=click.Path(path_type=Path),
    help="Copy rows that this sealed store of the same teacher holds (repeat for more): top up when data has grown.",
)
@click.option("--distinct", is_flag=True, help="Label equal inputs once.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Rows the teacher sees at a time."
)
@click.option("--device", help="cpu, cuda, cuda:1, ... [cuda where there is one]")
@click.option("--dry-run", is_flag=True, help="Time one batch, say what it would cost, write nothing.")
@click.option(
    "--gate/--no-gate", default=True, help="Check the teacher on a few rows before the first unit is written."
)
@click.option("--extra-classes", is_flag=True, help="The teacher may know classes the hard labels do not show.")
@data_options
@json_option
@quiet_option
def command(
    *,
    data: str,
    teacher: str,
    out: Path,
    encoding: str | None,
    temperatures: tuple[float, ...],
    shard_format: str,
    codec: str,
    unit_rows: int | None,
    reuse: tuple[Path, ...],
    distinct: bool,
    batch_size: int,
    device: str | None,
    dry_run: bool,
    gate: bool,
    extra_classes: bool,
    input_column: str | None,
    label_column: str | None,
    id_column: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the teacher MODEL once over DATA and write its soft labels to STORE.

    Work is committed unit by unit. Interrupted, killed or out of disk: run the same command again and it goes on where
    it stopped. Several of them may work on one store at once.
    """
    from softlabels import generation
    from softlabels.sources import DistinctSource, Source, open_source

    source: Source = open_source(data, input=input_column, label=label_column, id=id_column)
    if distinct:
        source = DistinctSource(source)
        if source.left_out:
            note(f"{count(source.left_out, 'row')} of {data} repeat earlier inputs and are labelled with them.")
    options: dict[str, Any] = {
        "encoding": encoding,
        "temperatures": temperatures,
        "unit_rows": unit_rows,
        "shard_format": shard_format,
        "codec": codec,
        "batch_size": batch_size,
        "device": device,
        "gate": gate,
        "extra_classes": extra_classes,
    }
    if dry_run:
        estimate = generation.estimate(source, teacher=teacher, settings=generation.Settings(**options))
        if as_json:
            print_json(estimate.to_json())
        else:
            click.echo(
                f"{count(estimate.rows, 'row')} in {count(estimate.units, 'unit')} of {estimate.unit_rows:,}, "
                f"{estimate.encoding}: "
                f"about {format_bytes(estimate.bytes)} ({estimate.bytes_per_row:.1f} bytes a row) "
                f"in about {format_seconds(estimate.seconds)} at {estimate.rows_per_second:,.0f} rows/s"
            )
        return
    with Progress("generate", unit="rows", quiet=quiet) as progress:
        made = generation.generate(source, teacher=teacher, out=out, reuse=reuse, progress=progress.update, **options)
    if as_json:
        print_json(made.to_json())
    else:
        _print(made, out, reuse)


def _print(made: Generated, out: Path, reuse: tuple[Path, ...]) -> None:
    """What a person reads of the outcome."""
    from softlabels.fidelity import Fidelity

    if made.new_units == 0:
        note("Every unit is there already.")
    if made.reused_rows:
        note(f"{count(made.reused_rows, 'row')} copied from {', '.join(map(str, reuse))}.")
    if made.missing_units:
        note(f"{count(made.missing_units, 'unit')} still being made by others; then run: softlabels seal {out}")
    click.echo(
        f"{out}: {count(made.rows, 'row')} in {count(made.units, 'unit')}, {format_bytes(made.bytes)} "
        f"({made.bytes_per_row:.1f} bytes a row, {made.encoding}); {count(made.new_units, 'unit')} made now in "
        f"{format_seconds(made.seconds)}"
    )
    if made.fidelity is not None:
        for line in fidelity_lines(made.fidelity):
            click.echo(line)
        if (warning := Fidelity.from_json(made.fidelity).warning) is not None:
            note(f"Warning: {warning}.")
