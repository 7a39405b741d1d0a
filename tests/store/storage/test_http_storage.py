"""Stores on a web server: a real one (nginx where it is installed, else Python's), read only and verified."""

import contextlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import StorageUnsupported, StoreCorrupt, StoreNotFound
from softlabels.store.storage.registry import open_storage
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


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_a_sealed_store_is_read_from_nginx(sealed, tmp_path, cache):
    with web_server(sealed.parent, tmp_path, "nginx") as url:
        local, store = sl.open(sealed), sl.open(f"{url}/{sealed.name}")
        assert store.snapshot.digest == local.snapshot.digest
        rows = np.arange(len(store))
        np.testing.assert_array_equal(store.read(rows).ids, local.read(rows).ids)
        batches = list(sl.loader(store, inputs="digits", batch_size=256, seed=0))
        assert sum(len(batch) for batch in batches) == len(local)


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
        with pytest.raises(StorageUnsupported, match="lists no files"):
            open_storage(f"{url}/{sealed.name}").list_names("records")
        with pytest.raises(StoreNotFound):
            sl.open(f"{url}/nothing")
