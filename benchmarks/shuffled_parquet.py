"""Shuffled epochs over a Parquet file whose row groups exceed the cache of decoded blocks.

    python benchmarks/shuffled_parquet.py [--mebibytes 384] [--groups 2] [--json shuffled_parquet.json]

The file holds float32 vectors of 1,024 random values (which do not compress) and a label, in few large row groups. Each
epoch is read through ``sl.loader`` in batches of 256, once in order and twice shuffled. Printed for each: seconds, and
the bytes of inputs decoded, as a multiple of the file. The first shuffled epoch writes a temporary file of the inputs
once half as many rows again as there are were decoded in vain; later epochs decode nothing. At most 4 is promised.

About half a minute on two cores, and as much space in TMPDIR as the inputs take.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import softlabels as sl
from softlabels.sources.table_source import TableSource

WIDTH = 1024
BATCH = 256


def write(path: Path, rows: int, groups: int) -> None:
    """Write a file of ``rows`` random vectors in ``groups`` row groups."""
    random = np.random.default_rng(0)
    schema = pa.schema([("x", pa.list_(pa.float32(), WIDTH)), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for count in np.diff(np.linspace(0, rows, groups + 1).astype(int)):
            values = random.standard_normal(count * WIDTH, dtype=np.float32)
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH), pa.array(np.arange(count) % 10)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=int(count))


def epoch(source: TableSource, *, shuffle: bool, seed: int) -> dict[str, Any]:
    """Read an epoch, and return its seconds and the share of rows that were decoded for it."""
    decoded, start = source.decoded_rows, time.perf_counter()
    rows = sum(
        len(batch.inputs) for batch in sl.loader(None, inputs=source, batch_size=BATCH, shuffle=shuffle, seed=seed)
    )
    assert rows == len(source)
    return {
        "order": "shuffled" if shuffle else "in order",
        "seconds": round(time.perf_counter() - start, 2),
        "decoded": round((source.decoded_rows - decoded) / rows, 2),
    }


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mebibytes", type=int, default=384, help="size of the inputs")
    parser.add_argument("--groups", type=int, default=2, help="number of row groups")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        write(path, options.mebibytes * 2**20 // (4 * WIDTH), options.groups)
        start = time.perf_counter()
        source = sl.open_source(path)
        assert isinstance(source, TableSource)
        opening = {
            "order": "opening",
            "seconds": round(time.perf_counter() - start, 2),
            "decoded": round(source.decoded_rows / len(source), 2),
        }
        runs = [opening, *(epoch(source, shuffle=seed > 0, seed=seed) for seed in range(3))]
    print(f"{options.mebibytes} MiB of inputs in {options.groups} row groups, batches of {BATCH}")
    print(f"{'epoch':10} {'seconds':>8} {'decoded / file':>15}")
    for run in runs:
        print(f"{run['order']:10} {run['seconds']:8.2f} {run['decoded']:15.2f}")
    assert max(run["decoded"] for run in runs) <= 4
    if options.json is not None:
        options.json.write_text(json.dumps({"schema_version": 1, "options": {"mebibytes": options.mebibytes,
                                            "groups": options.groups}, "epochs": runs}, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
