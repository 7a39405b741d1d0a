"""A comparison as a picture: quality against latency, one point per model."""

from __future__ import annotations

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
        axis = figure.axes[0]
        for row in rows:
            axis.errorbar(row.latency_ms, row.value, yerr=row.spread, fmt="o", capsize=3, markersize=6)
            axis.annotate(
                f"{row.name}\n{row.parameters:,} parameters", (row.latency_ms, row.value), xytext=(6, 4), fontsize=7,
                textcoords="offset points",
            )  # fmt: skip
        head = next(iter(rows[0].heads), "")
        unit = f", {rows[0].heads[head].unit}" if head and rows[0].heads[head].unit else ""
        axis.set(
            xscale="log",
            xlabel="latency at batch 1 on one thread, ms (p50)",
            ylabel=f"{rows[0].metric}{unit}" + (f" of {head}" if len(rows[0].heads) > 1 else ""),
            title=f"{rows[0].measured_rows:,} rows, {rows[0].measured_on}",
        )
        axis.margins(x=0.25, y=0.15)
        axis.grid(visible=True, which="both", alpha=0.15)
        figure.tight_layout()
