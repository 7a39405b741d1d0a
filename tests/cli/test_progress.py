"""Progress: a bar on a terminal, a line now and then elsewhere, nothing with --quiet."""

import errno
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from softlabels_cli import progress as module
from softlabels_cli.progress import Progress

CODE = """
from softlabels_cli.progress import Progress
with Progress("label", unit="rows") as progress:
    for done in range(0, 1001, 100):
        progress.update(done, 1000, loss=0.5)
"""


def read_all(terminal):
    """Return the text written to a pseudo-terminal whose other end is closed."""
    blocks = []
    try:
        while block := os.read(terminal, 65_536):
            blocks.append(block)
    except OSError as error:
        if error.errno != errno.EIO:  # which is how Linux says that it ends
            raise
    os.close(terminal)
    return b"".join(blocks).decode()


def test_a_terminal_shows_a_bar_with_rate_and_remaining_time():
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", CODE], stderr=follower, env=environment)
    process.wait(60)
    os.close(follower)
    shown = read_all(leader)
    assert "label: 100%" in shown
    assert "rows/s" in shown
    assert "loss=0.5" in shown


def test_elsewhere_there_is_a_line_every_few_seconds_and_one_at_the_end(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with Progress("label", unit="rows") as progress:
        for done in range(0, 1001, 10):
            progress.update(done, 1000, loss=0.25)
            clock[0] += 0.125
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "label: 400 of 1,000 rows (40%), 80 rows/s, 7.5 s left, loss 0.25"
    assert lines[-1] == "label: 1,000 of 1,000 rows (100%), 80 rows/s, loss 0.25"


def test_nothing_is_shown_when_quiet_or_when_there_was_nothing_to_do(capsys):
    with Progress("label", unit="rows", quiet=True) as progress:
        progress.update(5, 10)
        progress.update(10, 10)
    with Progress("label", unit="rows") as progress:
        progress.update(10, 10)
    assert capsys.readouterr().err == ""
