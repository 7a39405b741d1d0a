"""Python's static web server with support for ranges: ``python range_server.py PORT DIRECTORY``."""

from __future__ import annotations

import functools
import http.server
import io
import re
import sys
from typing import BinaryIO


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and parts of them on request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def send_head(self) -> BinaryIO | None:
        """Send the headers of a file, or of the range of it that was asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        file = open(self.translate_path(self.path), "rb") if match and not self.path.endswith("/") else None  # noqa: PTH123, SIM115
        if match is None or file is None:
            return super().send_head()  # type: ignore[return-value]
        with file:
            data = file.read()
        start, stop = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        return io.BytesIO(data[start:stop])


if __name__ == "__main__":
    handler = functools.partial(RangeHandler, directory=sys.argv[2])
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
