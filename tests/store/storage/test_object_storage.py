"""Object stores: the storage contract on a real S3 server, and every verb behind a proxy that fails."""

import pickle
import random
import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from blake3 import blake3

import softlabels as sl
from softlabels.errors import StorageFailed, StorageUnknown, StorageUnsupported, StoreBusy
from softlabels.store.storage import range_cache
from softlabels.store.storage.object_storage import ObjectStorage
from softlabels.store.storage.range_cache import RangeCache
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.testing import StorageConformance
from tests.store.storage.object_store_server import BUCKET, Fault, FaultProxy, s3_server, use_server

pytest.importorskip("obstore", reason="object stores need the extra remote")
NAME = "records/00/00000000.json"


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "softlabels" / "ranges"


@pytest.fixture
def location():
    """A prefix that no other test uses."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture
def proxy(server):
    with FaultProxy(server).running() as running, use_server(running.port):
        yield running


class TestConformance(StorageConformance):
    @pytest.fixture
    def storage(self, server, location):
        with use_server(server):
            yield ObjectStorage(location)


def once(fault, method="PUT", path=""):
    """The fault for the first request that matches, then none."""
    faults = [fault]

    def choose(got, where):
        return faults.pop() if faults and got == method and path in where else None

    return choose


def always(fault, method="PUT", path=""):
    """The fault for every request that matches."""
    return lambda got, where: fault if got == method and path in where else None


TRANSIENT = {
    "reset": Fault(before=0),
    "429": Fault(before=429),
    "500": Fault(before=500),
    "503": Fault(before=503),
}


@pytest.mark.parametrize(
    "fault", [*TRANSIENT.values(), Fault(lose=True), Fault(before=409)], ids=[*TRANSIENT, "lost", "409"]
)
def test_a_put_that_fails_once_is_settled(proxy, location, fault):
    """Whatever happened to the first request, the file is there once and counts as ours."""
    storage = ObjectStorage(location, deadline=20)
    proxy.choose = once(fault, path=NAME)
    assert storage.put_if_absent(NAME, b"ours")
    assert not storage.put_if_absent(NAME, b"theirs")
    assert storage.read(NAME, 10) == b"ours"


def test_a_lost_response_to_the_loser_is_a_lost_race(proxy, location):
    storage = ObjectStorage(location, deadline=20)
    storage.put_if_absent(NAME, b"winner")
    proxy.choose = once(Fault(lose=True), path=NAME)
    assert not storage.put_if_absent(NAME, b"loser")
    assert storage.read(NAME, 10) == b"winner"


def test_an_outcome_that_cannot_be_read_back_is_unknown_and_nothing_is_deleted(proxy, location, server):
    storage = ObjectStorage(location, deadline=1.5)
    proxy.choose = lambda method, _path: Fault(lose=method == "PUT", before=503 if method != "PUT" else None)
    with pytest.raises(StorageUnknown, match="unknown if it was stored") as caught:
        storage.put_if_absent(NAME, b"ours")
    assert caught.value.exit_code == 75
    assert not [request for request in proxy.requests if request[0] == "DELETE"]
    proxy.choose = lambda _method, _path: None
    assert storage.put_if_absent(NAME, b"ours"), "the same command again finds its own"


def test_a_service_that_ignores_the_condition_is_noticed(proxy, location):
    proxy.choose = always(Fault(ignore_condition=True))
    with pytest.raises(StorageUnsupported, match="ignores If-None-Match"):
        ObjectStorage(location).prepare()


READ_FAULTS = TRANSIENT | {"lost": Fault(lose=True), "half a body": Fault(cut=0.5), "no body": Fault(cut=0.0)}


@pytest.mark.parametrize("fault", READ_FAULTS.values(), ids=READ_FAULTS)
def test_a_read_that_fails_once_is_repeated(proxy, location, fault):
    storage = ObjectStorage(location, deadline=20)
    data = bytes(range(256)) * 40
    storage.put_if_absent(NAME, data)
    proxy.choose = once(fault, "GET", NAME)
    assert storage.read(NAME, len(data)) == data
    proxy.choose = once(fault, "GET", NAME)
    buffer = bytearray(100)
    storage.read_range(NAME, 300, memoryview(buffer), of=len(data))
    assert bytes(buffer) == data[300:400]


@pytest.mark.parametrize(
    "fault",
    [Fault(ignore_range=True), Fault(body=b"<html>please log in</html>"), Fault(before=500), Fault(cut=0.3)],
    ids=["range ignored", "login page", "500", "cut"],
)
def test_a_range_that_never_arrives_is_an_error_and_no_other_bytes(proxy, location, fault):
    storage = ObjectStorage(location, deadline=1.5)
    data = bytes(range(256)) * 40
    storage.put_if_absent(NAME, data)
    proxy.choose = always(fault, "GET", NAME)
    with pytest.raises((StorageFailed, ValueError)):
        storage.read_range(NAME, 300, memoryview(bytearray(100)), of=len(data))


def test_a_slow_body_is_waited_for(proxy, location):
    storage = ObjectStorage(location)
    storage.put_if_absent(NAME, b"x" * 1000)
    proxy.choose = once(Fault(delay=1.0), "GET", NAME)
    assert storage.read(NAME, 1000) == b"x" * 1000


@pytest.mark.parametrize("status", [401, 403])
def test_refused_access_is_said_at_once_and_without_secrets(proxy, location, status):
    storage = ObjectStorage(location)
    proxy.choose = lambda _method, _path: Fault(before=status)
    for request in (lambda: storage.read(NAME, 1), lambda: storage.put_if_absent(NAME, b""), storage.prepare):
        with pytest.raises(StorageFailed, match=r"access was refused.*Check the credentials") as caught:
            request()
        assert "testing-secret" not in str(caught.value)


def test_a_bucket_that_does_not_exist_is_found_before_the_teacher_loads(server, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "never_loaded.py").write_text("raise AssertionError('the teacher was loaded')")
    url = f"s3://no-such-bucket-{uuid.uuid4().hex}/x"
    with use_server(server), pytest.raises(StorageFailed, match="the bucket does not exist"):
        sl.generate("digits", teacher="python:never_loaded:model", out=url)


def test_a_bucket_that_does_not_exist_is_an_error_of_reading_at_once(server):
    with use_server(server), pytest.raises(StorageFailed, match="the bucket does not exist, got 404 Not Found"):
        sl.open("s3://no-such-bucket-at-all/labels")


def test_an_endpoint_without_encryption_is_refused_with_the_variable_that_permits_it(server, monkeypatch):
    with use_server(server):
        monkeypatch.delenv("AWS_ALLOW_HTTP")
        with pytest.raises(StorageFailed, match=r"no encryption.*http://; expected https://\. Set AWS_ALLOW_HTTP=true"):
            ObjectStorage("s3://labels/x").read(NAME, 1)


CODES = {
    "expired": (400, b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>", "Renew the credentials"),
    "unknown key": (403, b"<Error><Code>InvalidAccessKeyId</Code></Error>", "Check the credentials"),
    "wrong secret": (403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", "secret key is wrong"),
    "clock skew": (403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", "Set the clock"),
    "read only": (403, b"<Error><Code>AccessDenied</Code></Error>", "permissions of the bucket"),
}


@pytest.mark.parametrize("case", CODES)
def test_bad_credentials_are_found_before_the_teacher_loads(proxy, location, tmp_path, monkeypatch, case):
    """Reading works, as it may with credentials that are read only."""
    status, body, advice = CODES[case]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "never_loaded.py").write_text("raise AssertionError('the teacher was loaded')")
    proxy.choose = lambda method, _path: Fault(before=status, body=body) if method == "PUT" else None
    with pytest.raises(StorageFailed, match=advice) as caught:
        sl.generate("digits", teacher="python:never_loaded:model", out=location)
    assert "testing-secret" not in str(caught.value)


def test_verified_ranges_come_from_the_cache_and_a_damaged_one_is_fetched_again(proxy, location, cache):
    storage = ObjectStorage(location)
    data = np.random.default_rng(0).bytes(10_000)
    storage.put_if_absent(NAME, data)
    digest = blake3(data[100:600]).hexdigest()

    def read(digest=digest):
        buffer = bytearray(500)
        before = len(proxy.requests)
        storage.read_verified(NAME, 100, memoryview(buffer), of=len(data), digest=digest)
        assert bytes(buffer) == data[100:600]
        return len(proxy.requests) - before

    assert (read(), read()) == (1, 0)
    (file,) = cache.glob("??/*")
    assert file.name == digest
    file.write_bytes(b"y" * 500)
    assert (read(), read()) == (1, 0)
    with pytest.raises(ValueError, match="not what was committed"):
        read("0" * 64)
    assert len(list(cache.glob("??/*"))) == 1


def test_ranks_and_workers_of_a_machine_fetch_a_range_once(proxy, location, monkeypatch):
    """Each has a cache object of its own; the locks between them are files. A process that hangs holds up nobody."""
    storages, data = [ObjectStorage(location) for _ in range(4)], bytes(range(256)) * 4
    storages[0].put_if_absent(NAME, data)
    proxy.requests.clear()
    proxy.choose = always(Fault(delay=0.05), "GET")

    def read(storage, start=0):
        buffer, digest = bytearray(500), blake3(data[start : start + 500]).hexdigest()
        storage.read_verified(NAME, start, memoryview(buffer), of=len(data), digest=digest)
        return bytes(buffer)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, storages)) == {data[:500]}
    assert [method for method, _ in proxy.requests] == ["GET"]
    monkeypatch.setattr(range_cache, "MAX_WAIT", 0.01)
    cache = RangeCache.of_user()
    with cache.turn(blake3(data[500:1000]).hexdigest(), 500):
        assert read(storages[0], 500) == data[500:1000]
    assert not list(cache._directory.rglob("*.lock")), "locks are deleted"


def test_a_chunk_that_arrives_damaged_is_fetched_again(proxy, location):
    storage = ObjectStorage(location)
    data = b"0123456789" * 100
    storage.put_if_absent(NAME, data)
    digest = blake3(data[:500]).hexdigest()
    other = storage.locate("x")
    assert other
    real, damaged = storage.read_range, [True]

    def read_range(name, offset, into, *, of):
        real(name, offset, into, of=of)
        if damaged:
            damaged.pop()
            into[3] ^= 1

    storage.read_range = read_range
    buffer = bytearray(500)
    storage.read_verified(NAME, 0, memoryview(buffer), of=len(data), digest=digest)
    assert bytes(buffer) == data[:500]


def test_the_cache_is_bounded_and_keeps_what_was_used_last(tmp_path):
    cache = RangeCache(tmp_path / "ranges", max_bytes=64_000)
    digests = []
    for i in range(200):
        data = np.random.default_rng(i).bytes(900)
        digests.append(blake3(data).hexdigest())
        cache.write(digests[-1], memoryview(data))
    files = list((tmp_path / "ranges").glob("??/*"))
    assert sum(file.stat().st_size for file in files) <= 66_000
    buffer = memoryview(bytearray(900))
    assert cache.read(digests[-1], buffer)
    assert not cache.read(digests[0], buffer)
    cache.write(blake3(b"z" * 2000).hexdigest(), memoryview(b"z" * 2000))
    assert not cache.read(blake3(b"z" * 2000).hexdigest(), memoryview(bytearray(2000))), "larger than a 64th"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "ranges").write_text("a file")
    cache = RangeCache(tmp_path / "ranges")
    cache.write(blake3(b"x").hexdigest(), memoryview(b"x"))
    assert not cache.read(blake3(b"x").hexdigest(), memoryview(bytearray(1)))


def test_a_lease_of_a_process_that_died_is_taken_over(server, location, monkeypatch):
    with use_server(server):
        storage, other = ObjectStorage(location), ObjectStorage(location)
        lease = storage.lock("appending")
        with pytest.raises(StoreBusy, match="another process"):
            other.lock("appending")
        lease._ended.set()  # as if its process had been killed: nothing is released or renewed
        monkeypatch.setattr("softlabels.store.storage.object_locks.LEASE_SECONDS", -1.0)
        other.lock("appending").close()


def test_schemes_open_object_stores_and_pickle(location):
    for scheme in ("s3", "gs", "az"):
        storage = open_storage(location.replace("s3", scheme, 1))
        assert isinstance(storage, ObjectStorage)
        assert pickle.loads(pickle.dumps(storage)).location == storage.location  # noqa: S301  made on this line


def test_a_store_is_generated_verified_and_read_in_a_bucket(proxy, location, teacher, dense_logits):
    """The labels of the teacher, generated once; a second epoch asks the service for nothing."""
    outcome = sl.generate("digits", teacher=teacher, out=location, encoding="dense:f32", unit_rows=500)
    assert outcome.missing_units == 0
    assert sl.verify(location).ok
    store = sl.open(location)
    np.testing.assert_array_equal(store.read(np.arange(len(store))).values, dense_logits)
    before = len(proxy.requests)
    np.testing.assert_array_equal(sl.open(location).read(np.arange(len(store))).values, dense_logits)
    assert not [path for _, path in proxy.requests[before:] if "/shards/" in path]
    again = sl.generate("digits", teacher=teacher, out=location, encoding="dense:f32", unit_rows=500)
    assert again.new_units == 0


def test_nothing_is_requested_twice_and_the_first_window_comes_first(proxy, location, tmp_path):
    """Four requests open a store. A batch does not wait behind chunks that are needed later."""
    heads = {"logits": sl.Head(classes=5, encoding="topk:2")}
    with sl.create(tmp_path / "labels", heads=heads, unit_rows=2) as writer:
        writer.append(list(range(24)), {"logits": np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)})
    sl.push(tmp_path / "labels", location)
    proxy.requests.clear()
    store = sl.open(location)
    assert len(proxy.requests) == 4
    expected = sl.open(tmp_path / "labels").read(range(24)).ids
    batches = [batch.targets["logits"].ids for batch in sl.loader(store, batch_size=3, shuffle=False, window=4)]
    np.testing.assert_array_equal(np.concatenate(batches), expected)
    paths = [path for _, path in proxy.requests]
    assert len(paths) == len(set(paths)) == 4 + 1 + 2 * 12, "tail priors, and record and shard of each unit"
    units = [int(match[1]) for path in paths if (match := re.search(r"/(?:records|shards)/00/(\d{8})", path))]
    assert set(units[:8]) == {0, 1, 2, 3}


def test_a_store_is_generated_behind_a_service_that_loses_responses(proxy, location, teacher, dense_logits):
    chance, lock = random.Random(2), threading.Lock()

    def choose(method, path):
        with lock:
            number = chance.random()
        return Fault(lose=True) if number < 0.1 else Fault(before=503) if number < 0.2 else None

    proxy.choose = choose
    outcome = sl.generate("digits", teacher=teacher, out=location, encoding="dense:f32", unit_rows=300)
    assert (outcome.new_units, outcome.missing_units) == (6, 0)
    store = sl.open(location)
    np.testing.assert_array_equal(store.read(np.arange(len(store))).values, dense_logits)


def test_a_student_trains_while_the_service_is_restarted(proxy, location, sealed, tmp_path):
    """Every connection is reset for a second in the middle of the first epoch."""
    sl.push(sealed, location)
    down = threading.Event()
    shards: list[str] = []

    def choose(method, path):
        if "/shards/" in path and method == "GET":
            shards.append(path)
            if len(shards) == 3:
                down.set()
                threading.Timer(1.0, down.clear).start()
        return Fault(before=0) if down.is_set() else None

    proxy.choose = choose
    store = sl.open(location)
    model = sl.train_student(store, "digits", "mlp:width=8", tmp_path / "run", epochs=1)
    assert model.run.metrics.steps > 0
    assert len(shards) > store.units, "requests were repeated"
