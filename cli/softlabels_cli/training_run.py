"""Progress, interruption and result that ``train-teacher`` and ``train-student`` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from softlabels.interruption import interruptible
from softlabels_cli.output import note, print_json, printable
from softlabels_cli.progress import Progress
from softlabels_cli.training_options import resolved

if TYPE_CHECKING:
    from softlabels.models import Model
    from softlabels.models.run_record import RunMetrics
    from softlabels.sources import Source


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


def note_data(source: Source, *, quiet: bool) -> None:
    """Print which columns, dtype, shape, classes and splits are used.

    Args:
        source: The data.
        quiet: If True, nothing is printed.
    """
    from softlabels.sources import describe_source

    if not quiet and _is_first_process():
        note(printable(str(describe_source(source)), lines=True))


def run_training(
    name: str, out: Path, train: Callable[[Callable[..., None]], Model], *, as_json: bool, quiet: bool
) -> None:
    """Train with progress shown, then print the result.

    Args:
        name: Name of the command.
        out: Run directory.
        train: Trains, and calls its argument with the progress.
        as_json: If True, print JSON.
        quiet: If True, show no progress.

    Raises:
        KeyboardInterrupt: A signal arrived; says what is on disk.
    """
    with interruptible() as interruption:
        with interruption.deferring():
            import softlabels.training  # noqa: F401  imports of libraries swallow exceptions of signal handlers
        try:
            interruption.deliver("")
            with Progress(name, unit="steps", quiet=quiet or not _is_first_process()) as progress:
                model = train(progress.update)
        except BaseException as error:
            # An interrupted import of a library may end in any error.
            if interruption.received is None and not isinstance(error, KeyboardInterrupt):
                raise
            message = str(error) if isinstance(error, KeyboardInterrupt) else ""
            raise KeyboardInterrupt(message or _remaining(out)) from None
        interruption.deliver(f"Interrupted; the run in {out} has finished.")
    if _is_first_process():
        _report(out, model, as_json=as_json)


def _is_first_process() -> bool:
    """Return True for the process that reports, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _remaining(out: Path) -> str:
    """Return what an interrupted command leaves behind, in words."""
    if (out / "checkpoint.safetensors").exists():
        return "Interrupted; the last checkpoint is still there: run the same command again to resume."
    return "Interrupted before the first checkpoint: nothing was saved."


def _report(out: Path, model: Model, *, as_json: bool) -> None:
    """Print what a run used and what came of it."""
    run = model.run
    if run is None or run.metrics is None:
        raise TypeError(f"{out} has no finished run")
    if as_json:
        document = run.to_json()
        print_json({"run": str(out), **{key: document[key] for key in ("model", "data", "metrics")}})
        return
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    figures = printable(_figures(run.metrics, run.data.held_out.splits))
    click.echo(f"{out}: {parameters:,} parameters, {run.metrics.steps:,} steps{figures}")
    if run.metrics.sample:
        click.echo("sample: " + "\n  ".join(printable(line) for line in run.metrics.sample.splitlines()))


def _figures(metrics: RunMetrics, splits: Sequence[str]) -> str:
    """Return the figures of held-out rows in words, each behind a comma."""
    text = ""
    if metrics.accuracy is not None:
        text = f", accuracy {metrics.accuracy:.2%} on {metrics.held_out_rows:,} held-out rows"
        text += f" (split {', '.join(splits)})" if splits else ""
    if metrics.perplexity is not None:
        text = f", perplexity {metrics.perplexity:.2f} on {metrics.held_out_rows:,} held-out rows"
    for name, figure in metrics.figures.items():
        text += f", {name} {figure:.4g}" if "." in name else ""
    for name, value, form in (
        ("bits per byte", metrics.bits_per_byte, ".3f"),
        ("KL to the labels", metrics.kl, ".3f"),
        ("agreement with the labels", metrics.agreement, ".1%"),
        ("same nearest neighbour as the labels", metrics.figures.get("retrieval"), ".1%"),
    ):
        text += "" if value is None else f", {name} {value:{form}}"
    return text
