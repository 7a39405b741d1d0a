"""Object stores behind a service that fails; short version of the layer ``objects`` of ``make reliability``."""

import pytest

from tests.reliability import objects

pytest.importorskip("obstore", reason="object stores need the extra remote")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def proxy():
    with objects.service() as running:
        yield running


def test_lost_responses_give_no_false_conflict(proxy):
    """200 commits with 30 % of the responses lost: each is its writer's own."""
    outcomes = objects.commits(proxy, 200)
    assert (outcomes.right, outcomes.wrong) == (200, [])


def test_of_eight_writers_one_wins_each_race(proxy):
    outcomes = objects.races(proxy, 15)
    assert (outcomes.right, outcomes.wrong) == (15, [])


def test_no_fault_of_a_request_gives_wrong_data(proxy):
    """Some of the faults on every verb; the layer tries all of them."""
    faults = {name: objects.FAULTS[name] for name in ("reset", "lost response", "half the body", "login page", "412")}
    outcomes = objects.verbs(proxy, faults)
    assert outcomes.wrong == []
    assert outcomes.right > outcomes.tried / 2
