"""Real ``softlabels generate`` processes, ended, stopped, several on one store; rows that teachers see are counted."""

import json
import signal

import pytest
from blake3 import blake3

import softlabels as sl
from softlabels.store import verify
from tests.generation.processes import (
    CHECKED,
    ROWS,
    TEACHER,
    UNIT_ROWS,
    asked,
    finish,
    interrupt,
    start,
    units,
    wait_until,
)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "counted.py").write_text(TEACHER)
    return tmp_path


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_drops_the_unit_at_hand_and_keeps_the_others(place, digits_path, number, code):
    (place / "hold").write_text(str(2 * UNIT_ROWS))
    process = start(place, digits_path)
    wait_until(lambda: units(place) == 2)
    wait_until(lambda: asked(place) > 2 * UNIT_ROWS)
    interrupt([process], number)
    _, err = finish(process, code)
    if code == 130:
        assert "Interrupted. labels holds 2 of 9 units: run the same command again" in err
        assert {path.name for path in (place / "labels" / "tmp").iterdir()} <= {"claims.lock"}
    dropped = asked(place) - 2 * UNIT_ROWS
    (place / "hold").unlink()
    records = {path: path.read_bytes() for path in (place / "labels" / "records").rglob("*.json")}
    result = json.loads(finish(start(place, digits_path))[0])
    assert (len(records), result["new_units"]) == (2, 7)
    assert {path: path.read_bytes() for path in records} == records
    assert asked(place) == ROWS + dropped + CHECKED, "the unit in progress was made again, and a few rows were checked"
    assert verify(place / "labels", deep=True).ok


def test_several_generators_share_the_work(place, digits_path):
    (place / "hold").write_text("0")
    running = [start(place, digits_path) for _ in range(3)]
    wait_until(lambda: all(asked(place, process) for process in running))
    (place / "hold").unlink()
    results = [json.loads(finish(process)[0]) for process in running]
    assert sum(one["new_units"] for one in results) == 9
    assert asked(place) == ROWS, "no row was labelled twice"
    assert all(one["new_units"] for one in results)
    assert verify(place / "labels", deep=True).ok


def test_a_stopped_generator_holds_up_its_unit_alone_and_goes_on(place, digits_path):
    (place / "hold").write_text("0")
    stopped = start(place, digits_path)
    wait_until(lambda: asked(place, stopped))
    stopped.send_signal(signal.SIGSTOP)
    (place / "hold").unlink()
    result = json.loads(finish(start(place, digits_path))[0])
    assert (result["missing_units"], result["snapshot"]) == (1, None)
    assert (result["rows"], result["new_units"]) == (ROWS - UNIT_ROWS, 8), (
        "a true report of the rows that are committed"
    )
    assert result["bytes"] > 0
    assert not verify(place / "labels", deep=True).bad, "units can be checked while others write"
    stopped.send_signal(signal.SIGCONT)
    assert json.loads(finish(stopped)[0])["missing_units"] == 0
    assert asked(place) == ROWS
    assert sl.open(place / "labels").rows == ROWS


def test_what_a_killed_generator_had_claimed_is_made_by_another(place, digits_path):
    (place / "hold").write_text("0")
    killed = start(place, digits_path)
    wait_until(lambda: asked(place, killed))
    other = start(place, digits_path)
    wait_until(lambda: asked(place, other))
    killed.kill()
    killed.communicate()
    (place / "hold").unlink()
    assert json.loads(finish(other)[0])["missing_units"] == 0
    assert sl.open(place / "labels").rows == ROWS


ROUNDED = TEACHER.replace(
    "inputs.reshape(len(inputs), -1)[:, :10].float()",
    "inputs.reshape(len(inputs), -1)[:, 20:30].float() * (1 + os.getpid() % 101 / 1e6)",
)
"""A teacher whose last digits depend on the process, as on another accelerator, though its name is the same."""


def test_of_generators_that_fit_a_codebook_at_once_one_makes_the_stores(place, digits_path):
    """All of them have asked their teachers before any may go on: each fits its own, of which one counts."""
    (place / "counted.py").write_text(ROUNDED)
    (place / "hold").write_text("0")
    running = [start(place, digits_path, "--encoding", "topk:2:d8:3") for _ in range(3)]
    wait_until(lambda: all(asked(place, process) for process in running))
    assert not (place / "labels").exists(), "nobody has a codebook yet"
    (place / "hold").unlink()
    results = [json.loads(finish(process)[0]) for process in running]
    assert sum(one["new_units"] for one in results) == 9
    store = sl.open(place / "labels")
    digest = store.heads["logits"].codebook
    files = {path.stem: blake3(path.read_bytes()).hexdigest() for path in (place / "labels" / "codebooks").iterdir()}
    assert files[digest[:32]] == digest, "the store's is there; of the others nothing is told"
    assert {one["encoding"] for one in results} == {store.heads["logits"].encoding}
    assert len(store.read(range(ROWS))) == ROWS
    assert verify(place / "labels", deep=True).ok
