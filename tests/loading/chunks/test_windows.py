"""A store is read in little memory, whatever its size."""

import json
import os
import subprocess
import sys

import numpy as np

from softlabels.labels import Head
from tests.loading.stores import write_store

LIMIT = 48 * 2**20
PROGRAM = """
import json, resource, sys, threading
import softlabels as sl

threading.stack_size(2**20)  # RLIMIT_DATA counts reserved stacks, also of threads that are about to end

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

root, limit = sys.argv[1], int(sys.argv[2])
options = {"batch_size": 64, "window": 8, "memory": 2**24, "threads": 2}
next(iter(sl.loader(sl.open(root), **options)))  # imports, and threads that wait
room = status("VmData") + limit
resource.setrlimit(resource.RLIMIT_DATA, (room, room))
rows, peaks = 0, []
for epoch in range(2):
    peak = 0
    for batch in sl.loader(sl.open(root), **options).epoch(epoch):
        rows += len(batch)
        peak = max(peak, status("RssAnon"))
    peaks.append(peak)
print(json.dumps({"rows": rows, "peaks": peaks}))
"""


def test_a_store_four_times_the_limit_is_read_with_steady_memory(tmp_path):
    """The kernel refuses more than the limit beyond the imports; the second epoch takes what the first did."""
    block = np.random.default_rng(0).normal(0, 3, (512, 4096)).astype(np.float32)
    logits = np.broadcast_to(block, (50, *block.shape)).reshape(-1, 4096)
    head = Head(encoding="dense:f16", classes=4096)
    store = write_store(tmp_path / "s", logits, head=head, unit_rows=512, chunk_rows=64, codec="lz4")
    assert store.rows * 4096 * 2 > 4 * LIMIT
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "s"), str(LIMIT)], capture_output=True, text=True, check=False,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["rows"] == 2 * store.rows
    assert report["peaks"][1] < report["peaks"][0] + 2**23, report
