"""Curves of runs as a picture: loss, KL, agreement and accuracy over steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softlabels.errors import DataNotFound, InvalidArgument
from softlabels.planning.picture import check_target, picture
from softlabels.training.metrics import read_metrics

HELD_OUT = "held_out."
NOT_DRAWN = ("step", "lr")
MAX_PANELS = 9
PANEL = (4.4, 3.2)
"""Width and height of a panel in inches."""
LEGEND_POINTS = 8
CHARACTERS_PER_INCH = 72 / (0.6 * LEGEND_POINTS)
LEGEND_MARK = 8
"""Width of the line before a name, in characters."""
MAX_NAME = 200
"""Characters of a name that are drawn."""
MAX_VALUE = 1e100
"""Bound of what is drawn; a file may hold anything."""


def plot(runs: str | Path | Sequence[str | Path], out: str | Path = "curves.svg") -> Path:
    """Draw the metrics of runs, finished or not: one panel per figure, one colour per run, held-out rows dashed.

    Args:
        runs: Run directories, one or several.
        out: File that ends in .svg, .png or .pdf.

    Returns:
        The file.

    Raises:
        InvalidArgument: There are no runs, the file cannot be written, or matplotlib is not installed.
        DataNotFound: A directory has no metrics.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from softlabels.training import train_teacher
        >>> with TemporaryDirectory() as folder:
        ...     model = train_teacher("digits", "mlp:width=4,depth=1", f"{folder}/run", steps=4, log_every=2)
        ...     plot([f"{folder}/run"], f"{folder}/curves.svg").name
        'curves.svg'
    """
    target = check_target(out)
    if isinstance(runs, str | Path):
        runs = [runs]
    if not runs:
        raise InvalidArgument("plot: no runs, got none; expected at least one run directory")
    lines = {str(run): read_metrics(Path(run)) for run in runs}
    names = _figures(lines)
    if not names:
        raise DataNotFound(f"plot: nothing to draw, got no line of metrics in {', '.join(lines)}; expected some")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with picture(target, rows=rows, columns=columns, size=PANEL) as figure:
        for axis, name in zip(figure.axes, names, strict=False):
            for index, (run, entries) in enumerate(lines.items()):
                for prefix, style in (("", "-"), (HELD_OUT, "--")):
                    points = [
                        (entry["step"], entry[prefix + name]) for entry in entries if _is_drawn(entry, prefix + name)
                    ]
                    if points:
                        label = f"{run} (held-out)" if prefix else run
                        style_of_line = {"color": f"C{index % 10}", "label": _shown(label), "linewidth": 1.2}
                        axis.plot(*zip(*points, strict=True), style, **style_of_line)
            axis.set(title=_shown(name), xlabel="step")
            axis.grid(visible=True, alpha=0.2)
        for axis in figure.axes[len(names) :]:
            axis.set_axis_off()
        handles = {
            label: handle
            for axis in figure.axes
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.tight_layout()
        fitting = int(columns * PANEL[0] * CHARACTERS_PER_INCH / (LEGEND_MARK + max(map(len, handles))))
        ncols = max(1, min(fitting, len(handles)))
        figure.legend(handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=ncols,
                      fontsize=LEGEND_POINTS)  # fmt: skip
    return target


def _figures(lines: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return the names of the figures of all runs, those of training and held-out rows as one."""
    names = dict.fromkeys(
        name.removeprefix(HELD_OUT)
        for entries in lines.values()
        for entry in entries
        for name in entry
        if name not in NOT_DRAWN and _is_drawn(entry, name)
    )
    return list(names)[:MAX_PANELS]


def _is_drawn(entry: dict[str, float], name: str) -> bool:
    """Return True if a line holds a number of this name that fits into a picture."""
    step, value = entry["step"], entry.get(name)
    return isinstance(value, int | float) and max(abs(step), abs(value)) < MAX_VALUE


def _shown(text: str) -> str:
    """Return a name as it shows: without control characters, and not as a formula."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_NAME]).replace("$", r"\$")
