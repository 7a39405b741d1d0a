"""``softlabels generate``: run the teacher once over a dataset and store its outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from softlabels_cli.option_names import in_options
from softlabels_cli.options import (
    PRICES,
    batch_size_option,
    chosen_data,
    chosen_statements,
    data_options,
    declare,
    declared_options,
    description_options,
    device_option,
    digests_option,
    json_option,
    layout_options,
    out_option,
    price_options,
    quiet_option,
    remembered,
    teacher_options,
    temperature_option,
)
from softlabels_cli.output import (
    cost_lines,
    count,
    count_outputs,
    fidelity_lines,
    format_bytes,
    format_seconds,
    note,
    print_json,
    printable,
)
from softlabels_cli.progress import Progress
from softlabels_cli.text_options import chosen_text, text_options

if TYPE_CHECKING:
    from softlabels.generation import Estimate, Generated


@click.command(
    "generate",
    epilog="Example:  softlabels generate digits --teacher run:teacher --out labels --encoding topk:4",
)
@click.argument("data")
@teacher_options
@out_option("Directory or URL of the store.")
@click.option(
    "--encoding",
    "encodings",
    metavar="[HEAD=]SPEC",
    multiple=True,
    help="dense:f16, topk:32, adaptive:0.002, threshold:0.05, ... or a target: auto:max-kl=0.05, auto:budget=50GB. "
    "Without HEAD it is for every head of kind classes or tokens; repeat for more heads. [dense:f16 to 64 classes, "
    "topk:32 below 4,096, for tokens and from there threshold:0.05, or adaptive:0.005 at several temperatures; "
    "regression dense:f32; pixels adaptive:0.01; embedding dense:f16]",
)
@click.option(
    "--downsample",
    "sides",
    metavar="[HEAD=]N",
    multiple=True,
    help="Store the mean distribution of each square of N x N pixels; repeat for more heads. [1]",
)
@temperature_option
@layout_options
@click.option(
    "--reuse",
    multiple=True,
    metavar="STORE",
    help="Copy the rows that this sealed store of the same teacher holds; repeat for more.",
)
@digests_option("--reuse stores")
@click.option("--distinct", is_flag=True, help="Label equal inputs once.")
@batch_size_option
@device_option
@click.option(
    "--engine",
    metavar="NAME",
    help="Engine that runs the teacher: local, torchrun or ray. [torchrun under a launcher, else local]",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes of the engines local and ray. [local: 1; ray: one per GPU or node]",
)
@click.option(
    "--skip-bad",
    type=click.IntRange(min=0),
    metavar="N",
    help="Leave up to N rows without labels that cannot be read or that the teacher fails on.",
)
@click.option("--dry-run", is_flag=True, help="Time one batch and print the cost; write nothing.")
@price_options
@click.option("--gate/--no-gate", default=True, help="Check the outputs for some rows, first and during the run.")
@click.option("--extra-classes", is_flag=True, help="The teacher may know classes the hard labels do not show.")
@click.option("--chosen", is_flag=True, help="Also store the log-probability of the text's own next token.")
@click.option(
    "--hidden",
    metavar="LAYERS",
    callback=lambda _context, _parameter, value: parse_layers(value),
    help="Also store the states of these layers of a language model, e.g. 6,-1 (0: the embedding, -1: the last).",
)
@click.option("--written-by", metavar="NAME", help="Digest or name of the model that wrote the text.")
@click.option("--views", type=click.IntRange(min=1), metavar="N", help="Label N augmented views of each image.")
@click.option("--augment", metavar="POLICY", help="Augmentation of the views, such as randcrop,flip,color.")
@declared_options
@description_options
@text_options
@data_options
@json_option
@quiet_option
def command(
    *,
    data: str,
    teacher: str,
    out: str,
    encodings: tuple[str, ...],
    sides: tuple[str, ...],
    reuse: tuple[str, ...],
    digests: tuple[str, ...],
    distinct: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Run the teacher MODEL over DATA once and write its soft labels to STORE.

    DATA is a .parquet, .csv, .jsonl, .arrow, .npz, .txt or .tar file, a folder of images, digits, or roads:N.

    Work is committed unit by unit. After an interruption, a kill or a full disk, the same command resumes. Several of
    them may work on one store at once.
    """
    from softlabels import generation
    from softlabels.generation.ranks import ALONE, find_rank
    from softlabels.generation.text_data import open_for_teacher
    from softlabels.sources import DistinctSource, describe_source
    from softlabels.store import open_storage

    options |= {"encoding": parse_encodings(encodings), "downsample": parse_sides(sides)}
    settings = generation.Settings(**options)  # invalid ones are an error before the data is read
    if not dry_run:
        open_storage(out).check_writable()  # before the teacher is loaded
    source, model = open_for_teacher(data, teacher, text=chosen_text(), **chosen_data())
    model = declare(model, source)
    rank = find_rank(os.environ) or ALONE
    if not quiet and rank.index == 0:
        note(printable(in_options(str(describe_source(source))), lines=True))
    if distinct:
        source = DistinctSource(source)
        if source.left_out:
            note(f"{count(source.left_out, 'row')} of {data} repeat earlier inputs and share their labels.")
    if dry_run:
        _print_estimate(generation.estimate(source, teacher=model, settings=settings), as_json=as_json)
        return
    label = "generate" if rank.count == 1 else f"generate, rank {rank.index} of {rank.count}"
    with Progress(label, unit="rows", quiet=quiet) as progress:
        result = generation.generate(
            source, teacher=model, out=out, reuse=reuse, digests=digests, progress=progress.update, **options
        )
    statements = chosen_statements()
    if any(statements.values()) and not result.missing_units:
        from softlabels.sharing import describe

        describe(out, **statements)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result, out, reuse, options["encoding"] or {})


def parse_encodings(values: Sequence[str]) -> dict[str, str] | None:
    """Return the encodings by head; ``*`` stands for all heads that are not named.

    Args:
        values: Values of --encoding. A target such as auto:max-kl=0.05 also has an equals sign, behind a colon.

    Raises:
        UsageError: A head has two encodings.

    Example:
        >>> parse_encodings(["topk:4", "speed=dense:f32", "aux=auto:max-kl=0.05"])
        {'*': 'topk:4', 'speed': 'dense:f32', 'aux': 'auto:max-kl=0.05'}
    """
    encodings: dict[str, str] = {}
    for value in values:
        name, separator, spec = value.partition("=")
        if not separator or ":" in name:
            name, spec = "*", value
        if name in encodings:
            subject = "without a head" if name == "*" else f"for head {name!r}"
            raise click.UsageError(f"--encoding {subject}: got {encodings[name]!r} and {spec!r}; expected one")
        encodings[name] = spec
    return encodings or None


def parse_sides(values: Sequence[str]) -> int | dict[str, int]:
    """Return the squares of --downsample: one number for all heads, or a number by head.

    Args:
        values: Values of the option.

    Raises:
        UsageError: A value is no whole number above 0, or a head has two.

    Example:
        >>> parse_sides(["4"]), parse_sides(["road=4"]), parse_sides([])
        (4, {'road': 4}, 1)
    """
    sides: dict[str, int] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        if not (number.isascii() and number.isdecimal() and len(number) < 8 and int(number) > 0) or name in sides:
            raise click.UsageError(f"--downsample: got {value!r}; expected [HEAD=]N with N above 0, once for each head")
        sides[name] = int(number)
    if "" in sides and len(sides) > 1:
        raise click.UsageError("--downsample: got a number for all heads and one for a head; expected HEAD=N alone")
    return sides.get("", sides or 1)


def parse_layers(value: str | None) -> tuple[int, ...]:
    """Return the layers of --hidden.

    Args:
        value: Numbers separated by commas; None: no layers.

    Raises:
        BadParameter: An entry is not a whole number.

    Example:
        >>> parse_layers("6,-1")
        (6, -1)
    """
    if value is None:
        return ()
    try:
        return tuple(int(entry) for entry in value.split(","))
    except ValueError:
        raise click.BadParameter(f"got {value!r}; expected numbers of layers, such as 6,-1") from None


def _print_estimate(estimate: Estimate, *, as_json: bool) -> None:
    """Print the cost of a run."""
    from softlabels.generation import Costs

    costs = Costs.of(size=estimate.bytes, units=estimate.units, seconds=estimate.seconds, **remembered(PRICES))
    if as_json:
        print_json(estimate.to_json() | {"costs": costs.to_json()})
        return
    click.echo(
        f"{count(estimate.rows, 'row')} in {count(estimate.units, 'unit')} of {estimate.unit_rows:,}, "
        f"{estimate.encoding}: about {format_bytes(estimate.bytes)} ({estimate.bytes_per_row:.1f} bytes per row) "
        f"in about {format_seconds(estimate.seconds)} at {estimate.rows_per_second:,.0f} rows/s"
    )
    for line in cost_lines(costs):
        click.echo(line)


def _print(result: Generated, out: str, reuse: tuple[str, ...], goals: Mapping[str, str]) -> None:
    """Print the outcome for people."""
    if result.new_units == 0 and result.missing_units == 0:
        note("Every unit is there already.")
    if result.reused_rows:
        note(f"{count(result.reused_rows, 'row')} copied from {', '.join(map(str, reuse))}.")
    if result.skipped_rows:
        note(f"{count(result.skipped_rows, 'row')} without labels; softlabels inspect {out} names them.")
    if result.missing_units:
        note(
            f"Not sealed: {count(result.missing_units, 'unit')} claimed by another process. The last one to finish "
            f"seals the store; if none is running, run the same command again, or softlabels seal {out}."
        )
    click.echo(
        f"{out}: {count(result.rows, 'row')} in {count(result.units - result.missing_units, 'unit')}, "
        f"{format_bytes(result.bytes)} ({result.bytes_per_row:.1f} bytes per row, {result.encoding}); "
        f"{count(result.new_units, 'unit')} made now in {format_seconds(result.seconds)}"
    )
    for name, head in result.heads.items():
        outputs = count_outputs(head["kind"], head["classes"])
        click.echo(printable(f"head {name}: {head['kind']}, {outputs}, {head['encoding']}"))
    for name, fidelity in result.fidelities.items():
        prefix = f"{name}: " if len(result.encodings) > 1 else ""
        for line in fidelity_lines(fidelity):
            click.echo(prefix + line)
        reached = _print_outcome(result, name, goals.get(name, goals.get("*")), prefix)
        if not reached and (warning := fidelity.overall.warning) is not None:
            note(f"Warning: {prefix}{warning}.")


def _print_outcome(result: Generated, name: str, goal: str | None, prefix: str) -> bool:
    """Print what the labels of a head reached of their goal; return True if they reached it."""
    from softlabels.planning import is_target, outcome

    if not is_target(goal) or (len(result.encodings) > 1 and "kl" not in goal.partition("=")[0]):
        return False  # bytes are those of all heads together
    reached = outcome(
        goal,
        result.encodings[name],
        fidelity=result.fidelities[name],
        size=result.bytes,
        bytes_per_row=result.bytes_per_row,
    )
    if reached is None:
        return False
    if reached.reached:
        click.echo(f"{prefix}{reached.text}")
    else:
        note(f"Warning: {prefix}{reached.text}. The sample was kinder than the data: name a stricter goal.")
    return reached.reached
