"""``softlabels inspect``: the contents of a store, its provenance and its completeness."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from softlabels_cli.options import digest_option, json_option, run_folder, store_argument
from softlabels_cli.output import (
    NUMBERS,
    count,
    count_outputs,
    fidelity_lines,
    format_bytes,
    line_width,
    print_json,
    printable,
    wrap,
)

if TYPE_CHECKING:
    from softlabels.labels import Head
    from softlabels.store import DataRecord, StoreDescription, TeacherRecord
    from softlabels.store.format.view_record import ViewRecord

INDENT = 12
"""Characters before a value."""
NAMES = {"data": "data origin"}
"""Names of statements that a line of the store has already."""
MAX_NAMES = 8
"""Names of columns or classes that a line shows."""

MAX_SKIPPED = 4
"""Skipped rows that a line names; --json lists all."""


@click.command("inspect", epilog="Example:  softlabels inspect labels --json")
@store_argument()
@digest_option
@json_option
def command(*, store: str, digest: str | None, as_json: bool) -> None:
    """Show rows, size, teacher, data, heads and fidelity of STORE.

    Of a run, show the chain that made it: data, teacher, store, student, through students that became teachers. There
    --digest is that of its model.
    """
    from softlabels.store import describe_store

    if (run := run_folder(store)) is not None:
        _print_chain(run, digest, as_json=as_json)
        return
    description = describe_store(store, digest=digest)
    if as_json:
        print_json(description.to_json())
        return
    for name, value in _lines(description):
        click.echo(_line(name, printable(value)))


def _line(name: str, value: str) -> str:
    """Return a name and its value, in several lines if the terminal is narrow."""
    text = f"{name:<{INDENT}}{value}".rstrip()
    return text if line_width() is None else wrap(text, " " * INDENT)


def _print_chain(path: str, digest: str | None, *, as_json: bool) -> None:
    from softlabels.training.run_chain import chain, check_run_digest

    links = chain(path)
    check_run_digest(path, links[-1].digest, digest)
    if as_json:
        print_json({"run": path, "chain": [link.to_json() for link in links]})
        return
    for index, link in enumerate(links):
        arrow = "-> " if index else "   "
        state = {"here": "", "recorded": "", "missing": ", not here", "other": ", replaced by another"}[link.state]
        click.echo(printable(f"{arrow}{link.kind:<8} {link.name}{state}"))
        click.echo(printable(f"   {'':<8} digest {link.digest or 'none'}"))
        for name, value in link.details.items():
            click.echo(printable(f"   {'':<8} {name}: {f'{value:.4g}' if isinstance(value, float) else value}"))


def _lines(store: StoreDescription) -> Iterator[tuple[str, str]]:
    """Yield a name and a value for each line."""
    yield "rows", f"{store.rows:,} in {count(store.units, 'unit')}"
    yield from _skipped_lines(store)
    yield "size", f"{format_bytes(store.bytes)}, {store.bytes_per_row:.1f} bytes per row"
    if store.snapshot is None:
        yield "snapshot", f"not sealed: {count(store.missing_units, 'unit')} missing"
    else:
        yield "snapshot", f"{store.snapshot.number}, digest {store.snapshot.digest}"
        if (store.snapshot.rows, store.snapshot.units) != (store.rows, store.units):
            sealed = f"{store.snapshot.rows:,} rows in {count(store.snapshot.units, 'unit')}"
            yield "", f"of {sealed}; the units have changed since"
    yield from _teacher_lines(store.teacher)
    yield from _data_lines(store.data)
    yield "shards", f"{store.shard_format}, {store.codec}; written by {', '.join(store.software)}"
    yield from _statement_lines(store)
    if store.committed is not None:
        first, last = (time.isoformat(timespec="seconds") for time in store.committed)
        yield "made", f"{first} to {last}"
    if store.holes:
        more = ", ..." if len(store.holes) < store.missing_units else ""
        yield "missing", f"units {', '.join(map(str, store.holes))}{more}; generate writes them and seals"
    if store.quarantined:
        yield "quarantine", f"{count(store.quarantined, 'unit')} set aside by repair; gc lists the files"
    if store.inputs is not None:
        tokenizer = store.inputs.tokenizer or "unknown"
        author = "" if store.inputs.written_by is None else f"; text written by {store.inputs.written_by}"
        yield "tokens", f"ids below {store.inputs.vocabulary:,}, tokenizer {tokenizer}{author}"
    yield from _view_lines(store.views)
    for name, described in store.heads.items():
        head = described.head
        yield "head", f"{name}: {_head(head)}"
        if described.fidelity:
            yield from (("", line) for line in fidelity_lines(described.fidelity))
        if described.warning:
            yield "", f"Warning: {described.warning}"


def _head(head: Head) -> str:
    """Return kind, size, encoding and, of distributions, temperatures of a head."""
    temperatures = f", T = {', '.join(f'{temperature:g}' for temperature in head.temperatures)}"
    squares = f", mean of {head.downsample} x {head.downsample} pixels" if head.downsample > 1 else ""
    outputs = count_outputs(head.kind, head.classes)
    return f"{head.kind}, {outputs}, {head.encoding}{squares}{'' if head.kind in NUMBERS else temperatures}"


def _skipped_lines(store: StoreDescription) -> Iterator[tuple[str, str]]:
    if store.skipped:
        named = "; ".join(f"row {entry.row}: {entry.reason}" for entry in store.skipped[:MAX_SKIPPED])
        more = "; ..." if len(store.skipped) > MAX_SKIPPED else ""
        yield "skipped", f"{count(len(store.skipped), 'row')} without labels: {named}{more}"


def _statement_lines(store: StoreDescription) -> Iterator[tuple[str, str]]:
    """Yield the lines of what the store was taken from, and of what its owner states."""
    if store.subset_of is not None:
        yield "taken from", f"snapshot {store.subset_of.snapshot}"
    if store.description is not None:
        for name, text in store.description.to_json().items():
            yield NAMES.get(name, name), text


def _view_lines(views: ViewRecord | None) -> Iterator[tuple[str, str]]:
    """Yield the lines of the augmentation; none for labels of inputs as they are."""
    if views is not None:
        size = "at their own size" if views.size is None else f"at {views.size} pixels"
        yield "views", f"{views.count:,} of each image {size}, seed {views.seed}, version {views.version}"
        yield from (("", step) for step in views.policy.split(","))


def _teacher_lines(teacher: TeacherRecord) -> Iterator[tuple[str, str]]:
    digest = "no digest" if teacher.digest is None else f"digest {teacher.digest}"
    version = "" if teacher.version is None else f", version {teacher.version}"
    yield "teacher", f"{teacher.spec or 'unnamed'}{version}, {digest}"
    if teacher.covers:
        yield "", f"the digest covers {', '.join(teacher.covers)}"


def _data_lines(data: DataRecord) -> Iterator[tuple[str, str]]:
    """Yield the lines of the data; of rows that were appended only their keys are known."""
    rows = "" if data.rows is None else f", {data.rows:,} rows"
    fingerprint = "" if data.fingerprint is None else f", fingerprint {data.fingerprint}"
    yield "data", f"{data.spec}{rows}{fingerprint}"
    if data.split is not None:
        yield "", f"split {data.split}"
    if data.columns:
        yield "", f"columns {_names(data.columns)}"
    if data.ignored:
        yield "", f"ignored {_names(data.ignored)}"
    if data.dtype is not None or data.shape is not None:
        shape = "" if data.shape is None else f" ({', '.join('any' if n is None else str(n) for n in data.shape)})"
        yield "", f"input {data.dtype or 'of unknown type'}{shape}"
    if data.classes is not None:
        column = "" if data.label is None else f" in column {data.label}"
        names = f": {_names(data.class_names)}" if data.class_names else ""
        yield "", f"{data.classes:,} classes{column}{names}"


def _names(names: tuple[str, ...]) -> str:
    more = f", ... ({len(names):,})" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
