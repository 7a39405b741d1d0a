"""Keys: an id is its text, ids are unique and present, and equal inputs have equal keys."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels.errors import InvalidArgument
from softlabels.keys import as_keys, content_keys, id_keys, repeated_rows


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=30))
def test_distinct_texts_have_distinct_keys(texts):
    assert len({key.tobytes() for key in id_keys(texts)}) == len(texts)


def test_texts_that_are_equal_as_numbers_are_different_ids():
    texts = ["0123", "123", "1.10", "1.1", "10e2", "1000", "12345678901234567890", "12345678901234567891"]
    assert len({key.tobytes() for key in as_keys(texts)}) == len(texts)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", ""], "row 1: the id is blank"),
        (["a", " "], "row 1: the id is blank"),
        (["a", None], "row 1: expected text, a whole number or a key of 16 bytes, got None"),
        (["a", 1.5], "row 1: .* got 1.5"),
        ([True, False], "row 0: .* got True"),
        ([["a"], ["b"]], r"row 0: .* got \['a'\]"),
        (np.array([1.0, 2.0]), "row 0: expected text"),
        (["b", "a", "b"], "rows 0 and 2 are both 'b'"),
        (["1", 1], "rows 0 and 1 are both '1'"),
        (["\ud800"], "expected Unicode"),
        (np.zeros((2, 4), np.uint8), "expected 16 bytes per row, got 4"),
        ([b"short"], "expected 16 bytes per row"),
    ],
)
def test_ids_are_scalar_present_and_unique(names, message):
    with pytest.raises(InvalidArgument, match=message):
        as_keys(names)


def test_one_id_may_name_several_views():
    views = np.array([0, 1], np.uint32)
    keys = as_keys(["a", "a"], views)
    assert (keys[0] == keys[1]).all()
    with pytest.raises(InvalidArgument, match="must be unique"):
        as_keys(["a", "a"], np.array([1, 1], np.uint32))


def test_keys_are_taken_as_they_are_and_may_repeat():
    keys = content_keys(np.zeros((2, 3))).copy()
    assert as_keys(keys) is keys
    assert (as_keys([key.tobytes() for key in keys]) == keys).all()
    assert (as_keys(torch.from_numpy(keys)) == keys).all()
    assert (as_keys(torch.arange(3)) == id_keys([0, 1, 2])).all()


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(1, 8))
def test_repeated_rows_are_those_of_a_plain_search(values, round_rows):
    keys = id_keys(values)
    rows = repeated_rows(keys, round_rows=round_rows)
    assert (rows is None) == (len({*values}) == len(values))
    if rows is not None:
        assert rows[0] < rows[1]
        assert values[rows[0]] == values[rows[1]]
        assert values[rows[0]] not in values[rows[0] + 1 : rows[1]]
