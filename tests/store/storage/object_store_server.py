"""A real S3 server for tests (moto), and a proxy in front of it that fails in chosen ways."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "labels"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[int]:
    """Run moto's server with one bucket; yields its port."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            with suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("PUT", f"/{BUCKET}")
                connection.getresponse().read()
                break
            assert time.monotonic() < end, "the server did not start"
            assert process.poll() is None, "the server ended"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def environment(port: int) -> dict[str, str]:
    """Return the variables by which clients find a server on this machine."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_REGION": "us-east-1",
    }


@dataclass
class Fault:
    """One way to fail.

    Attributes:
        before: Status to answer in place of forwarding the request; 0: close the connection.
        lose: Forward the request, then close the connection without an answer.
        cut: Send this share of the body, then close the connection.
        ignore_range: Forward the request without its Range header.
        ignore_condition: Forward the request without If-None-Match.
        delay: Seconds to wait in the middle of the body.
        body: Body of a 200 to answer in place of forwarding the request.
    """

    before: int | None = None
    lose: bool = False
    cut: float | None = None
    ignore_range: bool = False
    ignore_condition: bool = False
    delay: float = 0.0
    body: bytes | None = None


@dataclass
class FaultProxy:
    """A proxy that asks ``choose`` about each request and fails as the answer says.

    Attributes:
        upstream: Port of the real server.
        choose: Maps method and path to a fault, or None to forward the request.
        requests: Methods and paths that were received.
        conditions: Held while a conditional request is carried out.
    """

    upstream: int
    choose: Callable[[str, str], Fault | None] = lambda _method, _path: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0
    conditions: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Serve until the block is left."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        self.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:  # noqa: C901  one class, closed over the proxy
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two packets

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def handle_one_request(self) -> None:
            with suppress(ConnectionError):
                super().handle_one_request()

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.requests.append((self.command, self.path))
            fault = proxy.choose(self.command, self.path) or Fault()
            if fault.before == 0:
                self._drop()
                return
            if fault.before is not None or fault.body is not None:
                self._answer(fault.before or 200, {}, fault.body or b"<Error/>", Fault())
                return
            headers = {
                name: value
                for name, value in self.headers.items()
                if not (fault.ignore_range and name.lower() == "range")
                and not (fault.ignore_condition and name.lower() == "if-none-match")
            }
            connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=30)
            # Moto looks for the object and stores it in two steps, which a real service does in one.
            is_conditional = any(name.lower() == "if-none-match" for name in headers)
            with proxy.conditions if is_conditional else nullcontext():
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                answer = response.read()
            connection.close()
            if fault.lose:
                self._drop()
                return
            self._answer(response.status, dict(response.getheaders()), answer, fault)

        def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
            for name, value in headers.items():
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault.cut is not None:
                self.wfile.write(body[: int(len(body) * fault.cut)])
                self._drop()
                return
            if fault.delay:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(fault.delay)
                body = body[len(body) // 2 :]
            self.wfile.write(body)

        def _drop(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815  names of http.server

    return Handler


@contextmanager
def use_server(port: int) -> Iterator[None]:
    """Set the variables of ``environment`` for this process."""
    before = {name: os.environ.get(name) for name in environment(port)}
    os.environ.update(environment(port))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
