"""Stores on the hub: pushed in few commits, read at one commit, pulled back; and what a hub may answer."""

import pickle

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import (
    InvalidArgument,
    SoftLabelsError,
    StorageFailed,
    StorageUnsupported,
    StoreConflict,
    StoreNotFound,
)
from softlabels.sharing import hub as hub_module
from softlabels.store.storage import hf_storage
from softlabels.store.storage.hf_storage import HfStorage
from softlabels.store.storage.registry import open_storage
from tests.hub_server import Reply, hub_server
from tests.sharing.test_transfer import files

pytest.importorskip("huggingface_hub", reason="the hub needs the extra hub")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub itself
URL = "hf://datasets/team/labels"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_module, "DEADLINE", 2.0)
    with hub_server() as server:
        yield server


def commits(hub, repo="team/labels"):
    return len(hub.commits["datasets", repo])


def once(status, method, path):
    """Refuse the first request that matches."""
    faults = [status]
    return lambda verb, where: faults.pop() if faults and verb == method and path in where else None


def test_a_store_goes_to_a_repository_and_back(sealed, tmp_path, hub):
    """Everything is in one commit behind the first; the same snapshot comes back, byte by byte."""
    outcome = sl.push(sealed, URL)
    assert outcome.new_units == sl.open(sealed).units
    assert commits(hub) == 2
    head = hub.commits["datasets", "team/labels"][-1][0]
    assert outcome.target == f"{URL}@{head}"
    local, store = sl.open(sealed), sl.open(URL)
    assert store.snapshot.digest == local.snapshot.digest
    np.testing.assert_array_equal(store.read([5, 1000, 7]).ids, local.read([5, 1000, 7]).ids)
    assert sl.verify(URL, deep=True).ok
    pulled = sl.pull(URL, tmp_path / "back")
    assert pulled.source == f"{URL}@{head}"
    assert files(tmp_path / "back") == files(sealed)
    again = sl.push(sealed, URL)
    assert (again.new_units, commits(hub)) == (0, 2)


def test_a_reader_stays_at_the_commit_it_began_with(sealed, tmp_path, hub):
    """Also in another process; a URL with a revision names that commit."""
    sl.push(sealed, URL)
    store = sl.open(URL)
    pinned = store.storage.origin
    hub.add("team/labels", {"softlabels.json": b"other"})
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301  made on this line
    np.testing.assert_array_equal(copy.read([3]).ids, sl.open(sealed).read([3]).ids)
    assert sl.open(pinned).snapshot.digest == store.snapshot.digest
    with pytest.raises(SoftLabelsError):
        sl.open(URL)


def test_a_store_lies_in_a_directory_of_a_repository(sealed, hub):
    sl.push(sealed, f"{URL}/deep/labels")
    assert "deep/labels/softlabels.json" in hub.files("team/labels")
    assert sl.open(f"{URL}/deep/labels").rows == 1797
    with pytest.raises(StoreNotFound):
        sl.open(URL)


def test_a_store_that_grew_uploads_new_units_only(tmp_path, hub):
    heads = {"logits": sl.Head(classes=5, encoding="dense:f32")}
    logits = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    for stop, units in ((20, 2), (40, 2)):
        with sl.create(tmp_path / "grows", heads=heads, unit_rows=10) as writer:
            writer.append([f"row {i}" for i in range(stop)], {"logits": logits[:stop]})
        hub.requests.clear()
        assert sl.push(tmp_path / "grows", URL).new_units == units
        uploads = [path for method, path in hub.requests if method == "PUT"]
        assert len(uploads) == len(set(uploads)) <= 8, "a shard and extras a unit, and three files of the snapshot"
    np.testing.assert_array_equal(sl.open(URL).read(range(40)).values, logits)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_interrupted_push_is_not_sealed_and_the_next_one_ends_it(sealed, hub, monkeypatch, batch):
    """Commits of few files; the third one fails for good."""
    monkeypatch.setattr(hub_module, "COMMIT_FILES", batch)
    hub.choose = lambda _method, path: 403 if "/commit/" in path and commits(hub) == 3 else None
    with pytest.raises(StorageFailed, match="access was refused"):
        sl.push(sealed, URL, workers=1)
    with pytest.raises(StoreNotFound):
        sl.open(URL)
    hub.choose = lambda _method, _path: None
    assert sl.push(sealed, URL).new_units < 5
    assert sl.verify(URL, deep=True).ok


@pytest.mark.parametrize("path", ["/preupload/", "/lfs/objects/batch", "PUT", "/commit/"])
@pytest.mark.parametrize("status", [500, 429])
def test_a_request_that_fails_once_is_repeated(sealed, hub, monkeypatch, status, path):
    method = "PUT" if path == "PUT" else "POST"
    hub.choose = once(status, method, "" if path == "PUT" else path)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    sl.push(sealed, URL)
    assert sl.open(URL).rows == 1797


def test_a_commit_of_somebody_else_meanwhile_is_a_conflict(sealed, hub):
    def choose(_method, path):
        if "/commit/" in path and commits(hub) == 1:
            hub.add("team/labels", {"notes.txt": b"mine"})

    hub.choose = choose
    with pytest.raises(StoreConflict, match="somebody else has committed"):
        sl.push(sealed, URL)


def test_a_commit_whose_response_is_lost_counts(sealed, hub):
    """The commit is made, its answer is an error: reading the repository settles it."""

    def lose(kind, repo, revision, *, headers, body):
        del hub._commit
        reply = hub._commit(kind, repo, revision, headers=headers, body=body)
        return type(reply)(b"{}", 504)

    hub._commit = lose
    sl.push(sealed, URL)
    assert commits(hub) == 2
    assert sl.open(URL).rows == 1797


def test_a_repository_with_something_else_is_refused(sealed, hub, tmp_path, teacher):
    hub.add("team/labels", {"data.csv": b"a,b"})
    with pytest.raises(StoreConflict, match="is not empty"):
        sl.push(sealed, URL)
    sl.generate("digits", teacher=teacher, out=tmp_path / "other", encoding="topk:2")
    sl.push(tmp_path / "other", "hf://datasets/team/other")
    with pytest.raises(StoreConflict, match="holds another store"):
        sl.push(sealed, "hf://datasets/team/other")
    with pytest.raises(StoreConflict, match="names a revision"):
        sl.push(sealed, "hf://datasets/team/other@main")


def test_a_token_that_may_not_write_is_noticed_before_anything_is_uploaded(sealed, hub):
    hub.may_write = False
    with pytest.raises(StorageFailed, match=r"access was refused.*HF_TOKEN") as caught:
        sl.push(sealed, URL)
    assert "hf_testing" not in str(caught.value)
    assert not hub.objects


def test_a_repository_or_revision_that_does_not_exist_is_an_error(hub, sealed):
    with pytest.raises(StorageFailed, match="no such repository or revision"):
        sl.open("hf://datasets/team/nothing")
    sl.push(sealed, URL)
    with pytest.raises(StorageFailed, match="no such repository or revision"):
        sl.open(f"{URL}@v9")


@pytest.mark.parametrize("url", ["hf://datasets/labels", "hf://models/a/b", "hf://a/b", "hf://datasets/../b"])
def test_a_url_without_a_repository_is_refused(url):
    with pytest.raises((InvalidArgument, StorageFailed)):
        HfStorage(url).commit  # noqa: B018  the request is what is tested


def test_a_store_on_the_hub_cannot_be_written_to_unit_by_unit(hub, teacher):
    with pytest.raises(StorageUnsupported, match="read only"):
        sl.generate("digits", teacher=teacher, out=URL)


def test_reads_are_repeated_and_damage_is_an_error(sealed, hub, monkeypatch):
    sl.push(sealed, URL)
    hub.choose = once(503, "GET", "/resolve/")
    assert sl.open(URL).rows == 1797
    hub.choose = lambda _method, _path: None
    content = hub.files("team/labels")
    shard = next(name for name in content if name.startswith("shards/"))
    content[shard] = content[shard][:-7]
    with pytest.raises(SoftLabelsError, match=r"bytes where .* were committed"):
        sl.open(URL).read(np.arange(1797))
    assert not sl.verify(URL).ok
    storage = HfStorage(URL, deadline=1.0)
    hub.choose = lambda _method, _path: 503
    with pytest.raises(StorageFailed, match="no answer in 1 s"):
        storage.read("softlabels.json", 10**6)


ANSWERS = {
    "nothing": b"",
    "null": b"null",
    "number": b"7",
    "list of numbers": b"[1, 2]",
    "empty object": b"{}",
    "other fields": b'{"sha": 5, "id": [], "lastModified": "yesterday", "siblings": 3}',
    "a commit that leaves the path": b'{"id": "a/b", "sha": "../../../../other", "siblings": []}',
    "files of no size": b'[{"type": "file", "path": "softlabels.json", "oid": "a", "size": "x"}]',
    "files of negative size": b'[{"type": "file", "path": "softlabels.json", "oid": "a", "size": -9}]',
    "names of no text": b'[{"type": "file", "path": 5, "oid": "a", "size": 1}]',
    "names that leave the directory": b'[{"type": "file", "path": "../../snapshots/00000009.json", "size": 1}]',
    "nested": b"[" * 50_000,
    "no UTF-8": b'{"sha": "\xff"}',
    "a login page": b"<html>please log in</html>",
}


@pytest.fixture
def lying(sealed, hub):
    """A hub with a store; the function makes it answer every request of a kind with a reply."""
    hub.add_folder("team/labels", sealed, "datasets")

    def lie(name, reply):
        setattr(hub, f"_{name}", lambda *_, **__: reply)

    return lie


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("request_kind", ["show", "tree", "paths"])
def test_a_hub_that_answers_nonsense_gives_typed_errors(lying, sealed, tmp_path, request_kind, answer):
    """Nor is a file written outside of the copy."""
    lying(request_kind, Reply(answer, headers={"Content-Type": "application/json"}))
    try:
        sl.pull(HfStorage(URL, deadline=0.3), tmp_path / "outer" / "copy")
    except SoftLabelsError:
        assert not (tmp_path / "outer" / "copy" / "snapshots").exists()
    else:
        assert files(tmp_path / "outer" / "copy") == files(sealed)
    assert {path.name for path in tmp_path.iterdir()} <= {"outer", "cache"}


LIES = {
    "longer": lambda data, _: Reply(data + b"more"),
    "shorter": lambda data, _: Reply(data[:-1]),
    "empty": lambda _data, _: Reply(),
    "flipped": lambda data, _: Reply(bytes([data[0] ^ 1]) + data[1:]),
    "range ignored": lambda data, headers: Reply(data, headers=headers),
    "another range": lambda data, _: Reply(data, 206, {"Content-Range": f"bytes 5-{4 + len(data)}/{len(data) + 5}"}),
    "no range": lambda data, _: Reply(data, 206),
    "a range of digits": lambda data, _: Reply(data, 206, {"Content-Range": "bytes 0-1/" + "9" * 5000}),
    "redirected to itself": lambda _data, headers: Reply(b"", 302, headers),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("directory", ["softlabels.json", "snapshots/", "records/", "shards/"])
def test_a_hub_that_lies_about_a_file_gives_typed_errors_or_the_labels(hub, sealed, tmp_path, directory, lie):
    """As do a server in between, a cache, and a repository whose files were changed."""
    hub.add_folder("team/labels", sealed, "datasets")
    real = hub._resolve

    def resolve(prefix, repo, revision, name, *, headers, body):
        reply = real(prefix, repo, revision, name, headers=headers, body=body)
        if not name.startswith(directory):
            return reply
        return lie(reply.body, {"Location": f"{hub.url}/datasets/{repo}/resolve/{revision}/{name}"})

    hub._resolve = resolve
    try:
        sl.pull(HfStorage(URL, deadline=0.3), tmp_path / "copy")
    except SoftLabelsError:
        assert not (tmp_path / "copy" / "snapshots").exists()
    else:
        assert files(tmp_path / "copy") == files(sealed)


def test_the_token_does_not_follow_a_redirect_to_another_host(hub, sealed):
    """Files lie on other hosts, as those of the real hub do, which are not to know it."""
    hub.add_folder("team/labels", sealed, "datasets")
    real, seen = hub._resolve, []

    def resolve(prefix, repo, revision, name, *, headers, body):
        seen.append((headers["host"].split(":")[0], headers.get("authorization")))
        if headers["host"].startswith("localhost"):
            return real(prefix, repo, revision, name, headers=headers, body=body)
        elsewhere = hub.url.replace("127.0.0.1", "localhost")
        return Reply(b"", 302, {"Location": f"{elsewhere}/datasets/{repo}/resolve/{revision}/{name}"})

    hub._resolve = resolve
    np.testing.assert_array_equal(sl.open(URL).read([5]).ids, sl.open(sealed).read([5]).ids)
    assert {host: token is not None for host, token in seen} == {"127.0.0.1": True, "localhost": False}


@pytest.mark.parametrize("request_kind", ["preupload", "lfs", "commit"])
@pytest.mark.parametrize("answer", [b"", b"{}", b"null", b"[7]"])
def test_a_push_to_a_hub_that_answers_nonsense_gives_typed_errors(hub, sealed, request_kind, answer):
    setattr(hub, f"_{request_kind}", lambda *_, **__: Reply(answer))
    with pytest.raises(SoftLabelsError):
        sl.push(sealed, URL, workers=1)
    with pytest.raises(StoreNotFound):
        sl.open(URL)


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(StorageUnsupported, match=r"softlabels\[hub\]"):
        open_storage(URL).read("softlabels.json", 1)
    assert hf_storage.REPOSITORY_TYPE == "dataset"
