"""Results that threads compute ahead: in order, bounded, and given up when nobody takes them."""

import threading
from itertools import count, islice

import pytest

from softlabels.store.read_ahead import map_ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_an_error_in_its_place(threads):
    def invert(number):
        return 1 / number

    results = map_ahead(threads, invert, [1, 2, 4, 0, 5])
    assert list(islice(results, 3)) == [1, 0.5, 0.25]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (3, 3)])
def test_no_more_than_one_result_a_thread_is_computed_ahead(threads, ahead):
    begun, lock = [], threading.Lock()

    def begin(number):
        with lock:
            begun.append(number)
        return number

    results = map_ahead(threads, begin, count())
    assert list(islice(results, 10)) == list(range(10))
    results.close()
    assert len(begun) <= 10 + ahead
    assert sorted(begun) == list(range(len(begun)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("softlabels-ahead")]
