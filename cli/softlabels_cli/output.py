"""Output of commands: a table or JSON on stdout, notes on stderr."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from softlabels.version import SCHEMA_VERSION

if TYPE_CHECKING:
    from softlabels.fidelity import Fidelity
    from softlabels.generation import Costs
    from softlabels.store import HeadFidelity

NUMBERS = {"regression", "embedding"}
"""Kinds of heads whose outputs are no distribution."""

MAX_WIDTH = 120
"""Characters of a line of prose without a terminal."""


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON document on stdout, with characters that would steer a terminal escaped.

    Args:
        value: The document; numbers that are not finite become null, which JSON has no number for.
    """
    document = {"schema_version": SCHEMA_VERSION, **_finite(value)}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def _finite(value: Any) -> Any:
    """Return JSON values with None for numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def printable(text: str, *, lines: bool = False) -> str:
    """Return text without control characters: names in a store must not steer a reader's terminal.

    Args:
        text: Text to show.
        lines: If True, line breaks stay; otherwise a name cannot pass for a line of this program.
    """
    allowed = "\n" if lines else ""
    return "".join(char if char.isprintable() or char in allowed else ascii(char)[1:-1] for char in text)


def note(message: str) -> None:
    """Print a line for a person on stderr.

    Args:
        message: The line.
    """
    click.echo(message, err=True)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, width: int | None = None) -> str:
    """Return a table: the first column aligned to the left, the others to the right.

    Args:
        header: Names of the columns.
        rows: Cells as text.
        width: Characters of a line; the last columns are left out of a table that is wider. None: no limit.
    """
    table = [list(header), *[list(row) for row in rows]]
    shown = len(header)
    while width is not None and shown > 2 and _table_width([row[:shown] for row in table]) > width:
        shown -= 1
    table = [row[:shown] for row in table]
    header = header[:shown]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def format_blocks(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Return a table as blocks one below the other if not all columns fit into a line.

    Args:
        header: Names of the columns; each block begins with the first one.
        rows: Cells as text.
        width: Characters of a line; None: no limit.
    """
    table = [list(header), *[list(row) for row in rows]]
    blocks, start = [], 1
    while start < len(header):
        stop = start + 1
        while stop < len(header) and (width is None or _table_width(_columns(table, start, stop + 1)) <= width):
            stop += 1
        block = _columns(table, start, stop)
        blocks.append(format_table(block[0], block[1:]))
        start = stop
    return "\n\n".join(blocks)


def _columns(table: Sequence[Sequence[str]], start: int, stop: int) -> list[list[str]]:
    """Return the first column and a range of the others."""
    return [[row[0], *row[start:stop]] for row in table]


def line_width() -> int | None:
    """Return the characters of a line: COLUMNS, or the width of the terminal; None if stdout is no terminal."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrap(text: str, indent: str = "") -> str:
    """Return text in lines of the terminal's width; words such as digests stay in one line.

    Args:
        text: Text without line breaks.
        indent: Beginning of the lines after the first.
    """
    width = line_width() or MAX_WIDTH
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table_width(table: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(*table, strict=True)) - 2


def fidelity_lines(fidelity: HeadFidelity) -> list[str]:
    """Return lines on the fidelity of a head: on the dense rows, and on rows of every unit.

    Args:
        fidelity: Fidelity as a snapshot holds it.
    """
    lines = []
    if fidelity.probe is not None:
        lines.append(_fidelity_line(fidelity.probe, "rows stored dense, decoded as readers do"))
    if (units := fidelity.units) is not None:
        lines.append(_fidelity_line(units, "rows of all units, compared while they were written"))
        if (poorest := fidelity.poorest) is not None and poorest.rows < units.rows:
            lines[-1] += f"; poorest is unit {fidelity.poorest_unit} with listed mass {poorest.mass:.4f}"
    return lines


def cost_lines(costs: Costs) -> list[str]:
    """Return lines on the cost of labels.

    Args:
        costs: The cost.
    """
    hours = "teacher hours unknown" if costs.teacher_hours is None else f"{_amount(costs.teacher_hours)} teacher hours"
    lines = [f"{hours}; {costs.requests:,} requests to an object store"]
    if costs.label is not None:
        lines.append(f"labelling costs {_amount(costs.label)}")
    if costs.keep_month is not None:
        lines.append(f"keeping the labels costs {_amount(costs.keep_month)} per month")
    if costs.break_even_months is not None:
        lines.append(f"after {costs.break_even_months:,.1f} months, keeping has cost as much as labelling again")
    if costs.break_even_students is not None:
        students = costs.break_even_students
        lines.append(f"the labels pay from student {students:,} on, if each needs one teacher pass")
    return lines


def _amount(value: float) -> str:
    return "less than 0.01" if 0 < value < 0.01 else f"{value:,.2f}"


def _fidelity_line(fidelity: Fidelity, measured_on: str) -> str:
    rows = f"({fidelity.rows:,} {measured_on})"
    if not fidelity.kl:
        return f"draws; error {fidelity.error or 0:.2g}; listed mass {fidelity.mass:.4f} {rows}"
    kl = ", ".join(f"{value:.2g} nats at T = {t}" for t, value in fidelity.kl.items())
    return f"KL {kl}; listed mass {fidelity.mass:.4f}; top-1 agreement {fidelity.top1:.2%} {rows}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 unit, 2 units.

    Args:
        number: The number.
        noun: The noun in the singular.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def count_outputs(kind: str, classes: int) -> str:
    """Return the width of a head in words: 10 classes, 1 number.

    Args:
        kind: Kind of the head.
        classes: Number of classes, or of numbers.
    """
    return count(classes, "number") if kind in NUMBERS else f"{classes:,} classes"


def format_bytes(size: float) -> str:
    """Return a size for people: 1.5 MiB.

    Args:
        size: Bytes.
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Return a duration for people: 45 s, 3 min 20 s, 5 h 12 min.

    Args:
        seconds: Seconds.
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"
