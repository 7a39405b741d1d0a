"""Bytes and errors of embeddings by encoding, on real ones.

    python benchmarks/embeddings.py EMBEDDINGS.npy... [--pilot 0.25]

A file holds (rows, width) numbers, such as a layer of a transformer. The first quarter of the rows is the pilot, which
means and deviations are fitted to; the rest is stored and measured.

- 1 - cos: mean distance from the embedding, which ``cosine`` students see.
- centred: the same after the mean of the pilot is taken away, where a few large dimensions no longer decide.
- dimension: root mean square error of a dimension over its standard deviation, of the median and of the worst one.
- neighbour: share of rows whose nearest other row by cosine is the same.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import softlabels as sl

ENCODINGS = ("dense:f16", "dense:bf16", "dense:q8", "dense:q8:scaled")

Rows = NDArray[np.float64]


def unit(rows: Rows) -> Rows:
    """Return rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def distance(rows: Rows, others: Rows) -> float:
    """Return the mean of 1 - cos, without the cancellation of that formula."""
    return float(np.square(unit(rows) - unit(others)).sum(axis=1).mean() / 2)


def neighbours(rows: Rows) -> NDArray[np.int64]:
    """Return the nearest other row of each row."""
    similar = unit(rows) @ unit(rows).T
    np.fill_diagonal(similar, -2)
    return np.asarray(similar.argmax(axis=1))


def measure(values: NDArray[np.float32], pilot: NDArray[np.float32], encoding: str) -> str:
    """Return the figures of an encoding as a row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "store")
        head = sl.Head(classes=values.shape[1], kind="embedding", encoding=encoding)
        with sl.create(out, heads={"embedding": head}, pilot={"embedding": pilot}) as writer:
            writer.append(range(len(values)), {"embedding": values})
        store = sl.open(out)
        stored, size = store.read(range(len(values)), "embedding").values.astype(np.float64), store.bytes_per_row
    true, mean = values.astype(np.float64), pilot.mean(axis=0, dtype=np.float64)
    deviation = pilot.std(axis=0, dtype=np.float64)
    # A dimension that is constant in the pilot has no deviation to compare with.
    error = (np.sqrt(np.square(stored - true).mean(axis=0)) / deviation)[deviation > 1e-3 * np.median(deviation)]
    same = float((neighbours(stored) == neighbours(true)).mean())
    return (
        f"| `{encoding}` | {size:,.0f} | {distance(stored, true):.1e} | {distance(stored - mean, true - mean):.1e} | "
        f"{np.median(error):.1e} | {error.max():.1e} | {same:.1%} |"
    )


def main() -> None:
    """Parse the command line and print a table for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--pilot", type=float, default=0.25, help="share of the rows")
    arguments = parser.parse_args()
    for path in arguments.files:
        rows = np.load(path).astype(np.float32)
        pilot, values = np.split(rows, [max(1, round(arguments.pilot * len(rows)))])
        spread = np.median(np.ptp(values, axis=1) / np.sqrt(np.square(values).mean(axis=1)))
        print(f"\n{path.stem}: {len(values):,} rows of {values.shape[1]}, range over root mean square {spread:.1f}")
        print("| encoding | bytes per row | 1 - cos | centred | dimension, median | worst | neighbour |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for encoding in ENCODINGS:
            print(measure(values, pilot, encoding), flush=True)


if __name__ == "__main__":
    main()
