"""Commands as a shell runs them, in this process: importing torch afresh would take most of the time.

README's and the wheel's tests run the same commands as processes.
"""

import contextlib
import signal

import pytest
from click.testing import CliRunner

from softlabels_cli.main import main


def call(*arguments, cwd=".", code=0, notes=False):
    """Run a command and return its standard output; its error output with ``notes``, or if that is all there is."""
    handler = signal.getsignal(signal.SIGTERM)
    with (
        contextlib.chdir(cwd),
        pytest.raises(SystemExit) as ended,
        CliRunner().isolation() as (out, err, _),
    ):
        main([str(argument) for argument in arguments])
    signal.signal(signal.SIGTERM, handler)
    output, errors = out.getvalue().decode(), err.getvalue().decode()
    assert (ended.value.code or 0) == code, output + errors
    assert ("Traceback" in errors) == ("--debug" in arguments)
    return errors if notes else output or errors
