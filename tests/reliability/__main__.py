"""The long version of the reliability tests: ``make reliability`` writes docs/reliability.md from what it measures."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.corpus import forging
from tests.reliability import (
    interleavings,
    kills,
    mutants,
    objects,
    orphans,
    planted,
    power_cuts,
    repairs,
    runs,
    signals,
    system_calls,
    tampering,
)
from tests.store import limit_cases

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
    outcome = kills.run(count, progress=bar("kills", count))
    lines = [
        ("SIGKILLs, three writers on one store, both forms, three encodings", f"{outcome.kills:,}"),
        ("units committed", f"{outcome.units:,}"),
        ("acknowledged units lost", str(outcome.lost)),
        ("rows twice", str(outcome.twice)),
        ("records changed, or units with wrong content", str(outcome.changed)),
        ("rows recomputed a kill, median", f"{statistics.median(outcome.recomputed):g}"),
        ("the same, 99th percentile", f"{sorted(outcome.recomputed)[int(len(outcome.recomputed) * 0.99)]} (one unit)"),
    ]
    return "Random kills", lines, not (outcome.lost or outcome.twice or outcome.changed)


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
    outcome = power_cuts.run(count, progress=bar("power cuts", count))
    lines = [
        ("states after a cut that were tried", f"{outcome.states:,}"),
        ("of them different", f"{outcome.different:,}"),
        ("violations", str(len(outcome.violations))),
    ]
    return "Power cuts", lines, not outcome.violations


def races(scale: float) -> Section:
    """Interleavings."""
    outcome = interleavings.run(None if scale >= 1 else int(3432 * scale), progress=bar("interleavings", None))
    lines = [
        ("interleavings of two commits of one unit", f"{outcome.tried:,}"),
        ("with other than one winner, or a record that changed", str(len(outcome.violations))),
    ]
    return "Races", lines, not outcome.violations


def repairing(scale: float) -> Section:
    """Repair beside writers."""
    count = max(1, int(100 * scale))
    result = repairs.run(count, progress=bar("repairs", count))
    lines = [
        ("stores damaged while two writers and two repairs ran", f"{count:,}"),
        ("files damaged", f"{result.damaged:,}"),
        ("writers and repairs killed", f"{result.kills:,}"),
        ("units set aside", f"{result.moved:,}"),
        ("of them with right bytes", str(result.wrong)),
        ("committed units whose files were gone", str(result.lost)),
        ("stores that did not become complete and sealed again", str(result.unsound)),
    ]
    return "Repair", lines, not result.violations


def signalling(scale: float) -> Section:
    """Signals at random moments."""
    count = max(2, int(125 * scale))
    result = signals.run(count, progress=bar("signals", count))
    lines = [
        ("SIGINT and SIGTERM at a random moment of generate or train-student", f"{result.sent:,}"),
        ("processes that exited with 130", f"{result.ended:,}"),
        ("that had finished, or not begun", f"{result.finished + result.early:,}"),
        ("that went on as if nothing had happened", str(result.lost)),
        ("that had not ended after a minute", str(result.hung)),
        ("that ended with another code", str(result.failed)),
        ("interrupted commands run again, of them not finished", f"{result.resumed:,}, {result.unsound}"),
        ("seconds from the signal to the end, median", f"{statistics.median(result.seconds):.1f}"),
        ("the same, longest", f"{max(result.seconds):.1f}"),
    ]
    return "Signals", lines, not result.violations


def orphaned(scale: float) -> Section:
    """Processes of a parent that is killed."""
    count = max(len(orphans.KINDS), int(25 * scale))
    result = orphans.run(count, progress=bar("orphans", count))
    lines = [
        ("parents killed: loaders, DataLoaders and generate --processes", f"{result.kills:,}"),
        ("processes that they had", f"{result.processes:,}"),
        ("processes still there a minute later", str(result.survivors)),
    ]
    return "Orphans", lines, not result.survivors


def damaged_runs(scale: float) -> Section:
    """Flipped bits and forgeries of runs and checkpoints."""
    every = max(1, round(1 / scale))
    result = runs.run(every=every, forged=int(5000 * scale), progress=bar("runs", None))
    which = "every bit" if every == 1 else f"one bit in {every}"
    lines = [
        (
            f"bits flipped: {which} of a checkpoint, and of weights, tokenizer and description of a run",
            f"{result.flips:,}",
        ),
        ("files with a flipped bit that were read", str(result.accepted)),
        ("documents and tensors changed and signed again", f"{result.forged:,}"),
        ("of them refused, read", f"{result.refused:,}, {result.forged - result.refused - result.untyped:,}"),
        ("exceptions without a type of ours", str(result.untyped)),
    ]
    return "Runs and checkpoints", lines, not result.violations


def maxima(_: float) -> Section:
    """Memory at the largest chunks that the format allows."""
    lines, worst = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for shard_format in ("zarr", "parquet"):
            warm = forging.make(Path(folder) / shard_format, f"topk-{shard_format}")
            for case in limit_cases.CHUNKS:
                root = Path(folder) / "store"
                limit_cases.make_chunk(case, shard_format, root)
                growth, _ = limit_cases.growth("read_chunk", root, warm)
                shutil.rmtree(root)
                lines.append((f"{shard_format}: {case}", f"{growth / 1e6:.0f} MB"))
                worst = max(worst, growth)
    return "Memory to read the largest chunks", lines, worst < 256 * 10**6


def object_stores(scale: float) -> Section:
    """Object stores behind a service that fails."""
    with objects.service() as proxy:
        committed = objects.commits(proxy, int(10_000 * scale), progress=bar("commits", int(10_000 * scale)))
        raced = objects.races(proxy, max(1, int(1000 * scale)), progress=bar("races", int(1000 * scale)))
        once = objects.verbs(proxy, objects.FAULTS, progress=bar("faults of verbs", None))
    lines = [
        ("commits with 30 % of the responses lost", f"{committed.tried:,}"),
        ("of them false conflicts, or other bytes", str(len(committed.wrong))),
        ("races of 8 writers, 10 % of the responses lost", f"{raced.tried:,}"),
        ("of them with other than one winner", str(len(raced.wrong))),
        (
            f"faults of the first request of a verb: {len(objects.FAULTS)} kinds, {len(objects.VERBS)} verbs",
            f"{once.tried:,}",
        ),
        ("of them right in the end, or a typed error", f"{once.right:,}, {once.refused:,}"),
        ("of them wrong data, or another exception", str(len(once.wrong))),
    ]
    return "Object stores", lines, not (committed.wrong or raced.wrong or once.wrong)


def tampered(scale: float) -> Section:
    """Tampering with pinned and signed stores."""
    count = int(10_000 * scale)
    with tempfile.TemporaryDirectory() as folder:
        result = tampering.run(count, Path(folder), progress=bar("tampering", count))
    lines = [
        ("mutants of any file of a pinned and signed store", f"{result.tried:,}"),
        ("of them refused", f"{result.refused:,}"),
        ("of them accepted", str(len(result.accepted))),
        ("of them exceptions without a type of ours", str(len(result.untyped))),
    ]
    return "Tampering", lines, not (result.accepted or result.untyped)


def bugs(_: float) -> Section:
    """Planted bugs."""
    lines = []
    for bug in planted.BUGS:
        layers = [name for name in planted.LAYERS if planted.caught_by(bug, name)]
        lines.append((bug, "caught by " + ", ".join(layers) if layers else "NOT CAUGHT"))
    return "Planted bugs", lines, not any("NOT" in line[1] for line in lines)


SHARES = {"topk": 0.4, "adaptive": 0.2, "threshold": 0.2, "counts": 0.2}
"""Of the mutants, by what the labels of the store are."""
ROUNDS = 10
"""Of mutants; a run that is cut short has counted those it finished."""


def fuzz(scale: float) -> Iterator[Section]:
    """Mutants of stores in both forms; what is known after each round."""
    forms = ("zarr", "parquet")
    total: dict[str, dict[str, Any]] = {form: {} for form in forms}
    report = bar("mutants", int(2_000_000 * scale))
    for turn in range(ROUNDS):
        for form in forms:
            for labels, share in SHARES.items():
                # Plain readers are asked about top-k alone; 10,000 mutants are enough for contrast.
                plain = int(10_000 * min(scale, 1) / ROUNDS) if labels == "topk" else 0
                count = int(1_000_000 * scale * share / ROUNDS)
                _add(total[form], mutants.run(count, form, labels, seed=turn, plain=plain))
            report(sum(_tried(counts) for counts in total.values()))
        lines = [line for form in forms for line in _lines(form, total[form])]
        yield "Mutants", lines, all(_good(counts) for counts in total.values())


def _add(total: dict[str, Any], counts: dict[str, Any]) -> None:
    for name, value in counts.items():
        if name == "memory":
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = total[name] + value if name in total else value


def _tried(counts: dict[str, Any]) -> int:
    return sum(counts["accidents"].values()) + sum(counts["attacks"].values()) if counts else 0


def _untyped(counts: dict[str, Any]) -> int:
    both = counts["accidents"] + counts["attacks"]
    return int(sum(count for name, count in both.items() if name.startswith("untyped")))


def _good(counts: dict[str, Any]) -> bool:
    return not (counts["crashes"] or counts["accidents"]["wrong"] or _untyped(counts)) and counts["memory"] < 2**28


def _lines(form: str, counts: dict[str, Any]) -> list[tuple[str, str]]:
    accidents, attacks, plain = counts["accidents"], counts["attacks"], counts["plain"]
    plainly = f"{plain['wrong']:,} of {sum(plain.values()):,}"
    if counts["plain crashes"]:
        plainly = f"{plainly}; {counts['plain crashes']} processes crashed"
    return [
        (f"{form}: mutants", f"{_tried(counts):,}"),
        (f"{form}: process crashes", str(counts["crashes"])),
        (f"{form}: wrong labels after an accident", f"{accidents['wrong']} of {sum(accidents.values()):,}"),
        (f"{form}: exceptions without a type of ours", str(_untyped(counts))),
        (f"{form}: forged with hashes: refused, read", f"{attacks['refused']:,}, {attacks['other']:,}"),
        (f"{form}: growth of memory", f"{counts['memory'] / 2**20:.1f} MiB"),
        (f"{form}: wrong labels by the plain reader", plainly),
    ]


EXPERIMENTS: dict[str, Callable[[float], Iterator[Section] | Section]] = {
    "kills": random_kills,
    "calls": calls,
    "cuts": cuts,
    "races": races,
    "repair": repairing,
    "signals": signalling,
    "orphans": orphaned,
    "runs": damaged_runs,
    "objects": object_stores,
    "tampering": tampered,
    "maxima": maxima,
    "bugs": bugs,
    "mutants": fuzz,
}

MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
HEAD = f"""# Reliability, measured

Written by the commands below; what each experiment does stands at the head of its module in
`tests/reliability/`. Zero failures in N trials bound the rate of failures by 3/N, with 95 % confidence.
Measured on {os.cpu_count()} cores and {MEMORY:.0f} GiB with Python {platform.python_version()}.
"""


def text_of(section: Section, command: str, seconds: float) -> str:
    """Return a section of the page."""
    title, table, _ = section
    measured = f"`{command}`, {dt.datetime.now(tz=dt.UTC).date():%-d %B %Y}, {max(seconds / 60, 1):.0f} min"
    lines = [
        f"## {title}",
        "",
        measured,
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in table),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, write, and fail where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of trials")
    parser.add_argument("--mutants", type=float, help="share of the full number of mutants, if another")
    parser.add_argument(
        "--only", choices=EXPERIMENTS, action="append", help="run this one; other sections stay as they are"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    sections: dict[str, Section] = {}
    for name in arguments.only or EXPERIMENTS:
        share = arguments.mutants if name == "mutants" and arguments.mutants is not None else arguments.scale
        command, began = f"python -m tests.reliability --only {name} --scale {share:g}", time.monotonic()
        outcome = EXPERIMENTS[name](share)
        for section in [outcome] if isinstance(outcome, tuple) else outcome:
            sections[name] = section
            _write(arguments.out, section, text_of(section, command, time.monotonic() - began))
    if arguments.json:
        figures: dict[str, Any] = {title: {**dict(table), "good": good} for title, table, good in sections.values()}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    bad = [title for title, _, good in sections.values() if not good]
    print(f"{arguments.out}: " + ("all as it must be" if not bad else f"FAILED: {', '.join(bad)}"))
    return 1 if bad else 0


def _write(out: Path, section: Section, text: str) -> None:
    """Replace a section of the page, or append it."""
    earlier = out.read_text().split("\n## ")[1:] if out.exists() else []
    texts = {body.split("\n", 1)[0]: f"## {body.rstrip()}\n" for body in earlier} | {section[0]: text}
    out.write_text("\n".join([HEAD, *texts.values()]))


if __name__ == "__main__":
    sys.exit(main())
