"""A comparison as a picture: quality against latency, one point per model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from softlabels.planning.picture import picture
from softlabels.training.comparison import ComparedModel


def draw_comparison(rows: Sequence[ComparedModel], path: str | Path) -> None:
    """Write the picture of a comparison.

    Args:
        rows: Rows of a comparison, at least one.
        path: File that ends in .svg, .png or .pdf.

    Raises:
        InvalidArgument: The file has another ending or cannot be written, or matplotlib is not installed.

    Example:
        >>> draw_comparison([], "picture.doc")
        Traceback (most recent call last):
        ...
        softlabels.errors.InvalidArgument: plot: unknown file type, got picture.doc; expected .svg, .png, .pdf
    """
    with picture(path, size=(6.4, 4.4)) as figure:
        from matplotlib.ticker import LogFormatter

        axis = figure.axes[0]
        middle = math.sqrt(min(row.latency_ms for row in rows) * max(row.latency_ms for row in rows))
        for row in rows:
            side = -1 if row.latency_ms > middle else 1  # names stay between the points
            axis.errorbar(row.latency_ms, row.value, yerr=row.spread, fmt="o", capsize=3, markersize=6)
            axis.annotate(
                f"{row.name}\n{row.parameters:,} parameters", (row.latency_ms, row.value), xytext=(6 * side, 4),
                textcoords="offset points", fontsize=7, ha="right" if side < 0 else "left",
            )  # fmt: skip
        head = next(iter(rows[0].heads), "")
        unit = f", {rows[0].heads[head].unit}" if head and rows[0].heads[head].unit else ""
        axis.set(
            xscale="log",
            xlabel="latency at batch 1 on one thread, ms (p50)",
            ylabel=f"{rows[0].metric}{unit}" + (f" of {head}" if len(rows[0].heads) > 1 else ""),
            title=f"{rows[0].measured_rows:,} rows, {rows[0].measured_on}",
        )
        axis.xaxis.set_major_formatter(LogFormatter())
        axis.xaxis.set_minor_formatter(LogFormatter())
        axis.margins(x=0.25, y=0.15)
        axis.grid(visible=True, which="both", alpha=0.15)
        figure.tight_layout()
