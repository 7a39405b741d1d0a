"""Cost of labelling text: tokens/s of ``generate`` over the bare forward pass, and peak memory of long sequences.

    python benchmarks/language.py [--classes 32000] [--rows 48] [--length 256] [--long]

Both runs see the same random network (random weights cost what trained ones do) and the same packed rows in the same
batches. Each is repeated, in turns, and the best times count, because other processes share the machine. The ratio of
CPU times is printed too: it does not change with the load, and is what one core alone would take. ``--long`` labels one
row of 8,192 tokens with 128,000 classes in a process of its own, and prints by how much its memory grew while it
labelled.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from softlabels import models
from softlabels.generation import generate
from softlabels.models import Model, OutputHead
from softlabels.sources.protocol import Columns
from softlabels.sources.text_source import TextSource
from softlabels.text import Tokenizer
from softlabels.text.options import TextOptions

ENCODINGS = ("topk:32", "threshold:0.05")
REPEATS = 3
LONG_TOKENS, LONG_CLASSES = 8192, 128_000
WORDS = 5000


def text_of(tokens: int, pack: int) -> TextSource:
    """Return packed rows of about as many tokens of random words."""
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(WORDS)]
    tokenizer = Tokenizer.train([" ".join(words)], vocabulary=2000)
    text = " ".join(words[index] for index in generator.integers(0, WORDS, tokens))
    ids = tokenizer.encode([text])[0][:tokens]
    options = TextOptions(tokenizer=tokenizer, pack=pack)

    def encode(documents: object, first: int) -> list[tuple[np.ndarray, None]]:
        return [(ids, None)]

    return TextSource("random words", lambda: iter([[text]]), encode, tokenizer, options, Columns(inputs=("text",)))


def network(classes: int, layers: int, width: int) -> Model:
    """Return a network with random weights."""
    heads = {"logits": OutputHead(classes=classes, kind="tokens", shape=(None,))}
    return models.build(f"gpt:layers={layers},width={width}", input_shape=(), heads=heads)


def bare(model: Model, source: TextSource, rows_per_batch: int) -> tuple[float, float]:
    """Return the seconds of the forward passes alone, and their CPU seconds."""
    began, cpu_began = time.perf_counter(), time.process_time()
    for start in range(0, len(source), rows_per_batch):
        model.predict_sliced(source.inputs(np.arange(start, min(start + rows_per_batch, len(source)))))
    return time.perf_counter() - began, time.process_time() - cpu_began


def labelled(model: Model, source: TextSource, rows_per_batch: int, encoding: str) -> tuple[float, float]:
    """Return the seconds of ``generate`` beside what starts it, and all of its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out, cpu_began = Path(folder) / "labels", time.process_time()
        result = generate(source, teacher=model, out=out, encoding=encoding, batch_size=rows_per_batch, gate=False)
        return result.seconds, time.process_time() - cpu_began


def speed(classes: int, rows: int, length: int) -> None:
    """Print tokens/s of both."""
    source, model = text_of(rows * length, length), network(classes, 6, 384)
    rows_per_batch = 4
    bare(model, source, rows_per_batch)
    for encoding in ENCODINGS:
        times = [(*bare(model, source, rows_per_batch), *labelled(model, source, rows_per_batch, encoding))
                 for _ in range(REPEATS)]  # fmt: skip
        forward, forward_cpu, total, total_cpu = (min(column) for column in zip(*times, strict=True))
        names = f"{classes:,} classes, {source.tokens:,} tokens, {encoding}"
        rates = f"forward {source.tokens / forward:,.0f} tokens/s, generate {source.tokens / total:,.0f} tokens/s"
        ratios = f"ratio {total / forward:.3f}, of CPU times {total_cpu / forward_cpu:.3f}"
        print(f"{names}: {rates}, {ratios}", flush=True)


def long() -> None:
    """Label one long row and print the growth of the peak memory."""
    source, model = text_of(LONG_TOKENS, LONG_TOKENS), network(LONG_CLASSES, 2, 128)
    for encoding in ENCODINGS:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, _ = labelled(model, source, 1, encoding)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        full = 4 * LONG_TOKENS * LONG_CLASSES / 2**20
        growth = f"peak memory grew by {(after - before) / 1024:,.0f} MiB in {seconds:.0f} s"
        print(f"{LONG_TOKENS:,} tokens, {LONG_CLASSES:,} classes, {encoding}: {growth} (all logits: {full:,.0f} MiB)")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--long-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.long_alone:
        long()
        return
    speed(options.classes, options.rows, options.length)
    if options.long:
        subprocess.run([sys.executable, __file__, "--long-alone"], check=True)


if __name__ == "__main__":
    main()
