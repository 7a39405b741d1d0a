"""Stores for the loader's tests, written by the real writer, and the order as lists."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import softlabels as sl
from softlabels.encodings import parse
from softlabels.labels import Head
from softlabels.loading.chunks.arena import START_BYTES
from softlabels.sources import id_keys
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open, seal


def write_store(
    root: Path, logits, *, head=None, keys=None, views=None, unit_rows=200, chunk_rows=64, fingerprint="f", **descriptor
):
    """A sealed store of (n, C) logits, or of a list of (length, C) ones for ragged rows."""
    head = head or Head(encoding="topk:4:f16", classes=logits[0].shape[-1], temperatures=(1.0, 2.0))
    rows = len(logits)
    head = replace(head, encoding=parse(head.encoding, classes=head.classes).spec)
    store = create_or_open(
        root,
        Descriptor(
            rows=rows, unit_rows=unit_rows, chunk_rows=chunk_rows, heads={"logits": head},
            teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint=fingerprint, rows=rows),
            **descriptor,
        ),
    )  # fmt: skip
    keys = id_keys(range(rows)) if keys is None else keys
    views = np.zeros(rows, np.uint32) if views is None else np.asarray(views, np.uint32)
    for unit in range(store.descriptor.units):
        rows_of_unit = store.descriptor.unit_range(unit)
        rows_of_unit = slice(rows_of_unit.start, rows_of_unit.stop)
        columns = encode(logits[rows_of_unit], head)
        with store.begin(unit) as writer:
            writer.append({"key": keys[rows_of_unit], "view": views[rows_of_unit]} | columns)
            writer.commit()
    seal(root)
    return sl.open(root)


def encode(logits, head):
    """The columns of some rows."""
    columns = {}
    if head.ragged:
        columns["logits/length"] = np.array([len(row) for row in logits], np.uint32)
        logits = np.concatenate(list(logits))
    encoding = parse(head.encoding, classes=head.classes)
    encoded = encoding.encode(torch.as_tensor(np.asarray(logits)), head, np.arange(len(logits)))
    return columns | {f"logits/{name}": array for name, array in encoded.arrays.items()}


def random_logits(rows, classes=20, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (rows, classes)).astype(np.float32)


def memory_for(store, window):
    """Bytes that hold one window of a store, but not two windows of its largest chunks."""
    columns = {name: store.descriptor.columns()[name] for name in store.head_columns("logits")}
    counts = {column.per for column in columns.values()} - {None}
    plain = sum(column.entry_bytes + START_BYTES * (name in counts)
                for name, column in columns.items() if column.per is None)  # fmt: skip
    total = window * store.descriptor.chunk_rows * plain
    if counts:
        total += sum(sorted(ragged_bytes(store, chunk, columns, counts) for chunk in range(store.chunks))[-window:])
    return total


def ragged_bytes(store, chunk, columns, counts):
    """Bytes of the ragged columns of one chunk in an arena."""
    arrays = store.read_chunk(chunk, list(columns))
    return sum(
        array.nbytes + START_BYTES * len(array) * (name in counts)
        for name, array in arrays.items()
        if columns[name].per is not None
    )


def reference_order(counts, seed, epoch, window):
    """The order as docs/adr/0004 words it, with lists: permuted chunks, windows of them shuffled."""
    starts = [sum(counts[:i]) for i in range(len(counts))]
    used = [chunk for chunk in range(len(counts)) if counts[chunk]]
    chunks = [used[i] for i in reference_permutation(len(used), seed, epoch, 0, 0)]
    order = []
    for number, first in enumerate(range(0, len(chunks), window)):
        items = [starts[c] + i for c in chunks[first : first + window] for i in range(counts[c])]
        order += [items[i] for i in reference_permutation(len(items), seed, epoch, 1, number)]
    return order


def reference_permutation(count, seed, epoch, stream, number):
    words = np.random.Philox(np.random.SeedSequence((seed % 2**64, epoch, stream, number))).random_raw(count)
    return sorted(range(count), key=lambda i: (int(words[i]), i))
