"""Stores at the bounds of the format, and the memory that reading them takes in a process of its own.

    python -m tests.store.limit_cases CASE FOLDER

reads the store that ``make(CASE, FOLDER)`` wrote and prints the growth of the process in bytes.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import softlabels as sl
from softlabels.encodings import Codebook
from softlabels.errors import SoftLabelsError
from softlabels.labels import Head
from softlabels.store import Descriptor, create_or_open
from softlabels.store.format.codebooks import digest_of
from softlabels.store.format.limits import MAX_CHUNK_BYTES, decoded_bytes
from tests.corpus import forging

Columns = dict[str, np.ndarray]


def _dense(encoding: str, classes: int, rows: int) -> tuple[Head, int, Columns]:
    kind = encoding.partition(":")[2]
    shape = (rows, classes)
    columns: Columns = {
        "f16": {"values": np.zeros(shape, np.float16)},
        "f32": {"values": np.zeros(shape, np.float32)},
        "bf16": {"values_bf16": np.zeros(shape, np.uint16)},
        "q8": {
            "codes": np.zeros(shape, np.uint8),
            "scale": np.ones(rows, np.float32),
            "offset": np.zeros(rows, np.float32),
        },
    }[kind]
    return Head(encoding=encoding, classes=classes), rows, columns


def _listed(encoding: str, counts: np.ndarray, lengths: np.ndarray | None = None) -> tuple[Head, int, Columns]:
    """Rows, or positions of ragged rows, that list as many classes as ``counts`` says."""
    items, total, classes = len(counts), int(counts.sum()), 2**16
    starts = np.cumsum(counts) - counts
    ids = (np.arange(total) - np.repeat(starts, counts)).astype(np.uint16)
    columns: Columns = {"count": counts.astype(np.uint16), "ids": ids}
    name = encoding.partition(":")[0]
    if name == "topk":
        width = int(counts[0])
        columns = {"ids": ids.reshape(items, width), "values": np.full((items, width), -12, np.float16)}
    if name == "adaptive":
        columns["values"] = np.full(total, -12, np.float16)
    if name == "threshold":
        # One class with all of the probability, or 50,000 drawn ones of 2e-5: weights of a row sum to 1.
        single = counts == 1
        columns |= {"listed": single.astype(np.uint16), "codes": np.zeros(int(single.sum()), np.uint8)}
        columns["dither"] = np.arange(items, dtype=np.uint32)
    else:
        columns["tail"] = np.full((items, 1), -2, np.float32)
    if lengths is None:
        return Head(encoding=encoding, classes=classes), items, columns
    columns["length"] = lengths.astype(np.uint32)
    return Head(encoding=encoding, classes=classes, kind="tokens", shape=(None,)), len(lengths), columns


BOOK = Codebook(np.full((1, 2, 300), 1 / 300, np.float32))


def _counts(rows: int, entries: int) -> tuple[Head, int, Columns]:
    """Rows of near entries alone, each of one draw."""
    gaps = np.zeros(rows * entries, np.uint8)
    columns: Columns = {"prior": np.zeros(rows, np.uint8), "near": np.full(rows, entries, np.uint8),
                        "near_gaps": gaps, "near_draws": gaps, "far": np.zeros(rows, np.uint8),
                        "far_blocks": gaps[:0], "far_offsets": gaps[:0], "far_draws": gaps[:0]}  # fmt: skip
    return Head(encoding="counts:255:0.01:2", classes=300, codebook=digest_of(BOOK)), rows, columns


def _uneven(items: int, widest: int = 65_535) -> np.ndarray:
    return np.where(np.arange(items) == 0, widest, 1)


Case = Callable[[int], tuple[Head, int, Columns]]
CHUNKS: dict[str, Case] = {
    "dense f16, one row": lambda n: _dense("dense:f16", n, 1),
    "dense bf16, one row": lambda n: _dense("dense:bf16", n, 1),
    "dense q8, one row": lambda n: _dense("dense:q8", n, 1),
    "dense f32, one row": lambda n: _dense("dense:f32", n, 1),
    "dense f16, many rows": lambda n: _dense("dense:f16", 1, n),
    "dense q8, many rows": lambda n: _dense("dense:q8", 10, n),
    "topk, many rows": lambda n: _listed("topk:1:f16", np.ones(n, np.int64)),
    "topk, wide rows": lambda n: _listed("topk:10000:f16", np.full(n, 10_000)),
    "topk, empty rows": lambda n: _listed("topk:1:f16", np.ones(1, np.int64), np.arange(n) == 0),
    "topk, one long row": lambda n: _listed("topk:1:f16", np.ones(n, np.int64), np.array([n])),
    "adaptive, many rows": lambda n: _listed("adaptive:0.1:f16", np.ones(n, np.int64)),
    "adaptive, wide rows": lambda n: _listed("adaptive:0.1:f16", np.full(n, 65_535)),
    "adaptive, one wide row": lambda n: _listed("adaptive:0.1:f16", _uneven(n)),
    "adaptive, one long row": lambda n: _listed("adaptive:0.1:f16", np.ones(n, np.int64), np.array([n])),
    "counts, empty rows": lambda n: _counts(n, 0),
    "counts, full rows": lambda n: _counts(n, 255),
    "threshold, one long row": lambda n: _listed("threshold:0.05", np.ones(n, np.int64), np.array([n])),
    "threshold, one wide row": lambda n: _listed("threshold:2e-05", _uneven(n, 50_000)),
}
"""Chunks of n rows, positions or classes."""


def _columns(case: str, shard_format: str, n: int) -> tuple[Descriptor, Columns]:
    head, rows, arrays = CHUNKS[case](n)
    keys = np.zeros((rows, 16), np.uint8)
    keys[:, :4] = np.arange(rows, dtype="<u4").view(np.uint8).reshape(-1, 4)
    columns = {"key": keys, "view": np.zeros(rows, np.uint32)}
    columns |= {f"logits/{name}": array for name, array in arrays.items()}
    descriptor = forging.descriptor(
        f"topk-{shard_format}", heads={"logits": head}, rows=rows, unit_rows=rows, chunk_rows=rows
    )
    return descriptor, {
        name: columns[name].astype(column.dtype, copy=False) for name, column in descriptor.columns().items()
    }


def _size(descriptor: Descriptor, columns: Columns) -> int:
    form = descriptor.shard_format
    return sum(decoded_bytes(column, len(columns[name]), form) for name, column in descriptor.columns().items())


def make_chunk(case: str, shard_format: str, root: Path) -> float:
    """Write a store of one chunk as large as the format allows; returns its share of MAX_CHUNK_BYTES."""
    two, four = (_size(*_columns(case, shard_format, n)) for n in (2, 4))
    descriptor, columns = _columns(case, shard_format, (MAX_CHUNK_BYTES - two) // ((four - two) // 2) + 2)
    with_codebook = descriptor.heads["logits"].codebook is not None
    store = create_or_open(root, descriptor, {"logits": BOOK} if with_codebook else None)
    with store.begin(0) as writer:
        writer.append(columns)
        assert writer.commit()
    sl.seal(root)
    return _size(descriptor, columns) / MAX_CHUNK_BYTES


def read_chunk(root: Path) -> None:
    """Read the one chunk of a store, and check its values."""
    sl.open(root).read_chunk(0)


def open_and_list(root: Path) -> None:
    """Open a store and count its chunks."""
    sl.open(root).chunk_rows()


def verify(root: Path) -> None:
    """Verify a store and print its problems."""
    for problem in sl.verify(root).bad:
        print(problem.problem)


READERS: dict[str, Callable[[Path], object]] = {
    "read_chunk": read_chunk,
    "open": open_and_list,
    "seal": sl.seal,
    "verify": verify,
}


def growth(reader: str, root: Path, warm: Path) -> tuple[int, str]:
    """Return the growth in bytes of a process that reads ``root``, and what it printed before.

    Args:
        reader: One of READERS.
        root: The store to read.
        warm: A small store, read first so that everything is imported.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.limit_cases", reader, root, warm],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    said, _, last = done.stdout.rstrip().rpartition("\n")
    return int(last), said


def _resident(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main(reader: str, root: str, warm: str) -> None:
    """Read a small store, then the large one, and print the growth between."""
    with contextlib.suppress(SoftLabelsError):
        READERS[reader](Path(warm))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    try:
        READERS[reader](Path(root))
    except SoftLabelsError as error:
        print(error)
    print(_resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
