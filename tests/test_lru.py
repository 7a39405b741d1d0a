"""The least recently used entries leave first, by number or by size, and the last one stays."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.lru import LruCache

OPERATIONS = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 9)), max_size=60)


@given(operations=OPERATIONS, limit=st.integers(0, 20))
def test_a_list_in_the_order_of_use_holds_the_same_entries(operations, limit):
    cache, model = LruCache(limit, int), []
    for key, size in operations:
        if size is None:
            expected = next((value for name, value in model if name == key), None)
            assert cache.get(key) == expected
            model.sort(key=lambda entry: entry[0] == key)
        else:
            cache.put(key, size)
            model = [entry for entry in model if entry[0] != key] + [(key, size)]
            while sum(value for _, value in model) > limit and len(model) > 1:
                model.pop(0)
        assert len(cache) == len(model)
    assert [cache.get(key) for key, _ in model] == [value for _, value in model]


def test_entries_count_one_without_a_size():
    cache = LruCache(2)
    for key in range(5):
        cache.put(key, -key)
    assert [cache.get(key) for key in range(5)] == [None, None, None, -3, -4]


@pytest.fixture
def _eager_threads():
    """Let threads take turns after a microsecond."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_eager_threads")
@pytest.mark.parametrize("size_of", [None, lambda _: 1])
def test_threads_may_put_at_once(size_of):
    cache = LruCache(3, size_of)

    def put_many(seed):
        for key in np.random.default_rng(seed).integers(0, 4, 20_000).tolist():
            cache.put(key, key)
            assert cache.get(key) in {None, key}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put_many, range(4)))
    for key in range(10, 14):
        cache.put(key, key)
    assert [cache.get(key) for key in range(10, 14)] == [None, 11, 12, 13]
