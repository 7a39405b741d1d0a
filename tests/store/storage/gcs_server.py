"""A small server of the XML interface of Google Cloud Storage, as far as obstore uses it; in memory."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "labels"
DATE = "Fri, 02 Jan 2026 03:04:05 GMT"


@dataclass
class Gcs:
    """The content of the server.

    Attributes:
        objects: Content and generation by name.
        honours_conditions: If False, ``x-goog-if-generation-match`` is ignored.
        requests: Methods and paths that were received.
    """

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    honours_conditions: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list)
    generation: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, data: bytes, condition: str | None) -> tuple[int, dict[str, str]]:
        """Store an object unless the condition on its generation fails."""
        with self.lock:
            current = self.objects.get(name, (b"", 0))[1]
            if self.honours_conditions and condition is not None and int(condition) != current:
                return 412, {}
            self.generation += 1
            self.objects[name] = (data, self.generation)
            return 200, self.headers(name)

    def headers(self, name: str) -> dict[str, str]:
        """Return the headers that describe an object."""
        generation = str(self.objects[name][1])
        return {"ETag": f'"{generation}"', "x-goog-generation": generation, "Last-Modified": DATE}

    def listing(self, query: dict[str, list[str]]) -> bytes:
        """Return the objects with a prefix as XML."""
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        contents, folders = [], set()
        for name, (data, generation) in sorted(self.objects.items()):
            rest = name[len(prefix) :]
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            contents.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size><ETag>{generation}</ETag>"
                "<LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
            )
        prefixes = [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        return f"<ListBucketResult>{''.join(contents + prefixes)}</ListBucketResult>".encode()


def _handler(gcs: Gcs) -> type[BaseHTTPRequestHandler]:  # noqa: C901  one class, closed over the content
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def handle_one_request(self) -> None:
            with suppress(ConnectionError):
                super().handle_one_request()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            gcs.requests.append((self.command, self.path))
            url = urlsplit(self.path)
            bucket, _, name = unquote(url.path).lstrip("/").partition("/")
            if bucket != BUCKET:
                self._answer(404, {}, b"<Error><Code>NoSuchBucket</Code></Error>")
            elif not name:
                self._answer(200, {"Content-Type": "application/xml"}, gcs.listing(parse_qs(url.query)))
            elif self.command == "PUT":
                source = self.headers.get("x-goog-copy-source")
                data = body if source is None else gcs.objects[unquote(source).lstrip("/").partition("/")[2]][0]
                self._answer(*gcs.put(name, data, self.headers.get("x-goog-if-generation-match")), b"")
            elif name not in gcs.objects:
                self._answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
            elif self.command == "DELETE":
                del gcs.objects[name]
                self._answer(204, {}, b"")
            else:
                self._get(name)

        def _get(self, name: str) -> None:
            data, status, headers = gcs.objects[name][0], 200, gcs.headers(name)
            if (match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")) is not None:
                stop = min(int(match[2]) + 1 if match[2] else len(data), len(data))
                headers["Content-Range"] = f"bytes {match[1]}-{stop - 1}/{len(data)}"
                data, status = data[int(match[1]) : stop], 206
            self._answer(status, headers, data)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for header, value in headers.items():
                self.send_header(header, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815  names of http.server

    return Handler


@contextmanager
def gcs_server() -> Iterator[Gcs]:
    """Run the server, and point clients at it by the key of a service account without authentication."""
    gcs = Gcs()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(gcs))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    account = {"gcs_base_url": f"http://127.0.0.1:{server.server_address[1]}", "disable_oauth": True}
    account |= {"client_email": "", "private_key": "", "private_key_id": ""}
    variables = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield gcs
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
        server.shutdown()
        server.server_close()
        thread.join()
