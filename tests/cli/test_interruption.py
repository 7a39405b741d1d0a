"""An interrupted training command: exit code 130 and a true message, whatever the signal hits."""

import signal

import pytest

from softlabels_cli.main import main
from softlabels_cli.train_student import run_training


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
