"""An interrupted training command: exit code 130 and a true message, whatever the signal hits."""

import contextlib
import importlib
import signal
import time

import pytest

from softlabels_cli import signals
from softlabels_cli.main import main
from softlabels_cli.signals import ending_on_signals
from softlabels_cli.training_run import run_training


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("error", [SystemError("half imported"), ImportError("half imported"), AttributeError("x")])
def test_an_error_that_a_signal_caused_is_an_interruption(error, tmp_path, handlers):
    def train(progress):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    with pytest.raises(KeyboardInterrupt, match="Interrupted before the first checkpoint: nothing was saved"):
        run_training("train-student", tmp_path, train, as_json=False, quiet=True)


def test_other_errors_are_raised_as_they_are(tmp_path, handlers):
    def train(progress):
        raise ImportError("missing")

    with pytest.raises(ImportError, match="missing"):
        run_training("train-student", tmp_path, train, as_json=False, quiet=True)


def test_the_command_line_prints_what_was_saved(tmp_path, monkeypatch, capsys, handlers):
    from softlabels import training

    def stop(*_, **__):
        raise KeyboardInterrupt("Interrupted at step 7 of 9: run the same command again to resume.")

    monkeypatch.setattr(training, "train_teacher", stop)
    with pytest.raises(SystemExit) as ended:
        main(["train-teacher", "digits", "--model", "mlp", "--out", str(tmp_path / "run"), "-q"])
    assert ended.value.code == 130
    assert "Interrupted at step 7 of 9" in capsys.readouterr().err


def test_a_signal_during_an_import_is_raised_after_it(tmp_path, monkeypatch, handlers):
    """An exception inside an import can abort the process: torch imports modules from C++."""
    (tmp_path / "interrupted_module.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.2)\nCOMPLETE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), ending_on_signals():
        time.sleep(60 * importlib.import_module("interrupted_module").COMPLETE)


def test_a_signal_ends_an_import_that_does_not_end(tmp_path, monkeypatch, handlers):
    monkeypatch.setattr(signals, "MAX_IMPORT", 0.2)
    (tmp_path / "endless_module.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(60)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), ending_on_signals():
        importlib.import_module("endless_module")


def swallow():
    """Receive a signal as a callback of a library does that ignores every exception."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def command(monkeypatch):
    """A command whose work is a function, in place of the one that lists garbage."""
    from softlabels_cli import gc

    def install(work):
        monkeypatch.setattr(gc.command, "callback", lambda **_: work())

    return install


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return ended.value.code


def test_a_signal_that_was_swallowed_ends_the_command_at_its_next_report(command, capsys, handlers):
    from softlabels_cli.progress import Progress

    def work():
        with Progress("work", unit="rows", quiet=True) as progress:
            swallow()
            progress.update(1, 2)
            pytest.fail("the signal was lost")

    command(work)
    assert call("gc", "x") == 130
    assert "Interrupted" in capsys.readouterr().err


def test_an_error_behind_a_signal_is_an_interruption_in_every_command(command, capsys, handlers):
    def work():
        swallow()
        raise AttributeError("partially initialized module")

    command(work)
    assert call("gc", "x") == 130
    assert "Interrupted" in capsys.readouterr().err


def test_handlers_are_those_of_before_once_a_command_has_ended(command, handlers):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    command(lambda: None)
    assert call("gc", "x") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_signal_stays_ignored(command, handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command(lambda: signal.raise_signal(signal.SIGINT))
    assert call("gc", "x") == 0
