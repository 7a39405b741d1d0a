"""The commit protocol under kills, failing calls, power cuts and races; short versions of ``make reliability``."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from tests import warm
from tests.reliability import interleavings, kills, planted, power_cuts, repairs, system_calls

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(not system_calls.available(), reason="strace is not here, or may not trace a child")


@pytest.fixture(scope="module")
def run():
    """Run an experiment in a process of its own: a fork takes as long as the process is large."""
    with ProcessPoolExecutor(1, mp_context=warm.CONTEXT) as pool:
        yield lambda experiment, *arguments, **options: pool.submit(experiment, *arguments, **options).result()


def test_random_kills_lose_nothing_that_was_acknowledged(run):
    outcome = run(kills.run, 120)
    assert outcome.kills >= 120
    assert (outcome.lost, outcome.twice, outcome.changed) == (0, 0, 0)
    assert max(outcome.recomputed) <= kills.world.UNIT_ROWS


@needs_strace
def test_a_kill_at_each_system_call_leaves_all_or_nothing(run):
    outcome = run(system_calls.kill_at_each)
    assert outcome.tried > 40
    assert outcome.right == outcome.tried
    assert 0 < outcome.committed < outcome.tried, "some kills come before the commit point and some after"


@needs_strace
def test_an_error_from_any_system_call_commits_nothing_bad(run):
    outcome = run(system_calls.fail_at_each, every=3)
    assert outcome.tried > 20
    assert outcome.right == outcome.tried


def test_a_power_cut_at_any_moment_keeps_every_promise(run):
    outcome = run(power_cuts.run, 500)
    assert outcome.violations == []
    assert outcome.different > 250


def test_two_commits_in_any_order_of_steps_have_one_winner(run):
    outcome = run(interleavings.run, 250)
    assert outcome.violations == []
    assert outcome.tried == 250


def test_repair_beside_writers_moves_damaged_units_alone(run):
    result = run(repairs.run, 3)
    assert result.violations == 0
    assert result.moved > 10
    assert result.kills > 5


@pytest.mark.parametrize("bug", planted.BUGS)
def test_a_planted_bug_is_caught(run, bug):
    """The tests above state that the same experiments find nothing without a bug."""
    layer = planted.BUGS[bug][0]
    if "SIGKILL" in layer and not system_calls.available():
        pytest.skip("strace is not here, or may not trace a child")
    assert run(planted.caught_by, bug, layer)
