"""``softlabels train-teacher``: train a model on hard labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softlabels_cli.options import chosen_data, data_options, json_option, quiet_option
from softlabels_cli.text_options import chosen_text, text_options
from softlabels_cli.training_options import config_options, print_explained, recipe_of, run_option, training_options
from softlabels_cli.training_run import announcer, note_data, run_training

if TYPE_CHECKING:
    from softlabels.models import Model


@click.command(
    "train-teacher",
    epilog="Example:  softlabels train-teacher digits --model cnn:width=64 --out teacher",
)
@click.argument("data")
@click.option(
    "--model", required=True, metavar="MODEL", help="cnn:width=64,stem=4,separable=1  gpt:layers=6  python:MODULE:NAME"
)
@run_option
@training_options
@text_options
@data_options
@json_option
@quiet_option
@config_options
def command(
    *,
    data: str,
    model: str,
    out: Path,
    as_json: bool,
    quiet: bool,
    explain: str | None,
    **options: Any,
) -> None:
    """Train MODEL on the hard labels of DATA, or on the next tokens of text.

    DATA is a .parquet, .csv, .jsonl, .arrow, .npz, .txt or .tar file, a folder of images, digits, or roads:N.

    Rows of the split train are trained on; the others measure the result. Without a split column, a tenth of the rows
    is held out. The same command again resumes an interrupted run and does not change a finished one.
    """
    if print_explained(explain):
        return

    def train(progress: Callable[..., None]) -> Model:
        from softlabels.models.spec import parse
        from softlabels.training import train_teacher
        from softlabels.training.run_data import open_data

        parse(model)  # a misspelt MODEL is an error before the data is read
        source = open_data(data, **chosen_data(), text=chosen_text())
        note_data(source, quiet=quiet)
        announce = announcer(out, quiet=quiet)
        return train_teacher(source, model, out, progress=progress, announce=announce, **recipe_of(options))

    run_training("train-teacher", out, train, as_json=as_json, quiet=quiet)
