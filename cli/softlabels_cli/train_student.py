"""``softlabels train-student``: train a model from soft labels, without the teacher."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softlabels.interruption import interruptible
from softlabels_cli.options import (
    chosen_data,
    data_options,
    digest_option,
    json_option,
    quiet_option,
    store_argument,
)
from softlabels_cli.output import note, print_json, printable
from softlabels_cli.progress import Progress
from softlabels_cli.text_options import chosen_text, text_options
from softlabels_cli.training_options import (
    config_options,
    print_explained,
    recipe_directories,
    recipe_of,
    resolved,
    run_option,
    soft_options,
    training_options,
)

if TYPE_CHECKING:
    from softlabels.models import Model
    from softlabels.sources import Source


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
        from softlabels.sharing import LOCK_NAME, check_lock
        from softlabels.store import open_store
        from softlabels.training import train_student
        from softlabels.training.inputs import open_data

        labels = open_store(store, digest=digest)
        for directory in sorted(recipe_directories()):
            check_lock(labels, directory / LOCK_NAME)
        source = open_data(data, labels, **chosen_data(), text=chosen_text())
        note_data(source, quiet=quiet)
        announce = announcer(out, quiet=quiet, digest=labels.snapshot.digest)
        recipe = recipe_of(options)
        return train_student(labels, source, student, out, progress=progress, announce=announce, **recipe)

    run_training("train-student", out, train, as_json=as_json, quiet=quiet)


def announcer(out: Path, *, quiet: bool, digest: str | None = None) -> Callable[[str], None]:
    """Return a function that shows the losses before the first step and writes the recipe of the command beside them.

    Args:
        out: Run directory.
        quiet: If True, nothing is shown.
        digest: Digest of the labels.
    """
    recipe = resolved(**({} if digest is None else {"digest": digest}))

    def announce(line: str) -> None:
        from softlabels.models.run_files import write_file
        from softlabels.training.run_claim import RECIPE_FILE

        write_file(out, RECIPE_FILE, recipe.encode())
        if not quiet:
            note(printable(line))

    return announce


def is_first_process() -> bool:
    """Return whether this is the process of a run that reports, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def run_training(
    name: str, out: Path, train: Callable[[Callable[..., None]], Model], *, as_json: bool, quiet: bool
) -> None:
    """Train with progress shown, then print the result; train-teacher shares this."""
    with interruptible() as interruption:
        with interruption.deferring():
            import softlabels.training  # noqa: F401  imports of libraries swallow exceptions of signal handlers
        try:
            interruption.deliver("")
            with Progress(name, unit="steps", quiet=quiet or not is_first_process()) as progress:
                model = train(progress.update)
        except BaseException as error:
            # An interrupted import of a library may end in any error.
            if interruption.received is None and not isinstance(error, KeyboardInterrupt):
                raise
            message = str(error) if isinstance(error, KeyboardInterrupt) else ""
            raise KeyboardInterrupt(message or _remaining(out)) from None
        interruption.deliver(f"Interrupted; the run in {out} has finished.")
    if is_first_process():
        report(out, model, as_json=as_json)


def _remaining(out: Path) -> str:
    """Return what an interrupted command leaves behind, in words."""
    if (out / "checkpoint.safetensors").exists():
        return "Interrupted; the last checkpoint is still there: run the same command again to resume."
    return "Interrupted before the first checkpoint: nothing was saved."


def report(out: Path, model: Model, *, as_json: bool) -> None:
    """Print what a run used and what came of it."""
    run = model.run
    if run is None or run.metrics is None:
        raise TypeError(f"{out} has no finished run")
    if as_json:
        document = run.to_json()
        print_json({"run": str(out), **{key: document[key] for key in ("model", "data", "metrics")}})
        return
    held_out, metrics = run.data.held_out, run.metrics
    measured = ""
    if metrics.accuracy is not None:
        measured = f", accuracy {metrics.accuracy:.2%} on {metrics.held_out_rows:,} held-out rows"
        measured += f" (split {', '.join(held_out.splits)})" if held_out.splits else ""
    if metrics.perplexity is not None:
        measured = f", perplexity {metrics.perplexity:.2f} on {metrics.held_out_rows:,} held-out rows"
    for name, figure in metrics.figures.items():
        measured += f", {name} {figure:.4g}" if "." in name else ""
    for name, value, form in (
        ("bits per byte", metrics.bits_per_byte, ".3f"),
        ("KL to the labels", metrics.kl, ".3f"),
        ("agreement with the labels", metrics.agreement, ".1%"),
        ("same nearest neighbour as the labels", metrics.figures.get("retrieval"), ".1%"),
    ):
        measured += "" if value is None else f", {name} {value:{form}}"
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    click.echo(f"{out}: {parameters:,} parameters, {metrics.steps:,} steps{printable(measured)}")
    if metrics.sample:
        click.echo("sample: " + "\n  ".join(printable(line) for line in metrics.sample.splitlines()))


def note_data(source: Source, *, quiet: bool) -> None:
    """Print which columns, dtype, shape, classes and splits are used; train-teacher shares this."""
    from softlabels.sources import describe_source

    if not quiet and is_first_process():
        note(printable(str(describe_source(source)), lines=True))
