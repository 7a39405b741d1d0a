"""``softlabels train-teacher``: train a model on hard labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softlabels_cli.options import data_options, training_options
from softlabels_cli.output import json_option
from softlabels_cli.progress import quiet_option
from softlabels_cli.train_student import run_training


@click.command(
    "train-teacher",
    epilog="Example:  softlabels train-teacher data/digits.parquet --model cnn:width=64 --out teacher",
)
@click.argument("data")
@click.option("--model", required=True, metavar="MODEL", help="cnn:width=64,depth=3  mlp:width=256  python:MODULE:NAME")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="Directory of the run.")
@training_options
@data_options
@json_option
@quiet_option
def command(
    *,
    data: str,
    model: str,
    out: Path,
    input_column: str | None,
    label_column: str | None,
    id_column: str | None,
    as_json: bool,
    quiet: bool,
    **recipe: Any,
) -> None:
    """Train MODEL on the hard labels of DATA.

    Rows whose split column says train are trained on, the others measure it; without one, a tenth is held out. The
    same command again resumes an interrupted run and leaves a finished one as it is.
    """
    from softlabels.sources import open_source
    from softlabels.training import train_teacher

    source = open_source(data, input=input_column, label=label_column, id=id_column)
    run_training(
        "train-teacher",
        out,
        lambda progress: train_teacher(source, model, out, progress=progress, **recipe),
        as_json=as_json,
        quiet=quiet,
    )
