"""Ranks of a real process group (gloo): one order, no hang, nothing lost or repeated, at any world size."""

import json

import pytest

from tests.loading.stores import random_logits, reference_order, write_store
from tests.warm import WarmPython


def launch(root, store, folder, world_size, state, steps=0):
    """Return the rows that all ranks together saw, step by step."""
    meeting = folder / f"meeting-{world_size}-{steps}"
    ranks = [
        WarmPython("-m", "tests.loading.rank", store, meeting, rank, world_size, state, steps, cwd=root)
        for rank in range(world_size)
    ]
    outputs = [process.communicate(timeout=200) for process in ranks]
    for process, (_, errors) in zip(ranks, outputs, strict=True):
        assert process.returncode == 0, errors
    return json.loads(outputs[0][0].splitlines()[-1])


@pytest.mark.parametrize(("before", "after"), [(3, 2)])
def test_ranks_meet_at_every_step_and_another_world_size_goes_on(root, tmp_path, before, after):
    """1,003 rows: the last batch has 43, which 3 and 2 ranks share unevenly."""
    store = write_store(tmp_path / "s", random_logits(1003))
    order = reference_order(store.chunk_rows().tolist(), 5, 0, 2)
    state = tmp_path / "state.json"
    first = launch(root, tmp_path / "s", tmp_path, before, state, steps=3)
    rest = launch(root, tmp_path / "s", tmp_path, after, state)
    assert [len(rows) for rows in first + rest] == [160] * 6 + [43]
    assert [row for rows in first + rest for row in rows] == order
    assert json.loads(state.read_text())["epoch"] == 1
