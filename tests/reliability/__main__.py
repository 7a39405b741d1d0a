"""The long version of the reliability tests: ``make reliability`` writes docs/reliability.md from what it measures."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.reliability import interleavings, kills, mutants, planted, power_cuts, system_calls

ROOT = Path(__file__).parents[2]
Section = tuple[str, list[tuple[str, str]], bool]
"""A heading, lines of a table, and whether all is as it must be."""


def bar(name: str, total: int | None) -> Callable[[int], None]:
    """Progress on stderr."""
    shown = tqdm(total=total, desc=name, file=sys.stderr, mininterval=1.0)
    return lambda done: shown.update(done - shown.n) and None


def random_kills(scale: float) -> Section:
    """SIGKILL over three writers."""
    count = int(10_000 * scale)
    found = kills.run(count, progress=bar("kills", count))
    lines = [
        ("SIGKILLs, three writers on one store, both forms, three encodings", f"{found.kills:,}"),
        ("units committed", f"{found.units:,}"),
        ("acknowledged units lost", str(found.lost)),
        ("rows twice", str(found.twice)),
        ("records changed, or units with wrong content", str(found.changed)),
        ("rows recomputed a kill, median", f"{statistics.median(found.recomputed):g}"),
        ("the same, 99th percentile", f"{sorted(found.recomputed)[int(len(found.recomputed) * 0.99)]} (one unit)"),
    ]
    return "Random kills", lines, not (found.lost or found.twice or found.changed)


def calls(scale: float) -> Section:
    """SIGKILL and errors at system calls."""
    every = max(1, round(0.2 / scale))
    killed = system_calls.kill_at_each(every, bar("kill at a call", None))
    failed = system_calls.fail_at_each(every, bar("fail at a call", None))
    lines = [
        ("SIGKILL at a system call of a commit, then resume", f"{killed.right} of {killed.tried} right"),
        ("an errno from a system call of a commit, then retry", f"{failed.right} of {failed.tried} right"),
    ]
    return "System calls", lines, killed.right == killed.tried and failed.right == failed.tried


def cuts(scale: float) -> Section:
    """Power cuts."""
    count = int(70_000 * scale)
    found = power_cuts.run(count, progress=bar("power cuts", count))
    lines = [
        ("states after a cut that were tried", f"{found.states:,}"),
        ("of them different", f"{found.different:,}"),
        ("violations", str(len(found.violations))),
    ]
    return "Power cuts", lines, not found.violations


def races(scale: float) -> Section:
    """Interleavings."""
    found = interleavings.run(None if scale >= 1 else int(3432 * scale), progress=bar("interleavings", None))
    lines = [
        ("interleavings of two commits of one unit", f"{found.tried:,}"),
        ("with other than one winner, or a record that changed", str(len(found.violations))),
    ]
    return "Races", lines, not found.violations


def bugs(_: float) -> Section:
    """Planted bugs."""
    lines = []
    for bug in planted.BUGS:
        layers = [name for name in planted.LAYERS if planted.caught_by(bug, name)]
        lines.append((bug, "caught by " + ", ".join(layers) if layers else "NOT CAUGHT"))
    return "Planted bugs", lines, not any("NOT" in line[1] for line in lines)


def fuzz(scale: float) -> Section:
    """Mutants of stores in both forms."""
    lines, good = [], True
    for shard_format in ("zarr", "parquet"):
        found = _mutants_of(shard_format, scale)
        accidents, attacks, plain = found["accidents"], found["attacks"], found["plain"]
        untyped = sum(n for part in (accidents, attacks) for name, n in part.items() if name.startswith("untyped"))
        crashes = found["crashes"]
        plainly = f"{plain['wrong']:,} of {sum(plain.values()):,}"
        if found["plain crashes"]:
            plainly = "not known: its process crashed"
        lines += [
            (f"{shard_format}: mutants", f"{sum(accidents.values()) + sum(attacks.values()):,}"),
            (f"{shard_format}: process crashes", str(crashes)),
            (f"{shard_format}: wrong labels after an accident", f"{accidents['wrong']} of {sum(accidents.values()):,}"),
            (f"{shard_format}: exceptions without a type of ours", str(untyped)),
            (f"{shard_format}: forged with hashes: refused, read", f"{attacks['refused']:,}, {attacks['other']:,}"),
            (f"{shard_format}: growth of memory", f"{found['memory'] / 2**20:.1f} MiB"),
            (f"{shard_format}: wrong labels by the plain reader", plainly),
        ]
        good &= not (crashes or accidents["wrong"] or untyped) and found["memory"] < 2**28
    return "Mutants", lines, good


SHARES = {"topk": 0.5, "adaptive": 0.25, "threshold": 0.25}


def _mutants_of(shard_format: str, scale: float) -> dict[str, Any]:
    """Mutants of a store of each kind of labels; top-k also through plain readers."""
    total: dict[str, Any] = {}
    for labels, share in SHARES.items():
        count, plain = int(1_000_000 * scale * share), min(10_000, int(20_000 * scale)) if labels == "topk" else 0
        report = bar(f"mutants, {shard_format}, {labels}", count)
        found = mutants.run(count, shard_format, labels, plain=plain, progress=report)
        memory = max(total.get("memory", 0), found.pop("memory"))
        total = {name: total[name] + found[name] if total else found[name] for name in found} | {"memory": memory}
    return total


EXPERIMENTS = (random_kills, calls, cuts, races, bugs)


def page(sections: list[Section], command: str, seconds: float) -> str:
    """The report."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    today, minutes = dt.datetime.now(tz=dt.UTC).date(), f"{seconds / 60:.0f} minutes"
    lines = [
        "# Reliability, measured", "",
        "Written by the command below; what each experiment does stands at the head of its module in",
        "`tests/reliability/`. Zero failures in N trials bound the rate of failures by 3/N, with 95 % confidence.", "",
        f"    {command}", "",
        f"{today:%-d %B %Y}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}; {minutes}.",
    ]  # fmt: skip
    for title, table, _ in sections:
        lines += ["", f"## {title}", "", "| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in table)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, write, and fail where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of trials")
    parser.add_argument("--mutants", type=float, help="share of the full number of mutants, if another")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    began = time.monotonic()
    sections = [experiment(arguments.scale) for experiment in EXPERIMENTS]
    share = arguments.scale if arguments.mutants is None else arguments.mutants
    sections.append(fuzz(share))
    command = (
        "make reliability"
        if arguments.scale == share == 1
        else f"python -m tests.reliability --scale {arguments.scale:g}"
    )
    if share != arguments.scale:
        command += f" --mutants {share:g}"
    arguments.out.write_text(page(sections, command, time.monotonic() - began))
    if arguments.json:
        figures: dict[str, Any] = {title: {**dict(table), "good": good} for title, table, good in sections}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    bad = [title for title, _, good in sections if not good]
    print(f"{arguments.out}: " + ("all as it must be" if not bad else f"FAILED: {', '.join(bad)}"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
