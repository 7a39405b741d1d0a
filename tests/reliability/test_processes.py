"""Signals, orphans, and damaged runs and checkpoints; short versions of ``make reliability``."""

import pytest

from tests.reliability import orphans, runs, signals

pytestmark = pytest.mark.slow


def test_signals_end_commands_and_what_was_saved_can_be_used():
    result = signals.run(2, seed=1)
    assert result.sent == 2
    assert result.violations == 0


def test_generate_leaves_no_process_behind_if_it_is_killed():
    """The loaders have a test of their own, tests/loading/test_home.py."""
    result = orphans.run(1, kinds=("generate",))
    assert result.processes >= 3, "the parent and what it started"
    assert result.survivors == 0


def test_damaged_and_forged_runs_are_refused_by_typed_errors():
    result = runs.run(every=193, forged=100)
    assert result.flips > 100
    assert result.refused > 60
    assert result.violations == 0
