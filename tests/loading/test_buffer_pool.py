"""Buffers are reused once no array refers to them, and not before."""

import gc
import threading

import numpy as np
import torch

from softlabels.loading.buffer_pool import MAX_BUFFERS, BufferPool


def test_a_buffer_comes_back_with_the_last_view_and_not_before():
    pool = BufferPool()
    first = pool.empty("a", (10, 3), np.float32)
    address = first.ctypes.data
    view = torch.from_numpy(first[2:4].reshape(-1)[1:])
    del first
    gc.collect()
    other = pool.empty("a", (10, 3), np.float32)
    assert other.ctypes.data != address, "a tensor still refers to the first"
    view.fill_(7.0)
    del view
    again = pool.empty("a", (30,), np.float32)
    assert again.ctypes.data == address
    assert again.shape == (30,)
    assert pool.empty("b", (1,), np.uint8).ctypes.data not in {address, other.ctypes.data}


def test_arrays_never_overlap_however_many_are_alive():
    pool = BufferPool()
    pool.empty("a", (4,), np.int64)
    larger = pool.empty("a", (4096,), np.int64)
    larger[:] = np.arange(4096)
    many = [pool.empty("a", (8,), np.int64) for _ in range(MAX_BUFFERS + 5)]
    assert len({array.ctypes.data for array in many}) == MAX_BUFFERS + 5
    for number, array in enumerate(many):
        array[:] = number
    assert (larger == np.arange(4096)).all()
    assert [int(array[0]) for array in many] == list(range(MAX_BUFFERS + 5))


def test_threads_that_share_a_pool_get_arrays_of_their_own():
    pool, overlaps = BufferPool(), []

    def work(number):
        for turn in range(2000):
            array = pool.empty("a", (16,), np.int64)
            array[:] = number * 10**6 + turn
            if not (array == number * 10**6 + turn).all():
                overlaps.append(turn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlaps
