"""A plan as a picture: bytes per row against fidelity, with the Pareto front of each family."""

from __future__ import annotations

from pathlib import Path

from softlabels.planning.picture import picture
from softlabels.planning.table import Plan, PlanRow

COLOURS = {
    "dense": "#444444", "topk": "#1f77b4", "adaptive": "#2ca02c", "sampled": "#ff7f0e", "threshold": "#d62728",
    "counts": "#9467bd",
}  # fmt: skip
OTHER_COLOUR = "#8c564b"
"""Colour of encodings that have none of their own."""


def draw(plan: Plan, path: str | Path) -> None:
    """Write the picture of a plan.

    Args:
        plan: The table.
        path: File that ends in .svg, .png or .pdf.

    Raises:
        InvalidArgument: The file has another ending or cannot be written, or matplotlib is not installed.
    """
    panels = [
        (False, "KL to the teacher, nats", [row for row in plan.rows if not row.unbiased and row.distance > 0]),
        (True, "draws: squared error of the gradient", [row for row in plan.rows if row.unbiased]),
    ]
    panels = [panel for panel in panels if panel[2]]
    with picture(path, columns=len(panels), size=(5.6, 4.4)) as figure:
        for axis, (_, title, rows) in zip(figure.axes, panels, strict=True):
            for family in dict.fromkeys(row.encoding.split(":")[0] for row in rows):
                members = [row for row in rows if row.encoding.startswith(f"{family}:")]
                axis.scatter(*_points(members), label=family, color=COLOURS.get(family, OTHER_COLOUR), s=28)
            axis.plot(
                *_points([row for row in rows if row.front]), color="black", linewidth=0.8, zorder=0, label="front"
            )
            for row in rows:
                if row.front or row.current:
                    text = f"{row.encoding} (this store)" if row.current else row.encoding
                    axis.annotate(text, (row.bytes_per_row, row.distance), xytext=(4, 4), fontsize=6,
                                  textcoords="offset points")  # fmt: skip
            axis.set(xscale="log", yscale="log", xlabel="bytes per row, compressed", title=title)
            axis.grid(visible=True, which="both", alpha=0.15)
            axis.legend(fontsize=8)
        figure.suptitle(
            f"{plan.sampled:,} rows measured; {plan.sample.items:,} in all; entropy {plan.entropy:.2f} nats", fontsize=9
        )
        figure.tight_layout()


def _points(rows: list[PlanRow]) -> tuple[list[float], list[float]]:
    return [row.bytes_per_row for row in rows], [row.distance for row in rows]
