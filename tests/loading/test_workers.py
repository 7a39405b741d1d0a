"""How worker processes are started."""

import json
import subprocess
import sys

PROGRAM = """
import json, multiprocessing, sys
from multiprocessing import forkserver
import softlabels as sl
from softlabels.loading.datasets import LabelDataset

if sys.argv[2:]:
    multiprocessing.set_forkserver_preload(sys.argv[2:])
LabelDataset(sl.open(sys.argv[1]))
print(json.dumps(forkserver._forkserver._preload_modules))
"""
THREADS = """
import json, os, sys
import torch.utils.data
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(json.dumps([names, "pyarrow" in sys.modules]))
"""


def told(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_server_of_workers_imports_torch_once_unless_it_was_told_otherwise(sealed):
    assert told(PROGRAM, sealed) == ["__main__", "torch.utils.data"]
    assert told(PROGRAM, sealed, "json") == ["json"]


def test_what_the_server_imports_starts_no_thread_that_a_fork_would_lose():
    """Arrow does, when it is imported; those of NumPy's BLAS, which are named as the process, are made anew by it."""
    threads, arrow = told(THREADS)
    assert not arrow
    assert set(threads) <= {threads[0]}
