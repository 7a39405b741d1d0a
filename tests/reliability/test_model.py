"""A model of the store: whatever is done to it in whatever order, it is as the model says, or says it is damaged."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import softlabels as sl
from softlabels.errors import StoreCorrupt, StoreIncomplete, StoreNotFound
from softlabels.store import collect_garbage, open_storage, repair, verify
from softlabels.store.format import paths
from softlabels.store.storage.posix import PosixFile, PosixStorage
from tests.reliability import world

UNITS = 4
VERBS = [
    (PosixStorage, "create"), (PosixFile, "sync"), (PosixFile, "publish"), (PosixStorage, "put_if_absent"),
    (os, "link"), (PosixStorage, "settle"),
]  # fmt: skip


class Crash(Exception):
    """The writer died here."""


class StoreMachine(RuleBasedStateMachine):
    """Commits, crashes, damage, repair, sealing and collecting, against a set of units."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
        self.store = world.open_store(self.folder / "store", UNITS)
        self.root = Path(str(self.store.storage))
        self.committed, self.damaged, self.sealed = set(), set(), None

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(unit=st.integers(0, UNITS - 1), extras=st.booleans())
    def commit(self, unit, extras):
        assert world.commit(self.store, unit, extras=extras) == (unit not in self.committed)
        self.committed.add(unit)

    @rule(unit=st.integers(0, UNITS - 1), verb=st.sampled_from(VERBS), when=st.integers(1, 4))
    def crash(self, unit, verb, when):
        owner, name = verb
        real, calls = getattr(owner, name), [0]

        def dying(*arguments):
            calls[0] += 1
            if calls[0] == when:
                raise Crash
            return real(*arguments)

        setattr(owner, name, dying)
        try:
            acknowledged = world.commit(self.store, unit)
        except Crash:
            acknowledged = False
        finally:
            setattr(owner, name, real)
        if acknowledged or (self.root / paths.record_path(unit)).exists():
            self.committed.add(unit)

    @precondition(lambda self: self.committed - self.damaged)
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "remove"]), what=st.sampled_from(["shard", "record"]))
    def damage(self, data, how, what):
        unit = data.draw(st.sampled_from(sorted(self.committed - self.damaged)))
        path = self.root / paths.record_path(unit)
        if what == "shard":
            attempt = self.store.record(unit).attempt
            path = self.root / paths.shard_path(unit, attempt, "zarr")
        content = bytearray(path.read_bytes())
        if how == "remove":
            path.unlink()
        elif how == "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        else:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        if what == "record" and how == "remove":
            self.committed.discard(unit)
        else:
            self.damaged.add(unit)

    @rule()
    def repair(self):
        report = verify(self.root, deep=True)
        damaged = {problem.unit for problem in report.bad if problem.unit is not None}
        assert self.damaged <= damaged
        # Beyond what is damaged only units that a snapshot holds and that were lost or made again.
        assert self.sealed is not None or damaged == self.damaged
        assert set(repair(self.root, report)) == damaged
        self.committed -= damaged
        self.damaged.clear()

    @rule()
    def seal(self):
        try:
            snapshot = sl.seal(self.root)
        except StoreIncomplete:
            assert self.committed != set(range(UNITS))
        except StoreCorrupt:
            assert self.damaged
        else:
            assert self.committed == set(range(UNITS))
            assert self.sealed is None or snapshot.number in {self.sealed.number, self.sealed.number + 1}
            self.sealed = snapshot

    @rule()
    def collect(self):
        try:
            collect_garbage(self.root, delete=True, older_than=0)
        except StoreCorrupt:
            assert self.damaged

    @rule()
    def read(self):
        try:
            labels = sl.open(self.root).read(range(UNITS * world.UNIT_ROWS))
        except StoreNotFound:
            assert self.sealed is None
        except StoreCorrupt:
            assert self.damaged or self.sealed is not None
        else:
            first = [int(i) % 298 for i in range(UNITS * world.UNIT_ROWS)]
            assert labels.ids[:, 0].tolist() == first

    @invariant()
    def what_is_committed_is_right(self):
        assert set(paths.committed_units(open_storage(self.root))) == self.committed
        world.judge(self.root, self.store.descriptor, self.committed - self.damaged)


TestStore = pytest.mark.slow(StoreMachine.TestCase)
TestStore.settings = settings(max_examples=60, stateful_step_count=25)
