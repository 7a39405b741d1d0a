"""Write data/digits.parquet from the copy of the UCI handwritten digits that scikit-learn ships.

    pip install scikit-learn && python data/make_digits.py

A quarter of the rows, the same share of each digit, chosen by a fixed seed, is the test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from sklearn.datasets import load_digits

TEST_SHARE = 0.25
OUT = Path(__file__).with_name("digits.parquet")


def choose_split(labels: np.ndarray, seed: int = 0) -> list[str]:
    """``train`` or ``test`` for each row, stratified by label."""
    rng = np.random.default_rng(seed)
    split = np.full(len(labels), "train", dtype=object)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        split[rows[: round(TEST_SHARE * len(rows))]] = "test"
    return list(split)


def main() -> None:
    """Write the table and print its digest."""
    images, labels = load_digits(return_X_y=True)
    pixels = pa.array(images.astype(np.uint8).ravel())
    image = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pixels, 8), 8)
    table = pa.table({"image": image, "label": pa.array(labels.astype(np.uint8)), "split": choose_split(labels)})
    pq.write_table(table, OUT, compression="zstd", use_dictionary=["split"])
    print(
        f"{OUT.name}: {table.num_rows} rows, {OUT.stat().st_size} bytes, blake3 {blake3(OUT.read_bytes()).hexdigest()}"
    )


if __name__ == "__main__":
    main()
