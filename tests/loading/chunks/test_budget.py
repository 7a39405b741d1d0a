"""The default memory is a share of the free memory, and the default threads depend on cores and chunks."""

from types import SimpleNamespace

from softlabels.loading.chunks import budget
from softlabels.loading.chunks.budget import MAX_MEMORY, MIN_MEMORY, default_memory


def test_the_default_memory_is_a_share_of_the_free_memory(tmp_path, monkeypatch):
    """The machine's, the control group's of either version, the process's own; within bounds."""
    monkeypatch.setattr(budget, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(budget, "CGROUP", tmp_path)
    monkeypatch.setattr(budget.resource, "getrlimit", lambda _: (budget.resource.RLIM_INFINITY, 0))
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   16777216 kB\nHugePages_Total:       0\n")
    assert default_memory() == 2**31
    assert default_memory(4) == 2**29
    assert default_memory(16) == MIN_MEMORY
    assert default_memory(64) == 2**27, "half of the memory of a process"
    (tmp_path / "memory.max").write_text("max\n")
    assert default_memory() == 2**31
    (tmp_path / "memory.max").write_text(f"{9 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**30}\n")
    assert default_memory() == 2**30
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{4 * 2**30}\n")
    assert default_memory() == 2**29
    (tmp_path / "status").write_text("VmSize:   3145728 kB\nVmData:   1048576 kB\n")
    monkeypatch.setattr(budget, "STATUS", tmp_path / "status")
    limits = {budget.resource.RLIMIT_AS: 6 * 2**30, budget.resource.RLIMIT_DATA: 4 * 2**30 + 2**28}
    monkeypatch.setattr(budget.resource, "getrlimit", lambda kind: (limits[kind], 0))
    assert default_memory() == 3 * 2**27, "3 GiB of address space are free, and more of data"
    limits[budget.resource.RLIMIT_DATA] = 2**30 + 2**28
    assert default_memory() == 2**27, "half of the free memory is less than 256 MiB"
    limits[budget.resource.RLIMIT_DATA] = 2**20
    assert default_memory() == 0
    monkeypatch.undo()
    assert 0 < default_memory() <= MAX_MEMORY


def test_a_kernel_that_does_not_report_free_memory_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MEMINFO", tmp_path / "none")
    assert 0 < default_memory() <= MAX_MEMORY


def test_small_chunks_are_read_by_one_thread_and_large_ones_by_several(monkeypatch):
    """A loader without a store reads no chunks."""
    monkeypatch.setattr(budget, "cores", lambda: 3)
    disk, network = SimpleNamespace(read_threads=1), SimpleNamespace(read_threads=32)
    small, large = (SimpleNamespace(bytes=10 * size, chunks=10, storage=disk) for size in (2**18 - 1, 2**18))
    assert [budget.default_threads(stores) for stores in ([small], [large], [], [small, large])] == [1, 3, 3, 1]
    monkeypatch.setattr(budget, "cores", lambda: 64)
    assert budget.default_threads([large]) == 4
    remote = SimpleNamespace(bytes=small.bytes, chunks=10, storage=network)
    assert budget.default_threads([large, remote]) == 32, "they wait for answers"
    assert [budget.default_threads([remote], workers) for workers in (1, 4, 64)] == [32, 8, 1], "the workers share them"
    assert budget.default_threads([large], 2) == 1
