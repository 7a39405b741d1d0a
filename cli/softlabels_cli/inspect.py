"""``softlabels inspect``: what is in a store, which teacher made it, and is it whole?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from softlabels_cli.output import count, fidelity_lines, format_bytes, json_option, print_json, printable


@click.command("inspect", epilog="Example:  softlabels inspect labels --json")
@click.argument("store", type=click.Path(path_type=Path))
@json_option
def command(*, store: Path, as_json: bool) -> None:
    """Say what STORE holds: rows, size, teacher, data, heads and how faithful the labels are."""
    from softlabels.store import describe_store

    found = describe_store(store)
    if as_json:
        print_json(found)
        return
    for name, value in _lines(found):
        click.echo(printable(f"{name:<12}{value}".rstrip()))


def _lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a person reads of ``describe_store``: a name and a value a line."""
    snapshot, teacher, data = found["snapshot"], found["teacher"], found["data"]
    if snapshot is None:
        sealed = f"not sealed: {count(found['missing_units'], 'unit')} missing"
    else:
        sealed = f"{snapshot['number']}, digest {snapshot['digest']}"
        if found["missing_units"]:
            sealed += f"; {count(found['missing_units'], 'unit')} missing since"
    lines = [
        ("rows", f"{found['rows']:,} in {count(found['units'], 'unit')}"),
        ("size", f"{format_bytes(found['bytes'])}, {found['bytes_per_row']:.1f} bytes a row"),
        ("snapshot", sealed),
        ("teacher", _teacher(teacher)),
        ("data", _data(data)),
        ("shards", f"{found['shard']['format']}, {found['shard']['codec']}; written by {', '.join(found['software'])}"),
    ]
    if found["committed"]:
        lines.append(("made", f"{found['committed']['first']} to {found['committed']['last']}"))
    if found["holes"]:
        more = ", ..." if len(found["holes"]) < found["missing_units"] else ""
        lines.append(("holes", f"units {', '.join(map(str, found['holes']))}{more}: run generate, then seal"))
    if found["quarantined"]:
        lines.append(("quarantine", f"{count(found['quarantined'], 'unit')} set aside by repair"))
    for name, head in found["heads"].items():
        temperatures = ", ".join(f"{t:g}" for t in head["temperatures"])
        lines.append(
            ("head", f"{name}: {head['kind']}, {head['classes']:,} classes, {head['encoding']}, T = {temperatures}")
        )
        if fidelity := head.get("fidelity"):
            lines += [("", line) for line in fidelity_lines(fidelity)]
            if warning := head["warning"]:
                lines.append(("", f"Warning: {warning}"))
    return lines


def _teacher(teacher: Mapping[str, Any]) -> str:
    digest = "no digest" if teacher["digest"] is None else f"digest {teacher['digest']}"
    return f"{teacher['spec'] or 'unnamed'}, {digest}"


def _data(data: Mapping[str, Any]) -> str:
    """What was labelled; of rows that were appended nothing is known but their keys."""
    if data["fingerprint"] is None:
        return str(data["spec"])
    return f"{data['spec']}, {data['rows']:,} rows, fingerprint {data['fingerprint']}"
