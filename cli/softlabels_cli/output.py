"""What commands print: a table or JSON on stdout, notes on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def print_json(value: Mapping[str, object]) -> None:
    """One JSON document on stdout; what would steer a terminal is escaped, as JSON has it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def printable(text: str, *, lines: bool = False) -> str:
    """Text without control characters: what a store's maker wrote must not steer a reader's terminal.

    Args:
        text: what is to be shown.
        lines: leave line breaks; without, a name cannot pass for a line of our own.
    """
    kept = "\n" if lines else ""
    return "".join(char if char.isprintable() or char in kept else ascii(char)[1:-1] for char in text)


def note(message: str) -> None:
    """A line for a person, on stderr."""
    click.echo(message, err=True)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def fidelity_lines(found: Mapping[str, Any]) -> list[str]:
    """What a person reads of a head's fidelity: on the dense rows, and on rows of every unit."""
    lines = [_fidelity_line(found, "dense rows")]
    if units := found.get("units"):
        lines.append(_fidelity_line(units, "rows of all units"))
        if (poorest := units.get("poorest", units))["rows"] < units["rows"]:
            lines[-1] += f"; poorest is unit {poorest['unit']} with listed mass {poorest['mass']:.4f}"
    return lines


def _fidelity_line(found: Mapping[str, Any], measured_on: str) -> str:
    where = f"({found['rows']:,} {measured_on})"
    if not found["kl"]:
        return f"unbiased; error {found.get('error', 0):.2g}; mass of the classes kept {found['mass']:.4f} {where}"
    kl = ", ".join(f"{value:.2g} nats at T = {t}" for t, value in found["kl"].items())
    return f"KL {kl}; listed mass {found['mass']:.4f}; top-1 kept {found['top1']:.2%} {where}"


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 unit, 2 units."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(size: float) -> str:
    """A size a person can read: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """A duration a person can read: 45 s, 3 min 20 s, 5 h 12 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
