"""``sl.plan``: the table of the command line, for a store and for a teacher over data."""

import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument


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
