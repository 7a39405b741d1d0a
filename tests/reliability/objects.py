"""Object stores behind a service that fails: commits with lost responses, races of writers, and every verb by fault.

The service is moto's S3 server behind a proxy. The proxy loses responses after the request was carried out, which no
client can tell from a request that never arrived; resets connections; answers with errors, login pages and cut bodies.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from softlabels.errors import SoftLabelsError
from softlabels.store.storage.object_storage import ObjectStorage
from tests.store.storage.object_store_server import BUCKET, Fault, FaultProxy, s3_server, use_server

WRITERS = 8
LOST = 0.3
"""Share of responses that are lost to commits."""
LOST_IN_RACES = 0.1
DATA = bytes(range(256)) * 64
NAME = "records/00/00000000.json"
FAULTS: dict[str, Fault] = {
    "reset": Fault(before=0), "lost response": Fault(lose=True), "no body": Fault(cut=0.0),
    "a tenth of the body": Fault(cut=0.1), "half the body": Fault(cut=0.5), "nearly all of the body": Fault(cut=0.99),
    "range ignored": Fault(ignore_range=True), "condition ignored": Fault(ignore_condition=True),
    "slow body": Fault(delay=0.05), "login page": Fault(body=b"<html>please log in</html>"),
    "empty answer": Fault(body=b""), "400": Fault(before=400), "401": Fault(before=401), "403": Fault(before=403),
    "408": Fault(before=408), "409": Fault(before=409), "412": Fault(before=412), "429": Fault(before=429),
    "500": Fault(before=500), "503": Fault(before=503),
}  # fmt: skip
"""Ways to fail, each tried on every verb."""


@dataclass
class Outcomes:
    """Counts of what came of trials.

    Attributes:
        tried: Trials.
        right: Trials with the right result.
        refused: Trials that ended in a typed error.
        wrong: Descriptions of the others.
    """

    tried: int = 0
    right: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def service() -> Iterator[FaultProxy]:
    """Run the server and the proxy, and point clients at the proxy."""
    with s3_server() as port, FaultProxy(port).running() as proxy, use_server(proxy.port):
        yield proxy


def location() -> str:
    """Return a prefix that nothing else uses."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


def lose(share: float, seed: int) -> Callable[[str, str], Fault | None]:
    """Return a choice of faults that loses a share of all responses."""
    chance, lock = random.Random(seed), threading.Lock()

    def choose(_method: str, _path: str) -> Fault | None:
        with lock:
            return Fault(lose=True) if chance.random() < share else None

    return choose


def commits(proxy: FaultProxy, count: int, *, seed: int = 0, progress: Callable[[int], Any] = int) -> Outcomes:
    """Put ``count`` records while responses are lost; each is its writer's own, and there with its bytes."""
    storage, outcomes = ObjectStorage(location(), deadline=120), Outcomes(tried=count)
    proxy.choose = lose(LOST, seed)
    with ThreadPoolExecutor(WRITERS) as pool:
        names = [f"records/00/{number:08d}.json" for number in range(count)]
        for number, won in enumerate(pool.map(lambda name: storage.put_if_absent(name, name.encode()), names)):
            outcomes.right += won
            if not won:
                outcomes.wrong.append(f"{names[number]}: a false conflict")
            progress(number + 1)
        proxy.choose = lambda _method, _path: None
        stored = sum(pool.map(lambda name: storage.read(name, 100) == name.encode(), names))
    outcomes.wrong += ["records without the bytes of their writer"] * (stored != count)
    return outcomes


def races(proxy: FaultProxy, count: int, *, seed: int = 1, progress: Callable[[int], Any] = int) -> Outcomes:
    """Let eight writers race for one name, ``count`` times: one wins, and the content is the winner's."""
    where, outcomes = location(), Outcomes(tried=count)
    storages = [ObjectStorage(where, deadline=120) for _ in range(WRITERS)]
    proxy.choose = lose(LOST_IN_RACES, seed)
    with ThreadPoolExecutor(WRITERS) as pool:
        for race in range(count):
            name = f"records/01/{race:08d}.json"
            won = list(pool.map(lambda i, name=name: storages[i].put_if_absent(name, b"%d" % i), range(WRITERS)))
            if won.count(True) == 1 and storages[0].read(name, 10) == b"%d" % won.index(True):
                outcomes.right += 1
            else:
                outcomes.wrong.append(f"{name}: {won.count(True)} winners")
            progress(race + 1)
    proxy.choose = lambda _method, _path: None
    return outcomes


def _read_range(storage: ObjectStorage) -> bytes:
    buffer = bytearray(500)
    storage.read_range(NAME, 300, memoryview(buffer), of=len(DATA))
    return bytes(buffer)


def _read_verified(storage: ObjectStorage) -> bytes:
    buffer = bytearray(500)
    digest = blake3(DATA[300:800]).hexdigest()
    storage.read_verified(NAME, 300, memoryview(buffer), of=len(DATA), digest=digest)
    return bytes(buffer)


def _upload(storage: ObjectStorage) -> bytes:
    file = storage.create()
    file.write(DATA)
    file.publish("shards/00/a")
    return storage.read("shards/00/a", len(DATA))


def _put(storage: ObjectStorage) -> tuple[bool, bytes]:
    return storage.put_if_absent("records/00/new", DATA), storage.read("records/00/new", len(DATA))


def _lose_race(storage: ObjectStorage) -> tuple[bool, bytes]:
    return storage.put_if_absent(NAME, b"other"), storage.read(NAME, len(DATA))


def _move(storage: ObjectStorage) -> bytes:
    storage.move(NAME, "quarantine/a")
    return storage.read("quarantine/a", len(DATA))


def _delete(storage: ObjectStorage) -> bool:
    storage.delete(NAME)
    return storage.info(NAME) is None


def _lock(storage: ObjectStorage) -> bool:
    lock = storage.lock("appending")
    was_held = not lock.closed
    lock.close()
    return was_held


def _claim(storage: ObjectStorage) -> bool:
    with storage.claim() as claims:
        return claims.take(3)


VERBS: dict[str, tuple[Callable[[ObjectStorage], Any], Any]] = {
    "read": (lambda storage: storage.read(NAME, len(DATA)), DATA),
    "read_range": (_read_range, DATA[300:800]),
    "read_verified": (_read_verified, DATA[300:800]),
    "read_blocks": (lambda storage: b"".join(storage.read_blocks(NAME)), DATA),
    "list_names": (lambda storage: storage.list_names("records/00"), ["00000000.json"]),
    "walk": (lambda storage: list(storage.walk("records")), [NAME]),
    "info": (lambda storage: storage.info(NAME).size, len(DATA)),  # type: ignore[union-attr]
    "clock": (lambda storage: storage.clock() > 0, True),
    "put_if_absent": (_put, (True, DATA)),
    "put_if_absent of a loser": (_lose_race, (False, DATA)),
    "publish": (_upload, DATA),
    "move": (_move, DATA),
    "delete": (_delete, True),
    "lock": (_lock, True),
    "claim": (_claim, True),
}
"""Verbs with their right result."""


def verbs(
    proxy: FaultProxy, faults: dict[str, Fault], *, times: int = 1, progress: Callable[[int], Any] = int
) -> Outcomes:
    """Fail the first requests of every verb: the result is right, or there is a typed error.

    Args:
        proxy: The proxy.
        faults: Faults to try.
        times: Requests that fail.
        progress: Called with the number of trials.
    """
    outcomes = Outcomes()
    for verb, (call, expected) in VERBS.items():
        for name, fault in faults.items():
            if fault.ignore_condition and verb == "put_if_absent of a loser":
                continue  # no client can notice one such answer; a service that gives them is refused at creation
            proxy.choose = lambda _method, _path: None
            storage = ObjectStorage(location(), deadline=1.0)
            storage._cache._max_bytes = 0  # every read goes to the service
            storage.put_if_absent(NAME, DATA)
            budget = [fault] * times
            proxy.choose = lambda _method, _path, budget=budget: budget.pop() if budget else None
            outcomes.tried += 1
            try:
                result = call(storage)
            except (SoftLabelsError, FileNotFoundError, FileExistsError, ValueError):
                outcomes.refused += 1
            except Exception as error:  # noqa: BLE001  to be counted
                outcomes.wrong.append(f"{verb}, {name}: {type(error).__name__}: {error}"[:200])
            else:
                outcomes.right += result == expected
                if result != expected:
                    outcomes.wrong.append(f"{verb}, {name}: {result!r:.80}")
            progress(outcomes.tried)
    proxy.choose = lambda _method, _path: None
    return outcomes
