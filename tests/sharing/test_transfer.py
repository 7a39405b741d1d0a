"""Push and pull: equal stores, only what is missing, and never a copy that looks complete when it is not."""

import json
import re
import shutil
import signal
import uuid
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import SoftLabelsError, StoreConflict, StoreCorrupt, StoreIncomplete, StoreNotFound
from softlabels.store.storage.posix import PosixStorage
from softlabels_cli.main import cli
from tests.store.storage.object_store_server import BUCKET, Fault, FaultProxy, environment, s3_server, use_server
from tests.warm import WarmPython


def files(folder):
    """The content of every file of a store, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


class Stops(PosixStorage):
    """A directory that fails after a number of files were stored, as a killed process would leave it."""

    def __init__(self, directory, after):
        super().__init__(directory)
        self.after = after

    def put_if_absent(self, name, data):
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt
        return super().put_if_absent(name, data)


def test_a_copy_is_equal_file_by_file_and_verifies(sealed, tmp_path):
    outcome = sl.push(sealed, tmp_path / "copy")
    assert outcome.new_units == outcome.units == sl.open(sealed).units
    assert outcome.digest == sl.open(sealed).snapshot.digest
    assert files(tmp_path / "copy") == files(sealed)
    assert sl.verify(tmp_path / "copy", deep=True).ok
    again = sl.push(sealed, tmp_path / "copy")
    assert (again.new_units, again.bytes) == (0, 0)


@pytest.mark.parametrize("after", range(7))
def test_an_interrupted_copy_is_not_sealed_and_the_next_one_ends_it(sealed, tmp_path, after):
    """Stopped before each of the descriptor, five records and the snapshot in turn."""
    with pytest.raises(KeyboardInterrupt):
        sl.push(sealed, Stops(tmp_path / "copy", after), workers=1)
    with pytest.raises(StoreNotFound):
        sl.open(tmp_path / "copy")
    sl.push(sealed, tmp_path / "copy")
    assert sl.verify(tmp_path / "copy", deep=True).ok
    assert sl.open(tmp_path / "copy").snapshot.digest == sl.open(sealed).snapshot.digest


def test_a_store_that_grew_is_topped_up(tmp_path):
    heads = {"logits": sl.Head(classes=5, encoding="dense:f32")}
    logits = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    for stop, units in ((20, 2), (40, 2)):
        with sl.create(tmp_path / "grows", heads=heads, unit_rows=10) as writer:
            writer.append([f"row {i}" for i in range(stop)], {"logits": logits[:stop]})
        assert sl.push(tmp_path / "grows", tmp_path / "copy").new_units == units
    assert len(sl.open(tmp_path / "copy")) == 40
    np.testing.assert_array_equal(sl.open(tmp_path / "copy").read(range(40)).values, logits)


def test_a_copy_of_appended_rows_that_was_interrupted_cannot_be_sealed(tmp_path):
    """It has no number of rows to miss; sealed, it would pass for a smaller store."""
    heads = {"logits": sl.Head(classes=5, encoding="dense:f32")}
    logits = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)

    def interrupted(target):
        steps = iter(range(2))
        with pytest.raises(KeyboardInterrupt):
            sl.push(tmp_path / "grows", target, workers=1, progress=lambda *_: next(steps, None) is None and stop())

    def stop():
        raise KeyboardInterrupt

    for rows in (20, 40):  # the second time it is a top-up
        with sl.create(tmp_path / "grows", heads=heads, unit_rows=4) as writer:
            writer.append([f"row {i}" for i in range(rows)], {"logits": logits[:rows]})
        interrupted(tmp_path / "copy")
        with pytest.raises(StoreIncomplete, match=r"a copy that was interrupted.*Run the same push or pull again"):
            sl.seal(tmp_path / "copy")
        report = sl.verify(tmp_path / "copy")
        assert (report.ok, report.fix) == (False, "copy")
        assert "Run the push or pull command that makes" in report.advice
        with pytest.raises(StoreIncomplete), sl.create(tmp_path / "copy", heads=heads, unit_rows=4) as writer:
            writer.append(["another"], {"logits": logits[:1]})
        assert len(sl.push(tmp_path / "grows", tmp_path / "new" / str(rows)).digest) == 64
        shutil.rmtree(tmp_path / "copy")
        interrupted(tmp_path / "copy")
        assert sl.push(tmp_path / "grows", tmp_path / "copy").digest == sl.open(tmp_path / "grows").snapshot.digest
        assert sl.verify(tmp_path / "copy", deep=True).ok
        assert not (tmp_path / "copy" / "copying.json").exists()


@pytest.mark.parametrize("directory", ["shards", "extras", "records", "snapshots"])
def test_a_damaged_source_gives_an_error_and_no_sealed_copy(sealed, tmp_path, directory):
    """Every file is hashed on the way."""
    shutil.copytree(sealed, tmp_path / "bad")
    for path in sorted((tmp_path / "bad" / directory).rglob("*.*"))[:1]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises((StoreCorrupt, StoreNotFound)):
        sl.push(tmp_path / "bad", tmp_path / "copy")
    with pytest.raises(SoftLabelsError):
        sl.open(tmp_path / "copy")


@pytest.mark.parametrize("directory", ["shards", "extras"])
def test_a_source_whose_files_do_not_end_does_not_fill_the_disk(sealed, tmp_path, directory):
    """A file of 16 TiB with a hole; the copy ends at the size that was sealed."""
    shutil.copytree(sealed, tmp_path / "source")
    path = next((tmp_path / "source" / directory).rglob("0*"))
    path = next(path.iterdir()) if path.is_dir() else path
    with path.open("r+b") as file:
        file.truncate(2**43)
    with pytest.raises(StoreCorrupt, match="it has more than"):
        sl.push(tmp_path / "source", tmp_path / "copy")
    assert sum(file.stat().st_size for file in (tmp_path / "copy").rglob("*") if file.is_file()) < 2**22


def test_a_target_that_is_not_a_copy_is_refused_and_left_as_it_is(sealed, tmp_path, teacher):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StoreConflict, match=r"is not empty, got notes\.txt"):
        sl.push(sealed, tmp_path / "other")
    sl.generate("digits", teacher=teacher, out=tmp_path / "store", encoding="topk:2")
    before = files(tmp_path / "store")
    with pytest.raises(StoreConflict, match="holds another store"):
        sl.push(sealed, tmp_path / "store")
    assert files(tmp_path / "store") == before


def test_a_shard_of_the_target_with_other_bytes_is_noticed(sealed, tmp_path):
    """Its record is not there yet, so this copy would commit it."""
    sl.push(sealed, tmp_path / "copy")
    shard = next((tmp_path / "copy" / "shards").rglob("00000000-*"))
    (tmp_path / "copy" / "records" / "00" / "00000000.json").unlink()
    shutil.rmtree(tmp_path / "copy" / "snapshots")
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"has other bytes than were sealed"):
        sl.push(sealed, tmp_path / "copy")


def test_a_pinned_digest_is_checked_before_anything_is_copied(sealed, tmp_path):
    with pytest.raises(StoreCorrupt):
        sl.pull(sealed, tmp_path / "copy", digest="0" * 64)
    assert not (tmp_path / "copy").exists()
    digest = sl.open(sealed).snapshot.digest
    assert sl.pull(sealed, tmp_path / "copy", digest=digest).digest == digest


def test_the_commands_copy_and_print_json(sealed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["push", str(sealed), str(tmp_path / "copy"), "--json", "-q"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["new_units"], printed["target"]) == (printed["units"], str(tmp_path / "copy"))
    done = CliRunner().invoke(cli, ["pull", str(tmp_path / "copy"), str(tmp_path / "third"), "-q"])
    assert done.exit_code == 0
    assert f"digest {printed['digest']}" in done.stdout


def test_a_store_goes_to_a_bucket_and_back(sealed, tmp_path, monkeypatch):
    """The same snapshot, byte by byte."""
    pytest.importorskip("obstore", reason="object stores need the extra remote")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}/labels"
    with s3_server() as port, use_server(port):
        sl.push(sealed, url)
        assert sl.verify(url, deep=True).ok
        sl.pull(url, tmp_path / "back")
    assert files(tmp_path / "back") == files(sealed)


PUSH = "import sys, softlabels as sl; sl.push(sys.argv[1], sys.argv[2], workers=2)"


def test_a_killed_push_and_a_killed_pull_are_ended_by_the_same_call(tmp_path, monkeypatch):
    """Both are killed at a request in the middle; what they had copied is not copied again."""
    pytest.importorskip("obstore", reason="object stores need the extra remote")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    heads = {"logits": sl.Head(classes=5, encoding="dense:f32")}
    with sl.create(tmp_path / "source", heads=heads, unit_rows=5) as writer:
        writer.append(list(range(60)), {"logits": np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)})
    url, digest = f"s3://{BUCKET}/labels", sl.open(tmp_path / "source").snapshot.digest

    def kill(source, target, method, number):
        """Kill a copy at its n-th request of a method, and let the request be lost."""
        numbers = iter(range(1, 10**6))

        def choose(verb, _path):
            if verb == method and next(numbers) >= number:
                process.kill()
                return Fault(before=0)
            return None

        process = WarmPython("-c", PUSH, source, target, environment=environment(proxy.port))
        proxy.choose = choose
        assert process.wait(120) == -signal.SIGKILL
        proxy.choose = lambda *_: None
        with pytest.raises(StoreNotFound):
            sl.open(target)

    with s3_server() as server, FaultProxy(server).running() as proxy, use_server(proxy.port):
        kill(tmp_path / "source", url, "PUT", 15)
        outcome = sl.push(tmp_path / "source", url)
        assert (outcome.digest, outcome.units) == (digest, 12)
        assert 0 < outcome.new_units < 12
        kill(url, tmp_path / "copy", "GET", 30)
        outcome = sl.pull(url, tmp_path / "copy")
        assert outcome.digest == digest
        assert 0 < outcome.new_units < 12
    copied = {name: data for name, data in files(tmp_path / "copy").items() if not name.startswith("tmp/")}
    assert copied == files(tmp_path / "source"), "beside temporary files, which gc deletes"


def test_a_top_up_asks_a_bucket_for_new_units_only(tmp_path, monkeypatch):
    """One listing of records, and of the 40 units that are there no request at all."""
    pytest.importorskip("obstore", reason="object stores need the extra remote")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    heads = {"logits": sl.Head(classes=5, encoding="dense:f32")}
    logits = np.random.default_rng(0).normal(size=(84, 5)).astype(np.float32)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}/labels"
    with s3_server() as server, FaultProxy(server).running() as proxy, use_server(proxy.port):
        for stop, units in ((80, 40), (84, 2)):
            with sl.create(tmp_path / "grows", heads=heads, unit_rows=2) as writer:
                writer.append(list(range(stop)), {"logits": logits[:stop]})
            proxy.requests.clear()
            assert sl.push(tmp_path / "grows", url).new_units == units
        named = [path for _, path in proxy.requests if re.search(r"/0000\d{4}[.-]", path) and "/snapshots/" not in path]
        assert {re.search(r"/(0000\d{4})[.-]", path)[1] for path in named if "/probe/" not in path} == {
            "00000040",
            "00000041",
        }
        assert len(proxy.requests) < 40
        assert sl.open(url).rows == 84
