"""The commit protocol under kills, failing calls, power cuts and races; short versions of ``make reliability``."""

import pytest

from tests.reliability import interleavings, kills, planted, power_cuts, repairs, system_calls

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(not system_calls.available(), reason="strace is not here, or may not trace a child")


def test_random_kills_lose_nothing_that_was_acknowledged():
    outcome = kills.run(120)
    assert outcome.kills >= 120
    assert (outcome.lost, outcome.twice, outcome.changed) == (0, 0, 0)
    assert max(outcome.recomputed) <= kills.world.UNIT_ROWS


@needs_strace
def test_a_kill_at_each_system_call_leaves_all_or_nothing():
    outcome = system_calls.kill_at_each()
    assert outcome.tried > 40
    assert outcome.right == outcome.tried
    assert 0 < outcome.committed < outcome.tried, "some kills come before the commit point and some after"


@needs_strace
def test_an_error_from_any_system_call_commits_nothing_bad():
    outcome = system_calls.fail_at_each(every=3)
    assert outcome.tried > 20
    assert outcome.right == outcome.tried


def test_a_power_cut_at_any_moment_keeps_every_promise():
    outcome = power_cuts.run(1000)
    assert outcome.violations == []
    assert outcome.different > 400


def test_two_commits_in_any_order_of_steps_have_one_winner():
    outcome = interleavings.run(250)
    assert outcome.violations == []
    assert outcome.tried == 250


def test_repair_beside_writers_moves_damaged_units_alone():
    result = repairs.run(3)
    assert result.violations == 0
    assert result.moved > 10
    assert result.kills > 5


@pytest.mark.parametrize("bug", planted.BUGS)
def test_a_planted_bug_is_caught(bug):
    """The tests above state that the same experiments find nothing without a bug."""
    layer = planted.BUGS[bug][0]
    if "SIGKILL" in layer and not system_calls.available():
        pytest.skip("strace is not here, or may not trace a child")
    assert planted.caught_by(bug, layer)
