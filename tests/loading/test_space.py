"""Decoded chunks in slots give back the rows that were put, plain and ragged, in whatever order they came."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels.columns import ranges
from softlabels.encodings import Column
from softlabels.loading.buffer_pool import MOST, BufferPool
from softlabels.loading.chunks.arena import ChunkArena

SCHEMA = {
    "length": Column("uint32"),
    "count": Column("uint16", per="length"),
    "ids": Column("uint8", per="count"),
    "tail": Column("float16", (2,), per="length"),
    "view": Column("uint32"),
}
ROOM = 4

chunks_of_rows = st.lists(
    st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=ROOM), min_size=1, max_size=6
)
"""By chunk, by row, by position: how many entries."""


def columns_of(rows, rng):
    """A chunk of rows, each a list of counts, with values of its own."""
    counts = [count for row in rows for count in row]
    return {
        "length": np.array([len(row) for row in rows], np.uint32),
        "count": np.array(counts, np.uint16),
        "ids": rng.integers(0, 256, sum(counts), np.uint8),
        "tail": rng.normal(size=(len(counts), 2)).astype(np.float16),
        "view": rng.integers(0, 2**32, len(rows), np.uint32),
    }


def rows_as_lists(columns):
    """Each row as (positions, view): a position is its entries and its tail."""
    found, position, entry = [], 0, 0
    for row, length in enumerate(columns["length"].tolist()):
        positions = []
        for _ in range(length):
            count = int(columns["count"][position])
            positions.append((columns["ids"][entry : entry + count].tolist(), columns["tail"][position].tolist()))
            position, entry = position + 1, entry + count
        found.append((positions, int(columns["view"][row])))
    assert (position, entry) == (len(columns["count"]), len(columns["ids"]))
    return found


@given(chunks_of_rows, st.randoms(use_true_random=False), st.integers(0, 2**32), st.sampled_from([1, 2**40]))
@settings(max_examples=150, deadline=None)
def test_rows_are_those_of_their_chunks(chunks, random, seed, most):
    """Chunks in any slots and any order, twice after clearing, once more put in vain; rows repeated and left out."""
    rng = np.random.default_rng(seed)
    space = ChunkArena(SCHEMA, len(chunks) + 1, ROOM, most)
    memory = BufferPool()
    for _ in range(2):
        space.clear()
        slots = random.sample(range(space.slots), len(chunks))
        made = [columns_of(rows, rng) for rows in chunks]
        for number in random.sample(range(len(chunks)), len(chunks)):
            for name, part in space.slot(slots[number]).items():
                part[: len(made[number][name])] = made[number][name]
            for _ in range(2):
                space.put(slots[number], made[number])
        assert space.held.sum() == len(chunks)
        places = [(number, row) for number, rows in enumerate(chunks) for row in range(len(rows))]
        wanted = [random.choice(places) for _ in range(random.randrange(2 * len(places)))]
        found = space.take(np.array([slots[number] * ROOM + row for number, row in wanted], np.int64), memory)
        expected = [rows_as_lists(columns) for columns in made]
        assert rows_as_lists(found) == [expected[number][row] for number, row in wanted]
        assert {name: array.dtype for name, array in found.items()} == {
            name: np.dtype(column.dtype) for name, column in SCHEMA.items()
        }


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 5))))
def test_ranges_are_those_of_lists(parts):
    starts, lengths = (np.array([part[at] for part in parts], np.int64) for at in (0, 1))
    expected = [number for start, length in parts for number in range(start, start + length)]
    assert ranges(starts, lengths).tolist() == expected
    memory = np.full(len(expected), -1)
    assert ranges(starts, lengths, memory) is memory
    assert memory.tolist() == expected


def test_memory_comes_back_with_the_last_view_and_not_before():
    memory = BufferPool()
    first = memory.empty("a", (10, 3), np.dtype(np.float32))
    address = first.ctypes.data
    part = torch.from_numpy(first[2:4].reshape(-1)[1:])
    del first
    gc.collect()
    other = memory.empty("a", (10, 3), np.dtype(np.float32))
    assert other.ctypes.data != address, "a tensor still looks at the first"
    part.fill_(7.0)
    del part
    again = memory.empty("a", (30,), np.dtype(np.float32))
    assert again.ctypes.data == address
    assert again.shape == (30,)
    assert memory.empty("b", (1,), np.dtype(np.uint8)).ctypes.data not in {address, other.ctypes.data}


def test_memory_that_is_too_small_is_replaced_and_little_is_kept():
    memory = BufferPool()
    memory.empty("a", (4,), np.dtype(np.int64))
    larger = memory.empty("a", (4096,), np.dtype(np.int64))
    larger[:] = np.arange(4096)
    many = [memory.empty("a", (8,), np.dtype(np.int64)) for _ in range(MOST + 5)]
    assert len({array.ctypes.data for array in many}) == MOST + 5
    assert (larger == np.arange(4096)).all()
    del many
    assert len(memory._free["a"]) == MOST


def test_memory_that_is_not_there_is_said_to_be_missing():
    with pytest.raises(MemoryError, match=r"no 4,611,686,018,427,387,904 bytes .* grant less by memory="):
        ChunkArena({"a": Column("float32", (2**30,))}, 2**20, 2**10)
