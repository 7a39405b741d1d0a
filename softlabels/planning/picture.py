"""Files of pictures: matplotlib is imported, and a figure is written and closed, in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softlabels.errors import InvalidArgument

FORMATS = (".svg", ".png", ".pdf")


@contextmanager
def picture(path: str | Path, *, rows: int = 1, columns: int = 1, size: tuple[float, float]) -> Iterator[Any]:
    """Yield a figure of matplotlib, and write it at the end of the block. Equal figures give equal files.

    Args:
        path: File that ends in .svg, .png or .pdf.
        rows: Rows of panels; the panels are ``figure.axes``.
        columns: Columns of panels.
        size: Width and height of a panel, in inches.

    Raises:
        InvalidArgument: The file has another ending or cannot be written, or matplotlib is not installed.
    """
    target = check_target(path)
    try:
        import matplotlib as mpl
    except ImportError:
        raise InvalidArgument(
            "plot: matplotlib is not installed. Run pip install 'softlabels[report]', or leave out plot="
        ) from None
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, _ = plt.subplots(rows, columns, figsize=(columns * size[0], rows * size[1]), squeeze=False)
    try:
        yield figure
        with mpl.rc_context({"svg.hashsalt": "softlabels"}):  # without dates and random ids
            metadata = {"Date": None} if target.suffix == ".svg" else None
            figure.savefig(target, metadata=metadata, bbox_inches="tight")
    except OSError as error:
        raise InvalidArgument(f"plot: {target} cannot be written, got {error.strerror or error}") from error
    finally:
        plt.close(figure)


def check_target(path: str | Path) -> Path:
    """Return the file of a picture, once it is sure that it can be written.

    Args:
        path: File that ends in .svg, .png or .pdf.

    Raises:
        InvalidArgument: The file has another ending, or its directory cannot be written.
    """
    target = Path(path)
    if target.suffix not in FORMATS:
        raise InvalidArgument(f"plot: unknown file type, got {target}; expected {', '.join(FORMATS)}")
    folder = target.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or target.is_dir():
        raise InvalidArgument(f"plot: {target} cannot be written; expected a file in a directory that can be written")
    return target
