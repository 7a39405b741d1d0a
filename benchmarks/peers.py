"""Other ways to read labels, each at its best, and the clock they run under; needs no softlabels.

Every reader hands out an epoch of shuffled batches of BATCH rows as torch tensors, (rows, width) each and for ragged
rows (positions, width) after the rows' lengths. What a library cannot shuffle row by row at speed it shuffles as its
documentation says, or in windows as large as softlabels' own. float16 is kept as its bits where a library has none.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

BATCH = 1024
CHUNK = 4096
WINDOW = 64
FEW = 100_000
"""Rows for libraries that take minutes to write a million; their speed does not depend on it."""

LEAST = 0.2
"""Seconds of later epochs that a rate of them is made of."""

Batches = Iterator[list[torch.Tensor]]
Arrays = dict[str, np.ndarray]


def load(folder: Path, rows: int | None = None) -> Arrays:
    """The raw arrays of a workload, mapped; all but ``starts`` have a row, or of ragged rows a position, a place."""
    arrays = {path.stem: np.asarray(np.load(path, mmap_mode="r")) for path in sorted((folder / "raw").glob("*.npy"))}
    return arrays if rows is None else {name: array[:rows] for name, array in arrays.items()}


def orders(rows: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of one shuffled epoch."""
    order = np.random.default_rng(seed).permutation(rows)
    for start in range(0, rows, BATCH):
        yield order[start : start + BATCH]


def spans(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of ragged rows, and their lengths."""
    lengths = starts[rows + 1] - starts[rows]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts[rows] - before, lengths) + np.arange(int(lengths.sum())), lengths


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    """Over the same memory."""
    return [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays]


def mapped(folder: Path, seed: int) -> Batches:
    """The limit: a gather from memory-mapped arrays, unverified."""
    arrays = load(folder)
    starts = arrays.pop("starts", None)
    if starts is None:
        for rows in orders(len(next(iter(arrays.values()))), seed):
            yield tensors(*(array.take(rows, axis=0) for array in arrays.values()))
        return
    for rows in orders(len(starts) - 1, seed):
        places, lengths = spans(starts, rows)
        yield tensors(lengths, *(array.take(places, axis=0) for array in arrays.values()))


def write_arrow(folder: Path) -> None:
    """One Arrow stream (which HF datasets maps) and file of lists, and Parquet without dictionaries."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = load(folder)
    starts = arrays.pop("starts", None)
    columns = {}
    for name, array in arrays.items():
        bits = array.view(np.uint16) if array.dtype == np.float16 else array
        values = pa.array(bits.reshape(-1))
        width = array.shape[1]
        columns[name] = (
            pa.FixedSizeListArray.from_arrays(values, width)
            if starts is None
            else pa.LargeListArray.from_arrays(pa.array(starts * width), values)
        )
    table = pa.table(columns)
    for kind, opener in (("stream", pa.ipc.new_stream), ("file", pa.ipc.new_file)):
        with pa.OSFile(str(folder / f"arrow.{kind}"), "wb") as sink, opener(sink, table.schema) as writer:
            writer.write_table(table)
    rows = 4096 if starts is None and table.nbytes / len(table) < 1024 else 512
    pq.write_table(table, folder / "labels.parquet", row_group_size=rows, use_dictionary=False, compression="lz4")


def of_table(folder: Path, table: object) -> list[torch.Tensor]:
    """Tensors of an Arrow table, with the shapes and dtypes of the raw arrays."""
    arrays = []
    for name in table.column_names:  # type: ignore[attr-defined]
        column = table.column(name).combine_chunks()  # type: ignore[attr-defined]
        if hasattr(column, "chunks"):
            column = column.chunk(0)
        width, half = _SHAPES[folder, name]
        if not arrays and hasattr(column, "offsets"):
            arrays.append(np.diff(column.offsets.to_numpy()) // width)
        values = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, width)
        arrays.append(values.view(np.float16) if half else values)
    return tensors(*arrays)


_SHAPES: dict[tuple[Path, str], tuple[int, bool]] = {}


def remember_shapes(folder: Path) -> None:
    """Widths, and which columns are float16, for of_table."""
    for name, array in load(folder).items():
        if name != "starts":
            _SHAPES[folder, name] = (array.shape[1], array.dtype == np.float16)


def arrow_take(folder: Path, seed: int) -> Batches:
    """Plain pyarrow: take from a memory-mapped Arrow file of one record batch, unverified and uncompressed."""
    import pyarrow as pa

    remember_shapes(folder)
    table = pa.ipc.open_file(pa.memory_map(str(folder / "arrow.file"))).read_all()
    for rows in orders(len(table), seed):
        yield of_table(folder, table.take(pa.array(rows)))


def parquet(folder: Path, seed: int) -> Batches:
    """Plain pyarrow: row groups of Parquet, shuffled in windows as large as ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    remember_shapes(folder)
    file = pq.ParquetFile(folder / "labels.parquet")
    rng = np.random.default_rng(seed)
    groups = rng.permutation(file.num_row_groups)
    for first in range(0, len(groups), WINDOW):
        window = file.read_row_groups(groups[first : first + WINDOW].tolist()).combine_chunks()
        order = rng.permutation(len(window))
        for start in range(0, len(order), BATCH):
            yield of_table(folder, window.take(pa.array(order[start : start + BATCH])))


def hf_arrow(folder: Path, seed: int) -> Batches:
    """HF datasets, arrow format, reshaped by hand."""
    import datasets

    remember_shapes(folder)
    dataset = datasets.Dataset.from_file(str(folder / "arrow.stream")).with_format("arrow")
    for rows in orders(len(dataset), seed):
        yield of_table(folder, dataset[rows])


def hf_torch(folder: Path, seed: int) -> Batches:
    """HF datasets, torch format."""
    import datasets

    dataset = datasets.Dataset.from_file(str(folder / "arrow.stream")).with_format("torch")
    for rows in orders(len(dataset), seed):
        yield list(dataset[rows].values())


def write_lance(folder: Path) -> None:
    """A Lance dataset of the same lists."""
    import lance
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(folder / "arrow.file"))).read_all()
    lance.write_dataset(table, str(folder / "labels.lance"), mode="overwrite")


def lance_take(folder: Path, seed: int) -> Batches:
    """Lance: take."""
    import lance

    remember_shapes(folder)
    dataset = lance.dataset(str(folder / "labels.lance"))
    for rows in orders(dataset.count_rows(), seed):
        yield of_table(folder, dataset.take(rows.tolist()))


def write_zarr(folder: Path) -> None:
    """Zarr v3 arrays with our chunks and codec."""
    import zarr

    group = zarr.open_group(folder / "labels.zarr", mode="w")
    for name, array in load(folder).items():
        rows = min(CHUNK, max(512, 2**20 // (array.itemsize * array.shape[1])))
        codec = zarr.codecs.BloscCodec(cname="lz4", clevel=5, typesize=array.itemsize)
        stored = group.create_array(
            name, shape=array.shape, chunks=(rows, array.shape[1]), dtype=array.dtype, compressors=codec
        )
        stored[:] = array


def zarr_windows(folder: Path, seed: int) -> Batches:
    """Plain zarr-python: chunks of 4,096 rows, shuffled in windows as large as ours."""
    import zarr

    group = zarr.open_group(folder / "labels.zarr", mode="r")
    arrays = [group[name] for name in sorted(group.array_keys())]
    rng = np.random.default_rng(seed)
    chunk = min(array.chunks[0] for array in arrays)
    chunks = rng.permutation(-(-arrays[0].shape[0] // chunk))
    for first in range(0, len(chunks), WINDOW):
        parts = [slice(number * chunk, (number + 1) * chunk) for number in chunks[first : first + WINDOW]]
        window = [np.concatenate([array[block] for block in parts]) for array in arrays]
        order = rng.permutation(len(window[0]))
        for start in range(0, len(order), BATCH):
            yield tensors(*(array.take(order[start : start + BATCH], axis=0) for array in window))


def write_webdataset(folder: Path) -> None:
    """A tar with an npz a row."""
    import webdataset

    arrays = load(folder, FEW)
    with webdataset.TarWriter(str(folder / "labels.tar")) as tar:
        for row in range(len(next(iter(arrays.values())))):
            buffer = io.BytesIO()
            np.savez(buffer, **{name: array[row] for name, array in arrays.items()})
            tar.write({"__key__": f"{row:08d}", "npz": buffer.getvalue()})


def webdataset_tar(folder: Path, seed: int) -> Batches:
    """WebDataset: npz in tar, a shuffle buffer of 10,000."""
    import webdataset

    dataset = webdataset.WebDataset(str(folder / "labels.tar"), shardshuffle=False, seed=seed)
    batch: list[dict[str, np.ndarray]] = []
    for sample in dataset.shuffle(10_000, initial=1_000).decode():
        batch.append(sample["npz"])
        if len(batch) == BATCH:
            yield tensors(*(np.stack([row[name] for row in batch]) for name in batch[0]))
            batch = []


def write_litdata(folder: Path) -> None:
    """LitData's chunks, by its writer."""
    from litdata.streaming.writer import BinaryWriter

    arrays = load(folder, FEW)
    target = folder / "litdata"
    target.mkdir()
    writer = BinaryWriter(cache_dir=str(target), chunk_bytes="16MB")
    for row in range(len(next(iter(arrays.values())))):
        writer[row] = {name: array[row] for name, array in arrays.items()}
    writer.done()
    writer.merge()


def litdata_stream(folder: Path, seed: int) -> Batches:
    """LitData: its dataset and loader."""
    import litdata

    dataset = litdata.StreamingDataset(str(folder / "litdata"), shuffle=True, seed=seed, drop_last=False)
    for batch in litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0):
        yield list(batch.values())


READERS: dict[str, Callable[[Path, int], Batches]] = {
    "memory-mapped gather": mapped,
    "pyarrow, take from a mapped Arrow file": arrow_take,
    "pyarrow, Parquet in windows": parquet,
    "HF datasets, arrow format": hf_arrow,
    "HF datasets, torch format": hf_torch,
    "Lance, take": lance_take,
    "zarr-python in windows": zarr_windows,
    "WebDataset": webdataset_tar,
    "LitData": litdata_stream,
}
WRITERS = {"lance": write_lance, "zarr": write_zarr, "webdataset": write_webdataset, "litdata": write_litdata}
"""``write_arrow`` comes before all of them."""


def measure(epoch: Callable[[int], Batches], seconds: float, total: int) -> dict[str, float]:
    """Read epochs of ``total`` rows for some seconds.

    Rows/s and CPU count from opening on; ``later_rows_per_s`` from the second epoch on, where that was reached. Then
    the first batch, and anonymous memory taken.
    """
    before, top = anonymous(), 0.0
    first = rows = second = 0.0
    cpu, began = time.process_time(), time.perf_counter()
    number = batches = 0
    while time.perf_counter() - began < seconds:
        for batch in epoch(number):
            first = first or time.perf_counter() - began
            rows += len(batch[0])
            if not second and rows >= total:
                second, before_second = time.perf_counter(), rows
            # Now and then: asking takes as long as a fast reader's batch, and our stream is one epoch without end.
            if batches % 32 == 0:
                top = max(top, anonymous())
            batches += 1
            if time.perf_counter() - began > seconds:
                break
        number += 1
    ended = time.perf_counter()
    took = ended - began
    later = ended - second > LEAST and second > 0
    return {
        "rows_per_s": rows / took,
        "later_rows_per_s": (rows - before_second) / (ended - second) if later else float("nan"),
        "first_batch_s": first,
        "memory_mib": top - before,
        "cpu_s_per_million": (time.process_time() - cpu) / rows * 1e6,
    }


def anonymous() -> float:
    """This process's own memory in MiB; mapped files do not count."""
    with open("/proc/self/status") as status:  # noqa: PTH123  read every 32 batches
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def main() -> None:
    """``write FORMAT FOLDER`` or ``read READER FOLDER SECONDS``; prints JSON."""
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    verb, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if verb == "write":
        {"arrow": write_arrow, **WRITERS}[name](folder)
        print("{}")
        return
    reader = READERS[name]
    next(reader(folder, 0))  # imports, and whatever a library makes once
    arrays = load(folder)
    total = len(arrays["starts"]) - 1 if "starts" in arrays else len(next(iter(arrays.values())))
    print(json.dumps(measure(lambda seed: reader(folder, seed), float(sys.argv[4]), total)))


if __name__ == "__main__":
    main()
