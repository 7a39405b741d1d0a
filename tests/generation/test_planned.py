"""``sl.plan``: the table of the command line, for a store and for a teacher over data."""

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreCorrupt


def test_a_store_and_its_teacher_give_a_table(sealed, teacher):
    """The dense rows of the store, or predictions for rows of the data."""
    of_store = sl.plan(sealed)
    of_teacher = sl.plan("digits", teacher=teacher, sampled=256)
    assert of_teacher.sampled == 256
    assert {"topk:4:f16", "topk:4:d4"} & {row.encoding for row in of_store.rows}
    assert [row.bytes_per_row for row in of_teacher.rows] == sorted(row.bytes_per_row for row in of_teacher.rows)


def test_rows_scale_the_total(sealed):
    small, large = sl.plan(sealed, rows=10_000), sl.plan(sealed, rows=1_000_000)
    assert small.rows[0].bytes_total < large.rows[0].bytes_total / 50


def test_an_unknown_head_is_an_error(sealed):
    with pytest.raises(InvalidArgument):
        sl.plan(sealed, head="other")


def test_the_layout_of_a_store_can_be_replaced(sealed):
    """A store has its own by default."""
    own, lists = sl.plan(sealed), sl.plan(sealed, shard_format="parquet", unit_rows=100)
    assert (lists.sample.shard_format, lists.sample.unit_rows) == ("parquet", 100)
    assert own.rows[0].units < lists.rows[0].units


def test_a_digest_is_that_of_a_store(sealed, teacher):
    digest = sl.open(sealed).snapshot.digest
    assert sl.plan(sealed, digest=digest).sampled > 0
    with pytest.raises(StoreCorrupt):
        sl.plan(sealed, digest="0" * 64)
    with pytest.raises(InvalidArgument, match="digest: is for a store"):
        sl.plan("digits", teacher=teacher, digest=digest)


def test_columns_and_settings_of_a_teacher_are_those_of_generate(teacher):
    data = {"first": np.zeros((64, 8, 8), np.uint8), "second": np.arange(64 * 64, dtype=np.uint8).reshape(64, 8, 8)}
    table = sl.plan(data, teacher=teacher, input="second", codec="lz4", batch_size=16)
    assert (table.sampled, table.sample.codec) == (64, "lz4")
    assert table.entropy != sl.plan(data, teacher=teacher, input="first").entropy
