"""The Ray engine on a real cluster of several node processes, of which one is removed."""

import json
import os
import signal
from pathlib import Path

import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels.store import verify
from tests.generation.processes import BATCH, ROWS, TEACHER, asked, content, finish, start, units, wait_until

TOP = Path(sl.__file__).parents[1]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A head without processors and two nodes with one each, whose workers find the teacher."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TOP, TOP / "cli", tmp_path))))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    head = NODE | {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    yield cluster, nodes
    cluster.shutdown()


def test_killed_actors_and_a_lost_node_cost_the_units_they_were_working_on(tmp_path, digits_path, cluster):
    """Two ranks of a launcher work on the same store; all of them give what one process gives."""
    (tmp_path / "counted.py").write_text(TEACHER)
    (tmp_path / "hold").write_text("0")
    cluster, nodes = cluster
    options = ("--engine", "ray", "--processes", "2")
    driver = start(tmp_path, digits_path, *options, environment={"RAY_ADDRESS": cluster.address})
    ranks = [start(tmp_path, digits_path, rank=(index, 2)) for index in range(2)]
    others = {process.pid for process in (driver, *ranks)}

    def actors():
        return {int(path.name.removeprefix("asked-")) for path in tmp_path.glob("asked-*")} - others

    wait_until(lambda: len(actors()) == 2 and all(asked(tmp_path, process) for process in ranks))
    first = actors()
    os.kill(min(first), signal.SIGKILL)
    wait_until(lambda: len(actors()) == 3)
    cluster.remove_node(nodes[0])
    (tmp_path / "hold").unlink()
    results = [json.loads(finish(process)[0]) for process in (driver, *ranks)]
    assert (results[0]["rows"], results[0]["missing_units"]) == (ROWS, 0)
    assert sum(result["new_units"] for result in results) <= 9, "reports of killed actors may be lost"
    assert asked(tmp_path) <= ROWS + 3 * BATCH, "only what was begun is made again"
    assert verify(tmp_path / "labels", deep=True).ok
    (tmp_path / "labels").rename(tmp_path / "shared")
    finish(start(tmp_path, digits_path))
    assert content(tmp_path / "shared") == content(tmp_path / "labels")
    assert units(tmp_path) == 9


def test_the_extra_is_named_if_ray_is_missing(digits, teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InvalidArgument, match=r"expected the extra cluster. Run pip install 'softlabels\[cluster\]'"):
        sl.generate(digits, teacher=teacher, out=tmp_path / "labels", engine="ray")
