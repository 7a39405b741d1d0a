"""A local server with the endpoints of the Hugging Face hub that clients use: repositories, commits, LFS, ranges.

It keeps everything in memory. `huggingface_hub` and `transformers` work against it in this process and in others:

    with hub_server() as hub:
        HfApi(endpoint=hub.url, token="any").create_repo("team/labels", repo_type="dataset")

`hub_server` points the environment and a loaded huggingface_hub at the server and switches Xet off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DATE = "2026-01-02T03:04:05.000Z"
SAMPLE_BYTES = 4096
"""Files above this size, and of binary types, are LFS files."""
BINARY = (".parquet", ".zip", ".safetensors", ".bin", ".npz")
ROUTES = {
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate",
    r"GET /api/whoami-v2": "whoami",
    r"GET /api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?": "show",
    r"GET /api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)/?(.*)": "tree",
    r"GET /api/(models|datasets)/([^/]+/[^/]+)/commits/([^/]+)": "log",
    r"POST /api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)": "paths",
    r"POST /api/(models|datasets)/([^/]+/[^/]+)/preupload/([^/]+)": "preupload",
    r"POST /api/(models|datasets)/([^/]+/[^/]+)/commit/([^/]+)": "commit",
    r"POST /(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch": "lfs",
    r"PUT /lfs/([0-9a-f]{64})": "store",
    r"(?:GET|HEAD) /(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)": "resolve",
}


@dataclass
class Reply:
    """A response of the server."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A response with an error code of the hub."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.reply = Reply(
            json.dumps({"error": code}).encode(), status, {"X-Error-Code": code, "X-Error-Message": code}
        )


@dataclass
class Hub:
    """The content of the server.

    Attributes:
        commits: Commits by kind (``models`` or ``datasets``) and name: pairs of a hash and the files by path.
        titles: Messages of commits by their hash.
        objects: LFS objects by SHA-256.
        requests: Methods and paths that were received.
        choose: Maps method and path to a status to answer with, or None to answer properly.
        may_write: If False, every request that changes something is refused with 403.
    """

    url: str = ""
    commits: dict[tuple[str, str], list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    choose: Callable[[str, str], int | None] = lambda _method, _path: None
    may_write: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, repo: str, files: dict[str, bytes], kind: str = "datasets") -> str:
        """Commit files to a repository, which is made if it does not exist; returns the hash of the commit."""
        with self.lock:
            history = self.commits.setdefault((kind, repo), [])
            content = (dict(history[-1][1]) if history else {}) | files
            sha = hashlib.sha1(f"{kind}/{repo}/{len(history)}".encode()).hexdigest()  # noqa: S324  as git
            history.append((sha, content))
            return sha

    def add_folder(self, repo: str, folder: Path, kind: str = "models") -> str:
        """Commit the files of a directory."""
        return self.add(
            repo, {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}, kind
        )

    def files(self, repo: str, kind: str = "datasets") -> dict[str, bytes]:
        """Return the files of the last commit by path."""
        return self.commits[kind, repo][-1][1]

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Reply:
        """Return the response to a request."""
        path = unquote(urlsplit(target).path)
        for pattern, name in ROUTES.items():
            if (match := re.fullmatch(pattern, f"{method} {path}")) is not None:
                with self.lock:
                    return getattr(self, f"_{name}")(*match.groups(), headers=headers, body=body)
        raise Refusal(404, "EntryNotFound")

    def _at(self, kind: str, repo: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        history = self.commits.get((kind, repo))
        if history is None:
            raise Refusal(401, "RepoNotFound")
        for sha, files in reversed(history):
            if revision in {None, "main", sha}:
                return sha, files
        raise Refusal(404, "RevisionNotFound")

    def _check_write(self) -> None:
        if not self.may_write:
            raise Refusal(403, "Forbidden")

    def _create(self, *, headers: Any, body: bytes) -> Reply:
        self._check_write()
        request = json.loads(body)
        kind, repo = f"{request.get('type', 'model')}s", f"{request.get('organization') or 'me'}/{request['name']}"
        place = {"url": f"{self.url}/{'datasets/' if kind == 'datasets' else ''}{repo}"}
        if (kind, repo) in self.commits:
            return Reply(json.dumps(place).encode(), 409)
        self.add(repo, {".gitattributes": b"*.parquet filter=lfs"}, kind)
        return _json(place)

    def _validate(self, *, headers: Any, body: bytes) -> Reply:
        return _json({"errors": [], "warnings": []})

    def _whoami(self, *, headers: Any, body: bytes) -> Reply:
        return _json({"name": "me", "type": "user"})

    def _show(self, kind: str, repo: str, revision: str | None, *, headers: Any, body: bytes) -> Reply:
        sha, files = self._at(kind, repo, revision)
        names = [{"rfilename": name} for name in sorted(files)]
        return _json({"_id": "1", "id": repo, "sha": sha, "lastModified": DATE, "siblings": names, "tags": []})

    def _tree(self, kind: str, repo: str, revision: str, folder: str, *, headers: Any, body: bytes) -> Reply:
        _, files = self._at(kind, repo, revision)
        prefix = f"{folder}/" if folder else ""
        inside = [name for name in sorted(files) if name.startswith(prefix)]
        if folder and not inside:
            raise Refusal(404, "EntryNotFound")
        if parse_qs(headers["query"]).get("recursive", ["false"])[0].lower() in {"true", "1"}:
            return _json([_file(name, files[name]) for name in inside])
        direct = [_file(name, files[name]) for name in inside if "/" not in name[len(prefix) :]]
        folders = sorted({name[len(prefix) :].split("/")[0] for name in inside if "/" in name[len(prefix) :]})
        return _json(
            [{"type": "directory", "path": prefix + name, "oid": "0" * 40, "size": 0} for name in folders] + direct
        )

    def _log(self, kind: str, repo: str, revision: str, *, headers: Any, body: bytes) -> Reply:
        self._at(kind, repo, revision)
        shared = {"authors": [], "date": DATE, "message": ""}
        return _json(
            [shared | {"id": sha, "title": self.titles.get(sha, "")} for sha, _ in reversed(self.commits[kind, repo])]
        )

    def _paths(self, kind: str, repo: str, revision: str, *, headers: Any, body: bytes) -> Reply:
        _, files = self._at(kind, repo, revision)
        names = parse_qs(body.decode()).get("paths", [])
        return _json([_file(name, files[name]) for name in names if name in files])

    def _preupload(self, kind: str, repo: str, revision: str, *, headers: Any, body: bytes) -> Reply:
        self._check_write()
        self._at(kind, repo, revision)
        modes = [
            {"path": file["path"], "shouldIgnore": False, "uploadMode": _mode(file["path"], file["size"])}
            for file in json.loads(body)["files"]
        ]
        return _json({"files": modes})

    def _lfs(self, prefix: str | None, repo: str, *, headers: Any, body: bytes) -> Reply:
        self._check_write()
        objects = []
        for item in json.loads(body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.url}/lfs/{item['oid']}", "header": {}}}
            objects.append(entry)
        return _json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, *, headers: Any, body: bytes) -> Reply:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "BadDigest")
        self.objects[oid] = body
        return Reply()

    def _commit(self, kind: str, repo: str, revision: str, *, headers: Any, body: bytes) -> Reply:
        self._check_write()
        head, files = self._at(kind, repo, revision)
        files, title = dict(files), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit", head) != head:
                    raise Refusal(412, "PreconditionFailed")
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Refusal(400, "MissingObject")
                files[value["path"]] = self.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        history = self.commits[kind, repo]
        sha = hashlib.sha1(f"{kind}/{repo}/{len(history)}".encode()).hexdigest()  # noqa: S324  as git
        history.append((sha, files))
        self.titles[sha] = title
        return _json({"commitUrl": f"{self.url}/{repo}/commit/{sha}", "commitOid": sha, "hookOutput": ""})

    def _resolve(self, prefix: str | None, repo: str, revision: str, name: str, *, headers: Any, body: bytes) -> Reply:
        sha, files = self._at("datasets" if prefix else "models", repo, revision)
        if name not in files:
            raise Refusal(404, "EntryNotFound")
        data, status, extra = files[name], 200, {"X-Repo-Commit": sha, "ETag": f'"{_oid(files[name])}"'}
        if (match := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range") or "")) is not None:
            start = int(match[1])
            stop = min(int(match[2]) + 1 if match[2] else len(data), len(data))
            extra["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        return Reply(data, status, extra | {"Accept-Ranges": "bytes"})


def _json(value: Any) -> Reply:
    return Reply(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def _mode(name: str, size: int) -> str:
    return "lfs" if size > SAMPLE_BYTES or name.endswith(BINARY) else "regular"


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324  as git


def _file(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "oid": _oid(data), "size": len(data)}
    if _mode(name, len(data)) == "lfs":
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two packets

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def handle_one_request(self) -> None:
            with suppress(ConnectionError):
                super().handle_one_request()

        def _serve(self) -> None:
            body = self._body()
            hub.requests.append((self.command, self.path))
            headers = {name.lower(): value for name, value in self.headers.items()}
            headers["query"] = urlsplit(self.path).query
            try:
                status = hub.choose(self.command, self.path)
                reply = (
                    Reply(b"{}", status) if status is not None else hub.answer(self.command, self.path, headers, body)
                )
            except Refusal as refusal:
                reply = refusal.reply
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        def _body(self) -> bytes:
            if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_PUT = do_POST = do_HEAD = _serve  # noqa: N815  names of http.server

    return Handler


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run a hub, and point the environment and a loaded huggingface_hub at it, until the block is left."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        with _pointed_at(hub.url):
            yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _pointed_at(url: str) -> Iterator[None]:
    variables = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_testing", "HF_HUB_OFFLINE": "0"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    # The package reads the environment when it is imported, which may be long ago.
    constants = sys.modules.get("huggingface_hub.constants")
    values = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    old = {name: getattr(constants, name) for name in values} if constants is not None else {}
    for name in old:
        setattr(constants, name, values[name])
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(constants, name, value)
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
