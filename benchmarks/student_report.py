"""Tables and picture of benchmarks/students.py: figures above full KD, seed by seed."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

LIVE, HARD = "live teacher (full KD)", "true tokens alone"
UNUSED = ", offsets not used"
T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % quantile of Student's t distribution by number of seeds."""
FAMILIES = {
    "counts:N": lambda name: name.startswith("counts") and name.count(":") == 1 and not name.endswith(UNUSED),
    "counts:N, offsets not used": lambda name: name.startswith("counts") and name.endswith(UNUSED),
    "counts:N:FLOOR": lambda name: name.startswith("counts") and name.count(":") > 1,
    "threshold": lambda name: name.startswith("threshold"),
    "RS-KD": lambda name: name.startswith("RS-KD"),
    "adaptive": lambda name: name.startswith("adaptive"),
}
"""Families of labels with a colour of their own, by name of the student."""

Row = dict[str, Any]


def by_scheme(rows: list[Row], setup: str, key: str) -> dict[str, list[float]]:
    """Return a figure less that of full KD, by name of the student, seed by seed."""
    of_setup = [row for row in rows if row["setup"] == setup]
    live = {row["seed"]: row[key] for row in of_setup if row["scheme"] == LIVE}
    above: dict[str, list[float]] = {}
    for row in of_setup:
        if row["seed"] in live:
            above.setdefault(row["scheme"], []).append(row[key] - live[row["seed"]])
    return above


def half_width(values: list[float]) -> float:
    """Return the half width of the 95 % confidence interval of a mean; 0 for one value."""
    if len(values) not in T_QUANTILES:
        return 0.0
    return T_QUANTILES[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def interval(values: list[float]) -> str:
    """Return a mean with its confidence interval."""
    return f"{statistics.mean(values):+.4f} ± {half_width(values):.4f}"


def report(rows: list[Row]) -> None:
    """Print means over seeds, and differences to full KD seed by seed with confidence intervals."""
    for setup in dict.fromkeys(row["setup"] for row in rows):
        of_setup = [row for row in rows if row["setup"] == setup]
        print(f"\n{setup}: entropy of the teacher {of_setup[0]['entropy']:.2f} nats, {len(of_setup)} students\n")
        print(
            "| labels | bytes per token | KL to the teacher above full KD | seed by seed | loss above | calibration |"
        )
        print("|---|---:|---|---|---|---:|")
        kl, loss = by_scheme(rows, setup, "kl"), by_scheme(rows, setup, "loss")
        for name in dict.fromkeys(row["scheme"] for row in of_setup):
            of_name = [row for row in of_setup if row["scheme"] == name]
            size = "-" if of_name[0]["bytes"] is None else f"{of_name[0]['bytes']:.1f}"
            means = {key: statistics.mean(row[key] for row in of_name) for key in ("kl", "loss", "calibration_error")}
            differences = [f"0 ({means['kl']:.3f})", "-", f"0 ({means['loss']:.3f})"] if name == LIVE else [
                interval(kl[name]), " ".join(f"{value:+.3f}" for value in kl[name]), interval(loss[name])
            ]  # fmt: skip
            print(f"| {name} | {size} | {' | '.join(differences)} | {means['calibration_error']:.3f} |")


def plot(rows: list[Row], path: Path) -> None:
    """Draw the KL above full KD with its confidence interval against bytes per token, one panel per set-up."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    setups = list(dict.fromkeys(row["setup"] for row in rows))
    figure, panels = plt.subplots(1, len(setups), figsize=(5.2 * len(setups), 4.4), sharey=True, squeeze=False)
    for panel, setup in zip(panels[0], setups, strict=True):
        of_setup = [row for row in rows if row["setup"] == setup]
        above, sizes = by_scheme(rows, setup, "kl"), {row["scheme"]: row["bytes"] for row in of_setup}
        for colour, (family, belongs) in enumerate(FAMILIES.items()):
            names = [name for name in above if belongs(name)]
            means = [statistics.mean(above[name]) for name in names]
            panel.errorbar(
                [sizes[name] for name in names], means, [half_width(above[name]) for name in names],
                fmt="o", capsize=3, color=f"C{colour}", label=family,
            )  # fmt: skip
            height = {"counts:N:FLOOR": 12, "threshold": -10}.get(family, 4)  # points are close to each other
            for name, mean in zip(names, means, strict=True):
                if not name.endswith(UNUSED):  # beside the same labels whose offsets are used
                    where = (sizes[name], mean)
                    panel.annotate(name, where, xytext=(6, height), textcoords="offset points", fontsize=7)
        if HARD in above:
            hard = statistics.mean(above[HARD])
            panel.axhline(hard, color="grey", linestyle=":")
            panel.annotate(HARD, (2.7, hard), xytext=(0, -10), textcoords="offset points", fontsize=7)
        panel.axhline(0, color="tab:green")
        panel.set_xscale("log")
        panel.set_xlim(2.5, 90)
        panel.set_xticks([3, 5, 8, 12, 20, 36], ["3", "5", "8", "12", "20", "36"])
        panel.set_xticks([], minor=True)
        panel.set_yscale("symlog", linthresh=0.02)
        panel.set_ylim(bottom=-0.02)
        panel.set_yticks([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["0", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5"])
        panel.set_title(f"teacher of {of_setup[0]['entropy']:.1f} nats", fontsize=10)
        panel.set_xlabel("bytes per token")
        panel.grid(visible=True, alpha=0.2)
    panels[0][0].set_ylabel("KL to the teacher above full KD, nats per token")
    panels[0][-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
