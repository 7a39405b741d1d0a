"""Rows gathered from an arena are those of its chunks, plain and ragged, whatever was stored and released before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels.columns import ranges
from softlabels.encodings import Column
from softlabels.loading.buffer_pool import BufferPool
from softlabels.loading.chunks.arena import ChunkArena, Heap

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
    rows, position, entry = [], 0, 0
    for row, length in enumerate(columns["length"].tolist()):
        positions = []
        for _ in range(length):
            count = int(columns["count"][position])
            positions.append((columns["ids"][entry : entry + count].tolist(), columns["tail"][position].tolist()))
            position, entry = position + 1, entry + count
        rows.append((positions, int(columns["view"][row])))
    assert (position, entry) == (len(columns["count"]), len(columns["ids"]))
    return rows


@given(chunks_of_rows, st.randoms(use_true_random=False), st.integers(0, 2**32), st.sampled_from([1, 2**40]))
@settings(max_examples=100, deadline=None)
def test_rows_are_those_of_their_chunks(chunks, random, seed, memory):
    """Chunks in any slots and any order; half of them are released and replaced; rows repeated and left out."""
    rng = np.random.default_rng(seed)
    arena = ChunkArena(SCHEMA, len(chunks) + 1, ROOM, memory)
    pool = BufferPool()
    slots = random.sample(range(arena.slots), len(chunks))
    columns = [columns_of(rows, rng) for rows in chunks]
    for turn in range(3):
        for number in random.sample(range(len(chunks)), len(chunks)):
            if turn and random.random() < 0.5:
                continue
            arena.release(slots[number])
            columns[number] = columns_of(chunks[number], rng)
            for name, buffer in arena.buffers(slots[number]).items():
                buffer[: len(columns[number][name])] = columns[number][name]
            arena.reserve(slots[number], columns[number])
            arena.fill(slots[number], columns[number])
        places = [(number, row) for number, rows in enumerate(chunks) for row in range(len(rows))]
        requested = [random.choice(places) for _ in range(random.randrange(2 * len(places)))]
        gathered = arena.gather(np.array([slots[number] * ROOM + row for number, row in requested], np.int64), pool)
        expected = [rows_as_lists(one) for one in columns]
        assert rows_as_lists(gathered) == [expected[number][row] for number, row in requested]
        assert {name: array.dtype for name, array in gathered.items()} == {
            name: np.dtype(column.dtype) for name, column in SCHEMA.items()
        }
    assert arena.bytes >= arena.bytes_in_use
    for slot in slots:
        arena.release(slot)
    assert arena.bytes == arena.bytes_in_use == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_extents_of_a_heap_never_overlap(steps):
    """Allocations and releases in any order; the end is where the last extent ends."""
    heap, extents = Heap(), []
    for allocates, value in steps:
        if allocates or not extents:
            start = heap.allocate(value)
            extents.append((start, value))
        else:
            heap.release(*extents.pop(value % len(extents)))
        entries = [entry for start, count in extents for entry in range(start, start + count)]
        assert len(set(entries)) == len(entries) == heap.used
        assert heap.end == max(entries, default=-1) + 1


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 5))))
def test_ranges_are_those_of_lists(pairs):
    starts, lengths = (np.array([pair[index] for pair in pairs], np.int64) for index in (0, 1))
    expected = [number for start, length in pairs for number in range(start, start + length)]
    assert ranges(starts, lengths).tolist() == expected
    memory = np.full(len(expected), -1)
    assert ranges(starts, lengths, memory) is memory
    assert memory.tolist() == expected


def test_memory_that_the_system_refuses_is_an_error():
    with pytest.raises(
        MemoryError, match=r"no memory, got .* for 4,611,686,018,427,387,904 bytes. Use a smaller memory="
    ):
        ChunkArena({"a": Column("float32", (2**30,))}, 2**20, 2**10, 0)
