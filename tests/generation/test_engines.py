"""Engines: ranks and workers share the units of a store, whichever of them die."""

import json
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, InvalidLogits, StoreConflict, WorkerDied
from softlabels.generation import worker_processes
from softlabels.generation.engine import Work
from softlabels.generation.engines import engine_of, engines
from softlabels.generation.labelling import label_missing
from softlabels.generation.output_store import open_output
from softlabels.generation.payload import Payload
from softlabels.generation.preparation import prepare
from softlabels.generation.ranks import ALONE, Rank, find_rank
from softlabels.generation.settings import Settings
from softlabels.store import verify
from tests.generation.processes import (
    BATCH,
    CHECKED,
    ROWS,
    TEACHER,
    UNIT_ROWS,
    asked,
    content,
    finish,
    interrupt,
    start,
    units,
    wait_until,
)


@pytest.fixture
def work(digits, teacher, tmp_path):
    settings = Settings(unit_rows=UNIT_ROWS, batch_size=BATCH)
    plan, model, settings = prepare(digits, teacher, settings, None)
    store, _ = open_output(tmp_path / "labels", plan, model, settings, [])
    return Work(plan=plan, teacher=model, store=store, settings=settings)


def committed_by(work, rank):
    """Units in the order in which a rank commits them."""
    reports = []
    label_missing(Work(**work.__dict__ | {"rank": rank}), reports.append)
    return [report.unit for report in reports if report.committed]


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, None),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Rank(3, 4)),
        ({"RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Rank(3, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}, Rank(1, 2, 1)),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "5"}, Rank(4, 5)),
        (
            {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10",
             "SLURM_ARRAY_TASK_STEP": "2", "RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
            Rank(17, 24, 1),
        ),
        ({"SLURM_ARRAY_TASK_ID": "900", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"}, Rank(1, 2)),
    ],
)  # fmt: skip
def test_a_rank_is_what_the_launcher_set(variables, rank):
    assert find_rank(variables) == rank


@pytest.mark.parametrize(
    "variables",
    [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "-1", "WORLD_SIZE": "4"}, {"RANK": "x", "WORLD_SIZE": "4"},
     {"RANK": "0", "WORLD_SIZE": "0"}, {"SLURM_ARRAY_TASK_ID": ""}],
)  # fmt: skip
def test_a_rank_that_cannot_be_is_refused(variables):
    with pytest.raises(InvalidArgument, match=r"(RANK|WORLD_SIZE|SLURM_ARRAY_TASK_ID): .*got .*; expected"):
        find_rank(variables)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_the_blocks_of_all_ranks_are_the_units(count):
    blocks = [unit for index in range(count) for unit in Rank(index, count).block(9)]
    assert blocks == list(range(9))


def test_a_rank_labels_its_own_units_first_and_takes_over_the_others_from_the_end(work):
    assert committed_by(work, Rank(1, 3)) == [3, 4, 5, 8, 7, 6, 2, 1, 0]


def test_ranks_leave_out_what_others_have_committed(work):
    with pytest.raises(KeyboardInterrupt):
        label_missing(work, interrupting_after(2))
    assert committed_by(work, Rank(0, 2)) == [2, 3, 8, 7, 6, 5, 4]
    assert committed_by(work, Rank(1, 2)) == []


def interrupting_after(count):
    """A receiver of reports that ends the run once so many units are committed."""
    committed = []

    def report(progress):
        committed.extend([progress.unit] if progress.committed else [])
        if len(committed) == count:
            raise KeyboardInterrupt

    return report


def test_torchrun_needs_a_launcher(digits, teacher, tmp_path):
    with pytest.raises(InvalidArgument, match=r"engine torchrun: got no RANK.*torchrun --nproc-per-node"):
        sl.generate(digits, teacher=teacher, out=tmp_path / "labels", engine="torchrun")
    assert set(engines()) >= {"local", "torchrun"}
    assert all(engine.summary for engine in engines().values())
    with pytest.raises(InvalidArgument, match="engine: unknown, got 'kubernetes'; expected local"):
        engine_of("kubernetes")


def test_later_ranks_wait_for_the_gate_of_the_first(digits, teacher, tmp_path, monkeypatch):
    def rejecting(inputs):
        return np.zeros((len(inputs), 10), np.float32)

    sl.generate(digits, teacher=teacher, out=tmp_path / "labels")
    monkeypatch.setattr("softlabels.generation.heads.STORE_SECONDS", 0.0)
    prepare(digits, rejecting, Settings(), None, rank=Rank(1, 2), out=tmp_path / "labels")
    for rank, out in ((Rank(0, 2), "labels"), (ALONE, "labels")):
        with pytest.raises(sl.errors.TeacherRejected):
            prepare(digits, rejecting, Settings(), None, rank=rank, out=tmp_path / out)


def test_a_payload_arrives_with_the_teacher_that_was_sent(work):
    sent = Payload.pack(work)
    arrived = pickle.loads(pickle.dumps(sent)).unpack(Rank(2, 5))  # noqa: S301
    rows = np.arange(3)
    assert arrived.rank == Rank(2, 5)
    assert arrived.teacher.digest == work.teacher.digest
    assert arrived.plan.inputs(rows).tobytes() == work.plan.inputs(rows).tobytes()
    with pytest.raises(StoreConflict, match=r"got digest .*; expected 00"):
        Payload(sent.data, "00").unpack(ALONE)


def test_what_cannot_be_sent_is_named(digits, tmp_path):
    with pytest.raises(InvalidArgument, match=r"cannot be sent to other processes.*python:MODULE:NAME"):
        sl.generate(
            digits,
            teacher=lambda x: x.float().flatten(1)[:, 10:20],
            out=tmp_path / "labels",
            processes=2,
            unit_rows=200,
        )


def test_errors_of_workers_cross_with_the_place_they_were_raised_at():
    for error, kind in ((InvalidLogits("row 7"), InvalidLogits), (KeyError("x"), WorkerDied)):
        try:
            raise error
        except (InvalidLogits, KeyError) as raised:
            portable = pickle.loads(pickle.dumps(worker_processes._portable(raised)))  # noqa: S301
        assert type(portable) is kind
        assert "test_engines.py" in portable.__notes__[0]


def test_ranks_and_workers_at_once_give_what_one_process_gives(tmp_path, digits_path):
    """Two ranks, and a process with two workers of which one is killed, on one store."""
    (tmp_path / "counted.py").write_text(TEACHER)
    (tmp_path / "hold").write_text("0")
    ranks = [start(tmp_path, digits_path, rank=(index, 2)) for index in range(2)]
    parent = start(tmp_path, digits_path, "--processes", "2")
    known = {process.pid for process in (*ranks, parent)}

    def workers():
        pids = {int(path.name.removeprefix("asked-")) for path in tmp_path.glob("asked-*")}
        return sorted(pids - known)

    wait_until(lambda: len(workers()) == 2 and all(asked(tmp_path, process) for process in ranks))
    os.kill(workers()[0], signal.SIGKILL)
    (tmp_path / "hold").unlink()
    results = [json.loads(finish(process)[0]) for process in (*ranks, parent)]
    assert sum(result["new_units"] for result in results) == 9, "each unit was committed by one process"
    assert any(result["snapshot"] for result in results)
    assert asked(tmp_path) <= ROWS + BATCH, "what the killed one had begun was made again, and nothing else"
    assert verify(tmp_path / "labels", deep=True).ok
    alone = start(tmp_path, digits_path)
    (tmp_path / "labels").rename(tmp_path / "shared")
    finish(alone)
    assert content(tmp_path / "shared") == content(tmp_path / "labels")


def test_ranks_that_are_killed_and_restarted_in_another_number_lose_the_units_at_hand(tmp_path, digits_path):
    """Four ranks of which two are killed, as a launcher that then stops the others and starts three."""
    (tmp_path / "counted.py").write_text(TEACHER)
    # A rank that starts after another has committed first predicts rows of that unit again.
    (tmp_path / "hold").write_text(str(UNIT_ROWS + CHECKED))
    first = [start(tmp_path, digits_path, rank=(index, 4)) for index in range(4)]
    wait_until(lambda: units(tmp_path) == 4 and all(asked(tmp_path, process) > UNIT_ROWS for process in first))
    for process in first[1:3]:
        process.kill()
        process.wait()
    interrupt([first[0], first[3]], signal.SIGTERM)
    for process in (first[0], first[3]):
        finish(process, 130)
    records = {path: path.read_bytes() for path in (tmp_path / "labels" / "records").rglob("*.json")}
    began = asked(tmp_path)
    (tmp_path / "hold").unlink()
    second = [start(tmp_path, digits_path, rank=(index, 3)) for index in range(3)]
    results = [json.loads(finish(process)[0]) for process in second]
    assert len(records) == 4
    assert {path: path.read_bytes() for path in records} == records
    assert sum(result["new_units"] for result in results) == 5
    assert asked(tmp_path) == began + ROWS - 4 * UNIT_ROWS + 3 * CHECKED, "no unit was labelled by two ranks"
    assert verify(tmp_path / "labels", deep=True).ok


def test_ctrl_c_ends_all_workers_and_drops_their_units(tmp_path, digits_path):
    """Also those whose teacher does not return: the grace of their signal ends."""
    (tmp_path / "counted.py").write_text(TEACHER)
    (tmp_path / "hold").write_text("0")
    parent = start(tmp_path, digits_path, "--processes", "2")
    wait_until(lambda: len(list(tmp_path.glob("asked-*"))) == 3)
    pids = [int(path.name.removeprefix("asked-")) for path in tmp_path.glob("asked-*")]
    parent.send_signal(signal.SIGINT)
    _, err = finish(parent, 130)
    assert "labels holds 0 of" in err
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert units(tmp_path) == 0
    assert not [path for path in (tmp_path / "labels" / "tmp").iterdir() if path.suffix != ".lock"]


def test_workers_that_die_again_and_again_end_the_run(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(worker_processes, "MAX_DEATHS", 0)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "dying.py").write_text(
        "import os\nfrom multiprocessing import parent_process\n"
        "def teach(x):\n"
        "    if parent_process() is not None:\n        os._exit(7)\n"
        "    return x.float().flatten(1)[:, 10:20]\n"
    )
    with pytest.raises(WorkerDied, match="the last one with exit code 7; expected them to finish"):
        sl.generate(digits, teacher="python:dying:teach", out=tmp_path / "labels", processes=2, unit_rows=200)
