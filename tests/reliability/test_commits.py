"""The commit protocol under kills, failing calls, power cuts and races; short versions of ``make reliability``."""

import pytest

from tests.reliability import interleavings, kills, planted, power_cuts, repairs, system_calls

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(not system_calls.available(), reason="strace is not here, or may not trace a child")


def test_random_kills_lose_nothing_that_was_acknowledged():
    found = kills.run(120)
    assert found.kills >= 120
    assert (found.lost, found.twice, found.changed) == (0, 0, 0)
    assert max(found.recomputed) <= kills.world.UNIT_ROWS


@needs_strace
def test_a_kill_at_each_system_call_leaves_all_or_nothing():
    found = system_calls.kill_at_each()
    assert found.tried > 40
    assert found.right == found.tried
    assert 0 < found.committed < found.tried, "some kills come before the commit point and some after"


@needs_strace
def test_an_error_from_any_system_call_commits_nothing_bad():
    found = system_calls.fail_at_each(every=3)
    assert found.tried > 20
    assert found.right == found.tried


def test_a_power_cut_at_any_moment_keeps_every_promise():
    found = power_cuts.run(1000)
    assert found.violations == []
    assert found.different > 400


def test_two_commits_in_any_order_of_steps_have_one_winner():
    found = interleavings.run(250)
    assert found.violations == []
    assert found.tried == 250


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
