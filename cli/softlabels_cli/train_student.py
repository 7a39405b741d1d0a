"""``softlabels train-student``: train a model from soft labels, without the teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softlabels_cli.options import (
    chosen_data,
    data_options,
    digest_option,
    json_option,
    quiet_option,
    store_argument,
)
from softlabels_cli.text_options import chosen_text, text_options
from softlabels_cli.training_options import (
    config_options,
    print_explained,
    recipe_directories,
    recipe_of,
    run_option,
    soft_options,
    training_options,
)
from softlabels_cli.training_run import announcer, note_data, run_training

if TYPE_CHECKING:
    from softlabels.models import Model


@click.command(
    "train-student",
    epilog="Example:  softlabels train-student labels --student mlp:width=64 --data digits --out student",
)
@store_argument()
@click.option("--student", required=True, metavar="MODEL", help="mlp:width=64  run:DIR  python:MODULE:NAME")
@run_option
@click.option("--data", metavar="DATA", help="Inputs of the labels. [the tokens in a store of text, or digits]")
@click.option("--init-from", metavar="MODEL", help="Start with every n-th layer of this language model of equal sizes.")
@soft_options
@digest_option
@training_options
@text_options
@data_options
@json_option
@quiet_option
@config_options
def command(
    *,
    store: str,
    student: str,
    out: Path,
    data: str | None,
    digest: str | None,
    as_json: bool,
    quiet: bool,
    explain: str | None,
    **options: Any,
) -> None:
    """Train MODEL on the soft labels of STORE and the inputs of DATA; the teacher is not needed.

    Inputs are matched with labels by their content, in any order. Rows of the split train are trained on; the others
    measure the result. All heads of STORE are learned that the student has. The same command again resumes an
    interrupted run and does not change a finished one. torchrun starts it on several processes. A file
    softlabels.lock that names STORE, in the current directory or beside the recipe of --config, must pin its digest.
    """
    if print_explained(explain):
        return

    def train(progress: Callable[..., None]) -> Model:
        from softlabels.models.spec import parse
        from softlabels.sharing import LOCK_NAME, check_lock
        from softlabels.store import open_store
        from softlabels.training import train_student
        from softlabels.training.run_data import open_data

        parse(student)  # a misspelt MODEL is an error before the data is read
        labels = open_store(store, digest=digest)
        for directory in sorted(recipe_directories()):
            check_lock(labels, directory / LOCK_NAME)
        source = open_data(data, labels, **chosen_data(), text=chosen_text())
        note_data(source, quiet=quiet)
        announce = announcer(out, quiet=quiet, digest=labels.snapshot.digest)
        recipe = recipe_of(options)
        return train_student(labels, source, student, out, progress=progress, announce=announce, **recipe)

    run_training("train-student", out, train, as_json=as_json, quiet=quiet)
