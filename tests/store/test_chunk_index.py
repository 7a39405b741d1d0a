"""Positions of rows in chunks, against a list of all rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from softlabels.store.chunk_index import ChunkIndex


@given(unit_rows=st.lists(st.integers(1, 30), min_size=1, max_size=12), chunk_rows=st.integers(1, 12))
def test_every_row_is_found_in_its_chunk(unit_rows, chunk_rows):
    index = ChunkIndex(np.array(unit_rows), chunk_rows)
    expected = [
        (unit, chunk, offset)
        for unit, rows in enumerate(unit_rows)
        for chunk, start in enumerate(range(0, rows, chunk_rows))
        for offset in range(min(chunk_rows, rows - start))
    ]
    chunks, offsets = index.locate(np.arange(sum(unit_rows)))
    located = [(*index.unit_of(int(chunk)), int(offset)) for chunk, offset in zip(chunks, offsets, strict=True)]
    assert located == expected
    assert len(index) == len({position[:2] for position in expected})
    assert index.sizes.tolist() == np.bincount(chunks).tolist()
    assert index.starts.tolist() == [0, *np.cumsum(index.sizes).tolist()]


def test_rows_may_come_in_any_order_and_more_than_once():
    chunks, offsets = ChunkIndex(np.array([5, 4]), 2).locate(np.array([8, 0, 8], np.uint32))
    assert (chunks.tolist(), offsets.tolist()) == ([4, 0, 4], [1, 0, 1])


def test_no_rows_are_located_nowhere():
    chunks, offsets = ChunkIndex(np.array([5]), 2).locate(np.empty(0, np.int64))
    assert (len(chunks), len(offsets)) == (0, 0)
