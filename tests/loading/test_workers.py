"""Worker processes start afresh, import torch once, and share each tail prior once."""

import json
import subprocess
import sys

import numpy as np

import softlabels as sl
from softlabels.generation import generate
from softlabels.loading import Loader

PROGRAM = """
import json, multiprocessing, sys
from multiprocessing import forkserver
import softlabels as sl
from softlabels.loading.adapters.torch_datasets import LabelDataset

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


def test_a_worker_shares_each_tail_prior_once(tmp_path, sealed, teacher, digits):
    """A codebook can be larger than all the rest of a batch, and is the same in every one."""
    generate(digits, teacher=teacher, out=tmp_path / "other", encoding="topk:2", temperatures=(1.0,))
    stores = [sl.open(sealed), sl.open(tmp_path / "other")]
    places = []
    for store in (*stores, stores[0]):
        loader = Loader(store, batch_size=500, device="cpu")
        plain = list(loader.epoch(0))
        handed = [batch.shared() for batch in plain]
        for batch, original in zip(handed, plain, strict=True):
            labels = batch.targets["logits"]
            for name in ("ids", "values", "log_tail", "prior"):
                copy, first = getattr(labels, name), getattr(original.targets["logits"], name)
                assert copy.is_shared()
                assert not first.is_shared()
                assert copy.dtype == first.dtype
                np.testing.assert_array_equal(copy.numpy(), first.numpy())
            assert labels.ids.untyped_storage().data_ptr() == labels.values.untyped_storage().data_ptr()
        assert len({batch.targets["logits"].ids.data_ptr() for batch in handed}) == len(handed)
        (place,) = {batch.targets["logits"].prior.data_ptr() for batch in handed}
        places.append(place)
    assert places[0] == places[2] != places[1]
