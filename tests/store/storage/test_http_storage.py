"""Stores on a web server: a real one (nginx where it is installed, else Python's), read only and verified."""

import contextlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import SoftLabelsError, StorageFailed, StorageUnsupported, StoreCorrupt, StoreNotFound
from softlabels.store.storage.http_storage import HttpStorage
from softlabels.store.storage.registry import open_storage
from softlabels_cli.main import cli
from tests.store.storage.object_store_server import free_port

pytest.importorskip("obstore", reason="web servers need the extra remote")
NGINX = """
user root; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextlib.contextmanager
def web_server(root, folder, program):
    """A web server over a directory; yields its URL."""
    port = free_port()
    if program == "nginx":
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, root=root))
        command = ["nginx", "-c", str(folder / "nginx.conf")]
    elif program == "ranges":
        command = [sys.executable, str(Path(__file__).with_name("range_server.py")), str(port), str(root)]
    else:
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            except urllib.error.HTTPError:
                break
            except OSError:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.05)
            else:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server(sealed, tmp_path, cache):
    """The URL of a sealed store on nginx, or on Python's server with ranges where nginx is not installed."""
    with web_server(sealed.parent, tmp_path, "nginx" if shutil.which("nginx") else "ranges") as url:
        yield f"{url}/{sealed.name}"


def test_a_sealed_store_is_read_from_a_web_server(sealed, server):
    local, store = sl.open(sealed), sl.open(server)
    assert store.snapshot.digest == local.snapshot.digest
    rows = np.arange(len(store))
    np.testing.assert_array_equal(store.read(rows).ids, local.read(rows).ids)
    batches = list(sl.loader(store, inputs="digits", batch_size=256, seed=0))
    assert sum(len(batch) for batch in batches) == len(local)


def test_a_store_is_inspected_verified_pulled_and_trained_from_without_listing(sealed, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours, expected = (json.loads(call("inspect", place, "--json").stdout) for place in (server, sealed))
    for name in ("rows", "units", "missing_units", "bytes", "snapshot", "teacher", "heads", "quarantined"):
        assert ours[name] == expected[name]
    report = json.loads(call("verify", server, "--deep", "--json", "-q").stdout)
    assert (report["units"], report["missing_units"], report["bad"]) == (expected["units"], 0, [])
    call("pull", server, "copy", "-q")
    assert sl.open("copy").snapshot.digest == expected["snapshot"]["digest"]
    call("train-student", server, "--data", "digits", "--student", "mlp:width=8", "--out", "run", "--epochs", "1", "-q")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_damaged_store_on_a_web_server_is_found(sealed, tmp_path, cache):
    shutil.copytree(sealed, tmp_path / "web" / "labels")
    shard = next((tmp_path / "web" / "labels" / "shards").rglob("00000000-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    next((tmp_path / "web" / "labels" / "records").rglob("00000003.json")).unlink()
    with web_server(tmp_path / "web", tmp_path, "ranges") as url:
        report = sl.verify(f"{url}/labels")
        assert len(report.bad) == 2
        with pytest.raises(StoreCorrupt):
            sl.pull(f"{url}/labels", tmp_path / "copy")
        with pytest.raises(StoreNotFound):
            sl.open(tmp_path / "copy")


def test_the_last_snapshot_is_found_among_many(tmp_path, cache):
    """Numbers are doubled, then halved: some requests, not one a snapshot."""
    heads = {"logits": sl.Head(classes=3, encoding="dense:f32")}
    for rows in range(1, 12):
        with sl.create(tmp_path / "web" / "labels", heads=heads, unit_rows=1) as writer:
            writer.append(list(range(rows)), {"logits": np.zeros((rows, 3), np.float32)})
    with web_server(tmp_path / "web", tmp_path, "ranges") as url:
        assert sl.open(f"{url}/labels").snapshot.number == 11


def call(*arguments):
    """Run a command in this process."""
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def test_a_server_without_ranges_can_be_verified_and_pulled_from(sealed, tmp_path, cache):
    """Python's own server: whole files are read in one request each."""
    with web_server(sealed.parent, tmp_path, "python") as url:
        assert sl.verify(f"{url}/{sealed.name}").ok
        sl.pull(f"{url}/{sealed.name}", tmp_path / "copy")
    assert sl.verify(tmp_path / "copy", deep=True).ok


@contextlib.contextmanager
def answering(answer):
    """A server whose handler is a function of the request handler of http.server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Print nothing."""

        def do_GET(self):
            answer(self)

        do_HEAD = do_GET  # noqa: N815  names of http.server

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_redirect_to_another_host_is_an_error(sealed, server, tmp_path):
    """Its bytes would be verified, but nobody chose that host; a redirect on the same host is followed."""

    def elsewhere(host):
        def answer(request):
            request.send_response(302)
            request.send_header("Location", server.replace("127.0.0.1", host) + request.path)
            request.end_headers()

        return answer

    with answering(elsewhere("localhost")) as port, pytest.raises(StorageFailed, match="redirects to another host"):
        sl.open(f"http://127.0.0.1:{port}")
    with answering(elsewhere("127.0.0.1")) as port:
        assert sl.open(f"http://127.0.0.1:{port}").rows == 1797


LIES = {
    "longer": lambda data: (len(data) + 10, data),
    "shorter": lambda data: (len(data) - 10, data),
    "no length": lambda data: (None, data),
    "huge": lambda data: (2**60, data),
    "negative": lambda data: (-1, data),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_server_that_lies_about_lengths_gives_typed_errors(sealed, cache, lie):
    def answer(request):
        path = sealed / request.path.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        length, body = lie(data)
        request.send_response(200 if path.is_file() else 404)
        if length is not None:
            request.send_header("Content-Length", str(length))
        request.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        request.end_headers()
        with contextlib.suppress(OSError):
            request.wfile.write(b"" if request.command == "HEAD" else body)

    with answering(answer) as port:
        storage = HttpStorage(f"http://127.0.0.1:{port}", deadline=1.0)
        try:
            store = sl.open(storage)
            labels = store.read([0, 5])
        except SoftLabelsError:
            return
        np.testing.assert_array_equal(labels.ids, sl.open(sealed).read([0, 5]).ids)


def test_a_server_that_ignores_ranges_gives_an_error_and_no_labels(sealed, tmp_path, cache):
    """Python's own server answers a request for a range with the whole file."""
    with web_server(sealed.parent, tmp_path, "python") as url:
        store = sl.open(f"{url}/{sealed.name}")
        with pytest.raises((StorageUnsupported, StoreCorrupt), match=r"ranges|not what was committed|bytes"):
            store.read([0])


def test_writing_and_listing_are_typed_errors(sealed, tmp_path, cache, teacher):
    with web_server(sealed.parent, tmp_path, "python") as url:
        with pytest.raises(StorageUnsupported, match="read only"):
            sl.generate("digits", teacher=teacher, out=f"{url}/new")
        for options in ({}, {"rows": "0:5"}):
            with pytest.raises(StorageUnsupported, match="read only"):
                sl.push(sealed, "http://127.0.0.1:9/never-asked", **options)
        with pytest.raises(StorageUnsupported, match="lists no files"):
            open_storage(f"{url}/{sealed.name}").list_names("records")
        with pytest.raises(StoreNotFound):
            sl.open(f"{url}/nothing")
