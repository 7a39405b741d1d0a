"""Signals are deferred to a safe moment, delivered once it is there, and never lost."""

import contextlib
import signal
import threading
import time

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import StoreNotFound
from softlabels.interruption import interruptible


@pytest.fixture
def handlers():
    """Handlers that raise, and that are there again after the test."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_delivered_after_the_block_that_defers_it(handlers, number):
    with interruptible() as interruption:
        with interruption.deferring():
            signal.raise_signal(number)
        assert interruption.received == number
        with pytest.raises(KeyboardInterrupt, match="saved"):
            interruption.deliver("saved")


def test_a_second_signal_is_delivered_at_once(handlers):
    reached = []
    with interruptible() as interruption, contextlib.suppress(KeyboardInterrupt), interruption.deferring():
        signal.raise_signal(signal.SIGINT)
        reached.append("the first was deferred")
        signal.raise_signal(signal.SIGINT)
        reached.append("the second was deferred")
    assert reached == ["the first was deferred"]


def test_a_block_that_does_not_end_is_interrupted_after_the_grace(handlers):
    ended = False
    with interruptible() as interruption, contextlib.suppress(KeyboardInterrupt), interruption.deferring(grace=0.05):
        signal.raise_signal(signal.SIGINT)
        ended = threading.Event().wait(60) or True
    assert not ended


def test_a_block_that_ends_in_time_is_not_interrupted_by_its_grace(handlers):
    with interruptible() as interruption, interruption.deferring(grace=0.2):
        signal.raise_signal(signal.SIGINT)
    time.sleep(0.4)
    assert interruption.received == signal.SIGINT


def test_a_signal_does_not_interrupt_the_teacher_and_drops_the_unit(handlers, tmp_path):
    """An exception in the middle of an import that the teacher makes would leave CPython's import lock held."""
    undisturbed = []

    def teacher(inputs):
        if len(undisturbed) == 7:  # the gate has called it three times
            signal.raise_signal(signal.SIGINT)
        undisturbed.append(len(inputs))
        return 2 * inputs[:, :3]

    data = {"x": np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)}
    options = {"teacher": teacher, "out": tmp_path / "labels", "unit_rows": 16, "batch_size": 8}
    with pytest.raises(KeyboardInterrupt):
        sl.generate(data, **options)
    assert len(undisturbed) == 8, "the teacher returned, and was not called again"
    with pytest.raises(StoreNotFound):
        sl.open(tmp_path / "labels")
    assert sl.generate(data, **options).rows == 64
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
