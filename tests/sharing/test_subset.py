"""Parts of stores: rows, keys, heads, views and fewer classes, each a store of its own."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreConflict, StoreNotFound
from softlabels.sharing.selection import Selection
from softlabels_cli.main import cli
from tests.sharing.test_transfer import Stops

ROWS = 60
CLASSES = 12


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(scale=3, size=(2 * ROWS, CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory, logits):
    """Two heads, two views of each example, several units."""
    path = tmp_path_factory.mktemp("subset") / "labels"
    heads = {
        "logits": sl.Head(classes=CLASSES, encoding="topk:6:f16", temperatures=(1.0, 3.0)),
        "full": sl.Head(classes=CLASSES, encoding="dense:f32"),
        "speed": sl.Head(classes=2, encoding="dense:f32", kind="regression"),
    }
    names = [f"row {i}" for i in range(ROWS)] * 2
    views = [0] * ROWS + [1] * ROWS
    with sl.create(path, heads=heads, unit_rows=25) as writer:
        writer.append(names, {"logits": logits, "full": logits, "speed": logits[:, :2]}, views=views)
    return path


def columns(store):
    return store.take(np.arange(len(store)), ["key", "view"])


def test_a_range_of_rows_is_a_store_with_the_same_labels(store, tmp_path):
    outcome = sl.push(store, tmp_path / "part", rows="10:70")
    subset, source = sl.open(tmp_path / "part"), sl.open(store)
    assert (outcome.rows, len(subset), outcome.new_units) == (60, 60, 3)
    for head in source.heads:
        np.testing.assert_array_equal(subset.read(range(60), head).values, source.read(range(10, 70), head).values)
    np.testing.assert_array_equal(
        subset.take(np.arange(60), ["key"])["key"], source.take(np.arange(10, 70), ["key"])["key"]
    )
    assert subset.snapshot.digest != source.snapshot.digest
    record = subset.descriptor.subset_of
    assert (record.snapshot, record.rows) == (source.snapshot.digest, (10, 70))
    assert sl.verify(tmp_path / "part", deep=True).ok
    assert subset.snapshot.fidelity["logits"].probe.rows > 0, "the probe comes along"


def test_a_range_is_written_as_text(store, tmp_path):
    with pytest.raises(sl.errors.InvalidArgument, match=r"rows: got \(0, 10\); expected a range such as 0:1000"):
        sl.push(store, tmp_path / "part", rows=(0, 10))


def test_equal_parts_have_equal_digests(store, tmp_path):
    """A lock file that pins a subset therefore holds on another machine."""
    for name in ("a", "b"):
        sl.pull(store, tmp_path / name, rows="5:55", heads=["logits"], top=2, lock=tmp_path / "softlabels.lock")
    assert sl.open(tmp_path / "a").snapshot.digest == sl.open(tmp_path / "b").snapshot.digest


@pytest.mark.parametrize("form", ["ids", "hex", "array"])
def test_rows_are_chosen_by_key_or_id(store, tmp_path, form):
    source = sl.open(store)
    chosen = [3, 40, 7]
    keys = columns(source)["key"][chosen]
    file = tmp_path / "keys.txt"
    file.write_text("\n".join(f"row {i}" if form == "ids" else keys[n].tobytes().hex() for n, i in enumerate(chosen)))
    sl.push(store, tmp_path / "part", keys=keys if form == "array" else file, views=[1])
    subset = sl.open(tmp_path / "part")
    rows = [ROWS + i for i in sorted(chosen)]
    np.testing.assert_array_equal(subset.read(range(3)).ids, source.read(rows).ids)
    assert set(columns(subset)["view"]) == {1}


def test_a_head_alone_is_copied_without_the_columns_of_others(store, tmp_path):
    sl.push(store, tmp_path / "part", heads=["speed"])
    subset = sl.open(tmp_path / "part")
    assert list(subset.heads) == ["speed"]
    assert list(subset.descriptor.columns()) == ["key", "view", "speed/values"]
    np.testing.assert_array_equal(subset.read([5], "speed").values, sl.open(store).read([5], "speed").values)


@pytest.mark.parametrize("stored_as", ["f16", "q8", "d4"])
def test_fewer_classes_are_the_likeliest_and_the_rest_is_in_the_tail(tmp_path, logits, stored_as):
    """As if the teacher's logits had been stored with the smaller k, but for rounding."""
    for k in (6, 2):
        heads = {"logits": sl.Head(classes=CLASSES, encoding=f"topk:{k}:{stored_as}", temperatures=(1.0, 3.0))}
        with sl.create(tmp_path / f"{k}", heads=heads, unit_rows=50) as writer:
            writer.append(list(range(2 * ROWS)), {"logits": logits})
    sl.push(tmp_path / "6", tmp_path / "part", top=2)
    subset, expected = sl.open(tmp_path / "part"), sl.open(tmp_path / "2")
    assert subset.heads["logits"].encoding == f"topk:2:{stored_as}"
    ours, fresh = subset.read(range(2 * ROWS)), expected.read(range(2 * ROWS))
    np.testing.assert_array_equal(ours.ids, fresh.ids)
    for temperature in (1.0, 3.0):
        np.testing.assert_allclose(
            ours.listed_log_probs(temperature),
            fresh.listed_log_probs(temperature),
            atol=0.1 if stored_as != "f16" else 0.01,
        )
        np.testing.assert_allclose(np.exp(ours.log_probs(temperature)).sum(axis=1), 1.0, atol=2e-3)
    np.testing.assert_allclose(subset.prior("logits"), expected.prior("logits"), atol=0.02)
    fidelities = [store.snapshot.fidelity["logits"].overall for store in (subset, expected)]
    assert fidelities[0].kl.keys() == fidelities[1].kl.keys()
    assert sl.verify(tmp_path / "part", deep=True).ok


def test_dense_labels_are_cut_to_top_k_as_if_stored_so(tmp_path, logits):
    for name, encoding in (("dense", "dense:f32"), ("fresh", "topk:3")):
        with sl.create(tmp_path / name, heads={"logits": sl.Head(classes=CLASSES, encoding=encoding)}) as writer:
            writer.append(list(range(2 * ROWS)), {"logits": logits})
    sl.push(tmp_path / "dense", tmp_path / "part", top=3)
    subset, fresh = sl.open(tmp_path / "part"), sl.open(tmp_path / "fresh")
    for name in ("ids", "values", "log_tail"):
        ours, expected = (getattr(one.read(range(2 * ROWS)), name) for one in (subset, fresh))
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(subset.prior("logits"), fresh.prior("logits"), rtol=1e-5)


def test_ragged_rows_and_their_lengths_are_cut_together(tmp_path):
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=(n, CLASSES)).astype(np.float32) for n in (3, 1, 5, 2)]
    heads = {"logits": sl.Head(kind="tokens", classes=CLASSES, encoding="topk:4", shape=(None,))}
    with sl.create(tmp_path / "tokens", heads=heads, unit_rows=2) as writer:
        writer.append(list("abcd"), {"logits": rows})
    sl.push(tmp_path / "tokens", tmp_path / "part", rows="1:", top=2)
    subset, source = sl.open(tmp_path / "part").read(range(3)), sl.open(tmp_path / "tokens").read([1, 2, 3])
    np.testing.assert_array_equal(subset.lengths, source.lengths)
    np.testing.assert_array_equal(subset.ids, source.ids[:, :2])


@pytest.mark.parametrize("after", range(5))
def test_an_interrupted_part_is_not_sealed_and_the_next_call_ends_it(store, tmp_path, after):
    """Stopped before the probe of the storage is through, or before a record or the snapshot is put."""
    with pytest.raises(KeyboardInterrupt):
        sl.push(store, Stops(tmp_path / "part", after), rows=":50", workers=1)
    with pytest.raises(StoreNotFound):
        sl.open(tmp_path / "part")
    assert sl.push(store, tmp_path / "part", rows=":50").rows == 50
    again = sl.push(store, tmp_path / "part", rows=":50")
    assert (again.new_units, again.bytes) == (0, 0)
    with pytest.raises(StoreConflict, match="subset_of"):
        sl.push(store, tmp_path / "part", rows="1:51")


BAD = {
    "no such head": {"heads": ["other"]},
    "no heads": {"heads": []},
    "no such view": {"views": [7]},
    "negative view": {"views": [-1]},
    "rows beyond the end": {"rows": "0:1000"},
    "empty range": {"rows": "5:5"},
    "no range": {"rows": "five"},
    "no classes": {"top": 0},
    "unknown key": {"keys": ["nothing"]},
    "no keys": {"keys": []},
    "keys of another kind": {"keys": [1.5]},
    "no such file": {"keys": "none.txt"},
    "a directory": {"keys": "."},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_a_part_that_the_store_lacks_is_an_error_and_makes_nothing(store, tmp_path, options):
    with pytest.raises(InvalidArgument):
        sl.push(store, tmp_path / "part", **options)
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("encoding", ["sampled:8", "threshold:0.1", "counts:12:0.01:4"])
def test_draws_cannot_be_narrowed(tmp_path, logits, encoding):
    """The likeliest of the drawn classes are biased towards likely ones."""
    with sl.create(tmp_path / "a", heads={"logits": sl.Head(classes=CLASSES, encoding=encoding)}) as writer:
        writer.append(list(range(2 * ROWS)), {"logits": logits})
    with pytest.raises(InvalidArgument, match=r"cannot be narrowed: its classes are draws.* right on average"):
        sl.push(tmp_path / "a", tmp_path / "part", top=2)


@pytest.mark.parametrize("stored_as", ["f16", "q8", "d4"])
@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_adaptive_rows_keep_at_most_as_many_classes(tmp_path, logits, stored_as, kind):
    """A shorter row stays as it is, bit by bit; of a longer one the rest joins the tail at every temperature."""
    shape = (None,) if kind == "tokens" else ()
    head = sl.Head(
        classes=CLASSES, encoding=f"adaptive:0.03:{stored_as}", temperatures=(1.0, 3.0), kind=kind, shape=shape
    )
    rows = np.array_split(logits, ROWS) if kind == "tokens" else logits
    with sl.create(tmp_path / "whole", heads={"logits": head}, unit_rows=25) as writer:
        writer.append(list(range(len(rows))), {"logits": rows})
    sl.push(tmp_path / "whole", tmp_path / "part", top=2)
    source, subset = sl.open(tmp_path / "whole"), sl.open(tmp_path / "part")
    before, after = (one.read(range(len(rows))) for one in (source, subset))
    counts = np.isfinite(before.values).sum(axis=1)
    assert {1, 2} < set(counts.tolist())
    np.testing.assert_array_equal(np.isfinite(after.values).sum(axis=1), np.minimum(counts, 2))
    np.testing.assert_array_equal(after.ids, before.ids[:, :2])
    np.testing.assert_array_equal(after.log_tail[counts <= 2], before.log_tail[counts <= 2])
    for number, temperature in enumerate(after.temperatures):
        listed = np.exp(before.listed_log_probs(temperature).astype(np.float64))
        expected = np.exp(before.log_tail[:, number].astype(np.float64)) + listed[:, 2:].sum(axis=1)
        rounding = 1 / 16 / np.e if stored_as == "d4" else 2e-3  # log tails are rounded to 1/16 of themselves
        np.testing.assert_allclose(np.exp(after.log_tail[:, number]), expected, atol=rounding)
        np.testing.assert_allclose(np.exp(after.listed_log_probs(temperature)), listed[:, :2], atol=rounding + 5e-3)
    assert subset.heads["logits"].encoding == source.heads["logits"].encoding
    assert subset.descriptor.subset_of.top == 2
    assert subset.bytes < source.bytes
    assert sl.verify(tmp_path / "part", deep=True).ok


@given(
    start=st.integers(0, 2 * ROWS - 1), length=st.integers(1, 2 * ROWS), views=st.sets(st.integers(0, 1), min_size=1)
)
def test_rows_and_views_select_what_numpy_selects(store, start, length, views):
    source = sl.open(store)
    stop = min(start + length, 2 * ROWS)
    selection = Selection.of(rows=f"{start}:{stop}", views=views)
    expected = [row for row in range(start, stop) if (row >= ROWS) in views]
    if not expected:
        with pytest.raises(InvalidArgument, match="no row is selected"):
            selection.row_numbers(source)
    else:
        assert selection.row_numbers(source).tolist() == expected


def test_the_command_copies_a_part(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--rows", ":30", "--heads", "logits,speed", "--views", "0", "--top", "2", "--json", "-q"]
    done = CliRunner().invoke(cli, ["pull", str(store), "part", *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 30
    assert sl.open("part").heads["logits"].encoding == "topk:2:f16"
    assert json.loads((tmp_path / "softlabels.lock").read_text())["stores"]["part"]["rows"] == 30
    assert CliRunner().invoke(cli, ["push", "part", "x", "--views", "a"]).exit_code == 2
