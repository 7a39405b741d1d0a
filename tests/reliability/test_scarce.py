"""Full inodes and shared memory, in a mount namespace of its own, so that nothing stays."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ALONE = ["unshare", "--map-root-user", "--mount"]


def permitted():
    try:
        command = [*ALONE, "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not permitted(), reason="this system lets nobody mount a file system for himself")


def run(code, where, options, tmp_path):
    """A program where a small file system is mounted; what it printed, and the seconds it took."""
    (tmp_path / "program.py").write_text(code)
    # The folder may lie below the place that the file system is mounted on.
    mounts = f"mount --bind {tmp_path} /mnt && cd /mnt && mount -t tmpfs -o {options} none {where}"
    began = time.monotonic()
    done = subprocess.run(
        [*ALONE, "sh", "-c", f"{mounts} && exec {sys.executable} program.py"],
        env=os.environ | {"PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.monotonic() - began


INODES = """
import os, subprocess
from pathlib import Path
from softlabels.errors import StorageFailed
from softlabels.store import create_or_open, seal, verify
from tests.corpus import forging

root = Path("small/s")

def write(unit):
    store = create_or_open(root, forging.descriptor("topk-zarr", rows=60))
    with store.begin(unit) as writer:
        writer.append(forging.columns("topk-zarr", range(6 * unit, 6 * unit + 6)))
        return writer.commit(extras={"logits/prior": forging.SUMS})

kept = []
try:
    for unit in range(10):
        assert write(unit)
        kept.append(unit)
except StorageFailed as error:
    assert "No space left on device; free space or inodes (df, df -i)" in str(error), error
    assert "small/s" in str(error), error
free = os.statvfs("small")
assert free.f_favail == 0 or free.f_bfree > 1000, free
assert 0 < len(kept) < 10, kept
store = create_or_open(root, forging.descriptor("topk-zarr", rows=60))
assert list(store.committed_units()) == kept
assert not verify(root, deep=True).bad
subprocess.run(["mount", "-o", "remount,nr_inodes=1000", "small"], check=True)
for unit in list(store.missing()):
    assert write(unit)
seal(root)
assert not verify(root, deep=True).bad and len(forging.read_all(root)[0]) == 60
"""


@pytest.mark.parametrize("inodes", [24, 25, 26])
def test_without_inodes_nothing_is_lost_and_the_same_command_goes_on(tmp_path, inodes):
    """Bytes are free; the file that finds no inode is a shard, a record or the file of the sums, as they come."""
    (tmp_path / "small").mkdir()
    run(INODES, "small", f"nr_inodes={inodes},size=16m", tmp_path)


SHARED = """
import softlabels as sl
from pathlib import Path
from softlabels.errors import StorageFailed
from torch.utils.data import DataLoader
from softlabels.labels import Head
from softlabels.loading.adapters.torch_datasets import LabelDataset, collate
from softlabels.loading.adapters.huggingface import TokenCollator
from softlabels.sources import TokenSource
from tests.loading.stores import random_logits, write_store

if __name__ == "__main__":
    store = write_store(Path("s"), random_logits(40_000, 50), unit_rows=20_000, chunk_rows=4000)
    head = Head(encoding="topk:4:f16", classes=50, kind="tokens", shape=(None,))
    tokens = write_store(Path("t"), [random_logits(99, 50)] * 400, head=head)
    sequences = TokenSource([list(range(100))] * 400, ids=range(400))
    workers = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    for batches in (
        sl.loader(store, batch_size=20_000, workers=1).stream(),
        DataLoader(LabelDataset(store), batch_size=20_000, collate_fn=collate, **workers),
        DataLoader(LabelDataset(tokens, inputs=sequences), batch_size=200, collate_fn=TokenCollator(), **workers),
    ):
        try:
            for _ in batches:
                pass
        except StorageFailed as error:
            assert "No space left on device" in str(error), error
            assert "Enlarge /dev/shm" in str(error), error
            print("said")
"""


def test_a_full_shared_memory_is_an_error_within_seconds(tmp_path):
    """Without the check, torch loses the batch, and waits for it for ever if the stream has no end."""
    said, seconds = run(SHARED, "/dev/shm", "size=256k", tmp_path)  # noqa: S108  of a namespace of its own
    assert said.split() == ["said"] * 3
    assert seconds < 100, "a hang would be for ever"
