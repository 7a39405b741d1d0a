"""Iterators end without waiting for their threads, wherever they are dropped."""

import gc
import signal
import subprocess
import sys
import threading
import time

import pytest

from softlabels.loading.chunks.threads import prefetch
from tests.loading.stores import random_logits, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("threads") / "s", random_logits(300), unit_rows=100, chunk_rows=32)


def numbers(count, closed, error=None):
    try:
        yield from range(count)
        if error is not None:
            raise error
    finally:
        closed.set()


@pytest.mark.parametrize("group", [1, 3, 100])
def test_items_come_in_order_and_errors_behind_the_items_before_them(group):
    closed = threading.Event()
    assert list(prefetch(numbers(10, closed), group)) == list(range(10))
    received = []

    def receive():
        for item in prefetch(numbers(10, threading.Event(), ValueError("late")), group):
            received.append(item)  # noqa: PERF402  the error comes behind these

    with pytest.raises(ValueError, match="late"):
        receive()
    assert received == list(range(10))
    assert closed.is_set()


def test_dropping_an_iterator_closes_what_it_reads():
    for explicitly in (True, False):
        closed = threading.Event()
        items = prefetch(numbers(10**6, closed), 10)
        next(items)
        if explicitly:
            items.close()
        del items
        assert closed.wait(20)


def test_an_iterator_does_not_wait_for_an_item_in_progress():
    """A slow input must not hold up whoever leaves a loop."""
    gate, started, closed = threading.Event(), threading.Event(), threading.Event()

    def slow():
        try:
            yield 0
            started.set()
            gate.wait()
            yield 1
        finally:
            closed.set()

    items = prefetch(slow(), 1)
    assert next(items) == 0
    assert started.wait(20)
    items.close()
    assert not closed.is_set()
    gate.set()
    assert closed.wait(20)


COLLECTED = """
import gc, sys, threading, time
import softlabels as sl

loader = sl.loader(sl.open(sys.argv[1]), batch_size=16, window=2)
gc.set_threshold(50)  # so that it runs everywhere: on our threads, and between a lock and its release
for turn in range(60):
    batches = [loader.epoch(0), loader.stream(), loader.produce(0, 0)][turn % 3]
    next(batches)
    cycle = [batches]
    cycle.append(cycle)
    del batches, cycle
gc.collect()
until = time.monotonic() + 20
while threading.active_count() > 1 and time.monotonic() < until:
    time.sleep(0.01)
print(sorted({thread.name for thread in threading.enumerate()}))
"""


def test_iterators_in_reference_cycles_end_without_waiting_for_each_other(store):
    """The garbage collector closes them wherever it runs; all their threads end, and so does the process."""
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED, str(store.storage)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "['MainThread']"


INTERRUPTED = """
import gc, os, signal, sys
import softlabels as sl

loader = sl.loader(sl.open(sys.argv[1]), batch_size=4, window=2, memory=int(sys.argv[2]))
gc.set_threshold(50)
for turn in range(int(sys.argv[3])):
    try:
        print("ready", flush=True)
        while True:
            batches = loader.stream()
            for _ in range(8):
                next(batches)
            batches.close()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
os._exit(0)
"""


def test_signals_are_not_lost(store):
    """SIGINT while batches come and iterators are closed reaches the program, every time."""
    delays = (0.0, 0.013, 0.031, 0.052, 0.101)
    command = [sys.executable, "-c", INTERRUPTED, str(store.storage), str(2**16), str(len(delays))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for delay in delays:
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_no_callback_runs_in_the_garbage_collector(store):
    """An exception that a signal handler raises in such a callback is lost."""
    import softlabels as sl

    list(sl.loader(store, batch_size=16))
    assert not [callback for callback in gc.callbacks if "softlabels" in getattr(callback, "__module__", "")]
