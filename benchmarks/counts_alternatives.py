"""Ways to store labels of vocabularies beside ``counts``, on the logits of benchmarks/real_teacher.py.

    python benchmarks/counts_alternatives.py --model DIRECTORY [--file NAME.gguf] [--positions 4096] [--pilot 12288]

Prints the bytes per token of ``threshold``, ``adaptive`` and ``topk`` as they are and with ids as ranks under the row's
codeword; and for draws along the classes of a position and along the positions of a text the error, the noise of the
summed gradient of the biases over that of independent rows, and the deviation of a row's sum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from real_teacher import WINDOW, fitted, logits_of

from softlabels import encodings
from softlabels.encodings import Codebook, Counts
from softlabels.encodings.families.counts import excess_over
from softlabels.encodings.rank_layout import ranked
from softlabels.labels import Head
from softlabels.planning.container import label_bytes
from softlabels.store.shards.zarr_shard import encode_array

SPECS = ("threshold:0.05", "threshold:0.02", "adaptive:0.02:d4:64", "topk:8:d4:64")
DRAWS = ("counts:12", "counts:20", "counts:12:0")
BLOCK_ROWS = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--file", help="name of a GGUF file in the directory")
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--pilot", type=int, default=12_288)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logits = logits_of(options.model, options.file, 2 * -(-max(options.positions, options.pilot) // WINDOW))
    blocks = np.arange(len(logits)).reshape(-1, WINDOW)
    pilot, measured = blocks[::2].ravel()[: options.pilot], blocks[1::2].ravel()[: options.positions]
    _, book = fitted("counts:20", logits, pilot)
    assert book is not None
    print("| encoding | bytes per token | with ranks |\n|---|---:|---:|")
    for spec in SPECS:
        plain, as_ranks = sizes(logits, pilot, measured, book, spec)
        print(f"| `{spec}` | {plain:.1f} | {as_ranks:.1f} |", flush=True)
    print("| draws | along | error | noise of the sum | deviation of row sums |\n|---|---|---:|---:|---:|")
    for spec in DRAWS:
        for along, figures in drawn(logits, measured, book, spec).items():
            print(f"| `{spec}` | {along} | {figures[0]:.1e} | {figures[1]:.2f} | {figures[2]:.3f} |", flush=True)


def sizes(
    logits: NDArray[np.float16], pilot: NDArray[np.int64], measured: NDArray[np.int64], book: Codebook, spec: str
) -> tuple[float, float]:
    """Return the bytes per token as they are, and with ids as ranks and values in their order."""
    head, own = fitted(spec, logits, pilot)
    encoding = encodings.parse(spec, classes=head.classes)
    encoded, codewords = [], []
    for rows in np.array_split(measured, max(1, len(measured) // BLOCK_ROWS)):
        values = torch.from_numpy(logits[rows].astype(np.float32))
        encoded.append(encoding.encode(values, head, rows, codebook=own).arrays)
        codewords.append(book.nearest_to(values.softmax(dim=-1)))
    columns = {name: np.concatenate([arrays[name] for arrays in encoded]) for name in encoded[0]}
    prior, ids = np.concatenate(codewords), columns["ids"].reshape(-1).astype(np.int64)
    counts = np.full(len(measured), columns["ids"].shape[1]) if "count" not in columns else columns["count"]
    counts = counts.astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    ranks = book.ranks[prior[row], ids].astype(np.int64)
    order = np.argsort(row * head.classes + ranks)
    streams = [prior]
    places = ranked(row[order], ranks[order], np.ones(len(ids), np.int64), rows=len(counts))
    streams += [values for name, values in places.items() if not name.endswith("draws")]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    if "codes" in columns:
        # 255 stands for a class that was drawn, which has no code.
        codes = np.full(len(ids), 255)
        codes[np.arange(len(ids)) - starts < np.repeat(columns["listed"].astype(np.int64), counts)] = columns["codes"]
        streams.append(codes[order])
    else:
        down = np.cumsum(columns["steps"].reshape(-1), dtype=np.int64)
        streams += [np.minimum(down - down[starts], 255)[order], columns["tail"]]
    size = sum(
        len(encode_array(values if values.dtype == np.float16 else values.astype(np.uint8), "zstd", packed=True))
        for values in streams
    )
    flat = Head(encoding=head.encoding, classes=head.classes)
    plain = label_bytes(flat, columns, len(measured), codec="zstd", shard_format="zarr")
    return plain / len(measured), size / len(measured)


def drawn(
    logits: NDArray[np.float16], measured: NDArray[np.int64], book: Codebook, spec: str
) -> dict[str, NDArray[np.float64]]:
    """Return error, noise of the sum over a text, and deviation of row sums, by the axis that draws are made along."""
    encoding = encodings.parse(spec, classes=logits.shape[1])
    assert isinstance(encoding, Counts)
    random = np.random.default_rng(0)
    sums = {"classes": np.zeros(3), "positions": np.zeros(3)}
    for rows in measured.reshape(-1, WINDOW):
        values = torch.from_numpy(logits[rows].astype(np.float32)).softmax(dim=-1)
        p, pi = values.double().numpy(), book.priors[0][book.nearest_to(values)]
        above = np.where(p >= encoding.floor, p, 0.0)
        excess = excess_over(above, np.where(above > 0, pi, 0.0), 1 - above.sum(axis=1)) if encoding.floor else p
        excess = excess[:, (excess > 0).any(axis=0)]
        for axis, name in enumerate(("positions", "classes")):
            offsets = np.expand_dims(random.random(excess.shape[1 - axis]), axis)
            crossed = np.floor(encoding.draws * np.cumsum(excess, axis=axis) + offsets)
            noise = np.diff(crossed, axis=axis, prepend=0) / encoding.draws - excess
            sums[name] += (noise**2).sum(), (noise.sum(axis=0) ** 2).sum(), (noise.sum(axis=1) ** 2).sum()
    return {
        name: np.array([error / len(measured), total / error, np.sqrt(row_sums / len(measured))])
        for name, (error, total, row_sums) in sums.items()
    }


if __name__ == "__main__":
    main()
