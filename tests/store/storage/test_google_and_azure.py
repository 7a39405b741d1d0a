"""Google Cloud Storage and Azure: the storage contract on a small server of ours, and on azurite where it is there."""

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import shutil
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

import softlabels as sl
from softlabels.errors import StorageUnsupported
from softlabels.store.storage.object_storage import ObjectStorage
from softlabels.store.storage.testing import StorageConformance
from tests.store.storage.gcs_server import BUCKET, gcs_server
from tests.store.storage.object_store_server import free_port

pytest.importorskip("obstore", reason="object stores need the extra remote")
INSTALLED = Path(__file__).parents[3] / "cache" / "azurite" / "node_modules" / ".bin"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # azurite's own


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def gcs():
    with gcs_server() as server:
        yield server


class TestGoogle(StorageConformance):
    @pytest.fixture
    def storage(self, gcs):
        return ObjectStorage(f"gs://{BUCKET}/{uuid.uuid4().hex}/store", deadline=10)


@pytest.mark.parametrize("service", ["gcs", "azurite"])
def test_a_lease_is_replaced_once(request, service):
    """Google compares generations, the others ETags."""
    request.getfixturevalue(service)
    scheme = {"gcs": "gs", "azurite": "az"}[service]
    storage = ObjectStorage(f"{scheme}://{BUCKET}/{uuid.uuid4().hex}", deadline=10)
    first = storage.put("tmp/a.lock", b"1")
    assert storage.version("tmp/a.lock") == first
    assert storage.put("tmp/a.lock", b"2", replace=first) is not None
    assert storage.put("tmp/a.lock", b"3", replace=first) is None
    assert storage.read("tmp/a.lock", 1) == b"2"


def test_a_store_goes_to_google_and_back(gcs, sealed, tmp_path):
    url = f"gs://{BUCKET}/{uuid.uuid4().hex}/labels"
    sl.push(sealed, url)
    assert sl.verify(url, deep=True).ok
    assert sl.pull(url, tmp_path / "back").digest == sl.open(sealed).snapshot.digest


def test_a_service_that_ignores_generations_is_refused_before_anything_is_written(gcs, sealed, teacher):
    """As some emulators do: the second of two writers would replace the record of the first."""
    gcs.honours_conditions = False
    url = f"gs://{BUCKET}/{uuid.uuid4().hex}/labels"
    try:
        for verb in (lambda: sl.push(sealed, url), lambda: sl.generate("digits", teacher=teacher, out=url)):
            with pytest.raises(StorageUnsupported, match="ignores If-None-Match"):
                verb()
    finally:
        gcs.honours_conditions = True
    prefix = url.removeprefix(f"gs://{BUCKET}/")
    assert [name for name in gcs.objects if name.startswith(prefix)] == []


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    """A container on Azure's emulator."""
    program = shutil.which("azurite-blob") or shutil.which("azurite-blob", path=INSTALLED)
    if program is None:
        pytest.skip("azurite is not installed (make azurite)")
    port, folder = free_port(), tmp_path_factory.mktemp("azurite")
    options = ["--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry"]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    variables = {
        "AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        "AZURE_ALLOW_HTTP": "true",
    }  # fmt: skip
    try:
        end = time.monotonic() + 60
        while True:
            with suppress(OSError):
                make_container(port)
                break
            assert time.monotonic() < end, "azurite did not start"
            time.sleep(0.2)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            yield port
    finally:
        process.terminate()
        process.wait()


def make_container(port):
    """Make the container by a signed request."""
    date = dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    place = f"/{ACCOUNT}/{BUCKET}"
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}{place}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("PUT", f"{place}?restype=container", headers=headers | {"Content-Length": "0"})
    assert connection.getresponse().status == 201
    connection.close()


class TestAzure(StorageConformance):
    @pytest.fixture
    def storage(self, azurite):
        return ObjectStorage(f"az://{BUCKET}/{uuid.uuid4().hex}/store", deadline=20)


def test_a_store_goes_to_azure_and_back(azurite, sealed, tmp_path):
    url = f"az://{BUCKET}/{uuid.uuid4().hex}/labels"
    sl.push(sealed, url)
    assert sl.verify(url, deep=True).ok
    assert sl.pull(url, tmp_path / "back").digest == sl.open(sealed).snapshot.digest
