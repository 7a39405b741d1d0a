"""``softlabels train-student``: train a model from soft labels, without the teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softlabels_cli.options import data_options, training_options
from softlabels_cli.output import json_option, print_json
from softlabels_cli.progress import Progress, quiet_option

if TYPE_CHECKING:
    from softlabels.models import Model


@click.command(
    "train-student",
    epilog="Example:  softlabels train-student labels --student mlp:width=64 --data data/digits.parquet --out student",
)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--student", required=True, metavar="MODEL", help="mlp:width=64,depth=1  cnn:width=16")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="Directory of the run.")
@click.option("--data", metavar="DATA", help="The inputs. [where the labels were made from]")
@click.option("--temperature", type=float, help="Of the distillation loss. [the highest in the store]")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="Weight of the soft labels.")
@training_options
@data_options
@json_option
@quiet_option
def command(
    *,
    store: Path,
    student: str,
    out: Path,
    data: str | None,
    input_column: str | None,
    label_column: str | None,
    id_column: str | None,
    as_json: bool,
    quiet: bool,
    **recipe: Any,
) -> None:
    """Train MODEL on the soft labels of STORE and the inputs of DATA; the teacher is not needed.

    Inputs are matched with labels by their content, in whatever order they come. Rows whose split column says train are
    trained on, the others measure it. The same command again resumes an interrupted run and leaves a finished one.
    """
    from softlabels.sources import open_source
    from softlabels.store import open_store
    from softlabels.training import train_student

    labels = open_store(store)
    spec = data if data is not None else labels.descriptor.data.spec
    source = open_source(spec, input=input_column, label=label_column, id=id_column)
    run_training(
        "train-student",
        out,
        lambda progress: train_student(labels, source, student, out, progress=progress, **recipe),
        as_json=as_json,
        quiet=quiet,
    )


def run_training(
    name: str, out: Path, train: Callable[[Callable[..., None]], Model], *, as_json: bool, quiet: bool
) -> None:
    """Train with progress shown, then say what came of it; train-teacher shares this."""
    with Progress(name, unit="steps", quiet=quiet) as progress:
        model = train(progress.update)
    run = model.run or {}
    metrics = run.get("metrics", {})
    if as_json:
        print_json({"run": str(out), "model": run.get("model"), "metrics": metrics})
        return
    measured = ""
    if "accuracy" in metrics:
        measured = f", accuracy {metrics['accuracy']:.2%} on {metrics['held_out_rows']:,} held-out rows"
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    click.echo(f"{out}: {parameters:,} parameters, {metrics.get('steps', 0):,} steps{measured}")
