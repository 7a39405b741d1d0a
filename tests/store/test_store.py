"""Reading a sealed store: what comes out is what went in, for any rows in any order."""

import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import softlabels as sl
from softlabels.encodings import parse
from softlabels.errors import (
    InvalidArgument,
    StoreConflict,
    StoreCorrupt,
    StoreIncomplete,
    StoreNotFound,
    StoreUnsupported,
)
from softlabels.generation import generate
from softlabels.labels import Head
from softlabels.store import (
    DataRecord,
    Descriptor,
    TeacherRecord,
    create_or_open,
    default_geometry,
    describe_store,
    sealed_store,
    unit_reader,
)
from softlabels.store.format import canonical_json, paths
from softlabels.store.unit_statistics import gathers, probes
from tests.corpus import forging


def expected_labels(logits, spec, temperatures=(1.0, 4.0)):
    import torch

    encoding = parse(spec, classes=logits.shape[1])
    head = Head(encoding=encoding.spec, classes=logits.shape[1], temperatures=temperatures)
    encoded = encoding.encode(torch.from_numpy(logits), head, np.arange(len(logits)))
    return encoding.decode(encoded.arrays, head)


@given(rows=st.lists(st.integers(0, 1796), max_size=30))
def test_any_rows_in_any_order(sealed, dense_logits, rows):
    labels = sl.open(sealed).read(rows)
    expected = expected_labels(dense_logits, "topk:4").take(np.array(rows, int))
    assert (labels.ids == expected.ids).all()
    assert (labels.values == expected.values).all()
    assert (labels.log_tail == expected.log_tail).all()


def test_keys_rows_units_and_chunks(sealed, digits):
    store = sl.open(sealed)
    assert (store.keys() == digits.keys()).all()
    assert (store.rows, store.units, store.chunks) == (1797, 5, 5)
    assert store.chunk_rows().sum() == 1797
    assert store.bytes == sum(path.stat().st_size for path in (sealed / "shards").rglob("*.zip"))


@pytest.mark.parametrize(
    "encoding", ["dense:f32", "dense:f16", "dense:bf16", "dense:q8", "topk:3", "topk:3:q8", "topk:10"]
)
@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_every_encoding_comes_back(encoding, codec, teacher, digits, dense_logits, tmp_path):
    generate(digits, teacher=teacher, out=tmp_path / "s", encoding=encoding, codec=codec, unit_rows=700)
    got = sl.open(tmp_path / "s").read(range(1797))
    expected = expected_labels(dense_logits, encoding, (1.0,))
    np.testing.assert_array_equal(got.values, expected.values)
    if hasattr(expected, "ids"):
        np.testing.assert_array_equal(got.ids, expected.ids)
        # Sums over the unlisted classes are vectorised differently in batches of another size.
        np.testing.assert_allclose(got.log_tail, expected.log_tail, rtol=1e-5)


def test_a_store_can_be_pickled_and_shared(sealed):
    store = pickle.loads(pickle.dumps(sl.open(sealed)))  # noqa: S301  our own bytes
    assert len(store.read([1, 2])) == 2


def test_the_tail_prior_is_the_residual_over_that_of_an_even_spread(sealed, dense_logits):
    store = sl.open(sealed)
    labels = store.read(range(1797))
    for index, temperature in enumerate((1.0, 4.0)):
        p = np.exp(dense_logits.astype(np.float64) / temperature)
        p /= p.sum(axis=1, keepdims=True)
        np.put_along_axis(p, labels.ids, 0.0, axis=1)
        even = np.where(p > 0, p.sum(axis=1, keepdims=True) / (p > 0).sum(axis=1, keepdims=True), 0.0)
        share = p.sum(axis=0) / even.sum(axis=0)
        prior = 0.99 * share / share.sum() + 0.01 / 10
        np.testing.assert_allclose(store.prior("logits")[index], prior, rtol=1e-4)


def test_the_probe_is_dense_and_the_fidelity_is_its_kl(sealed, dense_logits):
    store = sl.open(sealed)
    rows, logits, _ = store.probe()
    assert 200 < len(rows) < 320
    assert (np.diff(rows) > 0).all()
    assert (logits == dense_logits[rows]).all()
    labels = store.read(rows)
    fidelity = store.snapshot.fidelity["logits"].probe
    for temperature in (1.0, 4.0):
        log_p = logits.astype(np.float64) / temperature
        log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
        kl = (np.exp(log_p) * (log_p - labels.log_probs(temperature))).sum(axis=1).mean()
        assert fidelity.kl[f"{temperature:g}"] == pytest.approx(kl, rel=1e-3, abs=1e-6)
    assert fidelity.top1 == 1.0
    assert fidelity.mass == pytest.approx(1 - np.exp(labels.log_tail[:, 0]).mean(), rel=1e-4)


def test_the_same_run_writes_the_same_bytes(sealed, teacher, digits, tmp_path):
    again = tmp_path / "again"
    generate(digits, teacher=teacher, out=again, encoding="topk:4", temperatures=(1.0, 4.0), unit_rows=400)
    first, second = (
        [path.read_bytes() for path in sorted((store / "shards").rglob("*.zip"))] for store in (sealed, again)
    )
    assert first == second


def test_inspect_has_the_agreed_keys(sealed, digits):
    description = describe_store(sealed).to_json()
    assert {"rows", "units", "bytes", "bytes_per_row", "snapshot", "teacher", "data", "heads"} <= set(description)
    assert set(description["snapshot"]) == {"number", "digest", "rows", "units"}
    known = {"spec": digits.spec, "fingerprint": digits.fingerprint, "rows": 1797}.items()
    assert (
        known
        <= {
            name: str(value) if isinstance(value, list) else value for name, value in description["data"].items()
        }.items()
    )
    assert description["heads"]["logits"]["fidelity"]["kl"].keys() == {"1", "4"}
    assert description["unit_bytes"]["min"] <= description["unit_bytes"]["median"] <= description["unit_bytes"]["max"]


def test_inspect_says_what_is_missing_and_when_the_rest_was_made(tmp_path):
    store = create_or_open(tmp_path / "s", make_descriptor())
    assert describe_store(tmp_path / "s").to_json()["committed"] is None
    with store.begin(1) as writer:
        writer.append({
            "key": np.zeros((5, 16), np.uint8), "view": np.zeros(5, np.uint32),
            "logits/ids": np.array([[0, 1]] * 5, np.uint8),
            "logits/values": np.zeros((5, 2), np.float16) - 1, "logits/tail": np.zeros((5, 1), np.float32) - 2,
        })  # fmt: skip
        writer.commit()
    os.utime(tmp_path / "s" / "records" / "00" / "00000001.json", (86_400, 86_400))
    description = describe_store(tmp_path / "s").to_json()
    assert (description["missing_units"], description["holes"]) == (1, [0])
    assert description["committed"] == dict.fromkeys(("first", "last"), "1970-01-02T00:00:00+00:00")


def test_rows_and_heads_that_are_not_there_are_named(sealed):
    store = sl.open(sealed)
    with pytest.raises(InvalidArgument, match=r"no such row, got 1797; expected 0 to 1796"):
        store.read([1797])
    with pytest.raises(InvalidArgument, match=r"no head 'other'; it has logits"):
        store.read([0], head="other")


def test_there_must_be_a_sealed_store(tmp_path, sealed):
    with pytest.raises(StoreNotFound, match="not a store of labels"):
        sl.open(tmp_path)
    store = create_or_open(tmp_path / "new", sl.open(sealed).descriptor)
    assert len(list(store.missing())) == 5
    with pytest.raises(StoreNotFound, match="not sealed"):
        sl.open(tmp_path / "new")
    with pytest.raises(StoreIncomplete, match=r"5 of 5 units are not committed \(0, 1, 2, 3, 4\)"):
        sl.seal(tmp_path / "new")


def test_a_pinned_digest_refuses_another_snapshot(sealed):
    digest = sl.open(sealed).snapshot.digest
    assert sl.open(sealed, digest=digest).rows == 1797
    with pytest.raises(StoreCorrupt, match="0" * 64):
        sl.open(sealed, digest="0" * 64)
    with pytest.raises(InvalidArgument, match="expected 64 hexadecimal digits"):
        sl.open(sealed, digest="00")


def test_sealing_twice_changes_nothing(sealed):
    before = sl.open(sealed).snapshot
    assert sl.seal(sealed) == before


def make_descriptor(**changes):
    fields = {
        "rows": 10, "unit_rows": 5, "chunk_rows": 5, "heads": {"logits": Head(encoding="topk:2:f16", classes=4)},
        "teacher": TeacherRecord(spec="t", digest="d"), "data": DataRecord(spec="x", fingerprint="f", rows=10),
    }  # fmt: skip
    return Descriptor(**(fields | changes))


def test_another_store_in_the_directory_is_left_alone(tmp_path):
    create_or_open(tmp_path / "s", make_descriptor())
    with pytest.raises(StoreConflict, match=r"holds another store: its unit_rows is 5, here it would be 2"):
        create_or_open(tmp_path / "s", make_descriptor(unit_rows=2, chunk_rows=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(StoreConflict, match=r"holds thesis\.tex and no store"):
        create_or_open(tmp_path / "mine", make_descriptor())
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_a_future_version_or_feature_is_refused_and_an_unknown_key_passes(tmp_path):
    def write(**changes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "softlabels.json").write_bytes(canonical_json.to_bytes(make_descriptor().to_json() | changes))
        return folder

    with pytest.raises(StoreUnsupported, match="version 2"):
        describe_store(write(version=2))
    with pytest.raises(StoreUnsupported, match="holograms"):
        describe_store(write(requires=["holograms"]))
    assert describe_store(write(colour="green")).to_json()["rows"] == 0


@given(row_bytes=st.floats(1, 10**7), rows=st.integers(1, 10**9))
def test_the_default_geometry_is_bounded(row_bytes, rows):
    unit, chunk = default_geometry(row_bytes, rows)
    assert 1 <= chunk <= unit <= min(16_384, rows) or unit == chunk == 1
    assert chunk * row_bytes <= max(2**20, row_bytes)
    assert unit // chunk <= 64


def test_the_choice_of_evidence_is_seeded_spread_and_bounded():
    descriptor = make_descriptor(rows=10**6, unit_rows=10, data=DataRecord(spec="x", fingerprint="f", rows=10**6))
    units, rows = np.arange(10**5), np.arange(10**6)
    for chosen in (gathers(descriptor, units), probes(descriptor, "logits", rows)):
        assert 200 < chosen.sum() < 320
        halves = chosen.reshape(2, -1).sum(axis=1)
        assert halves.min() > 80
    assert (gathers(descriptor, units) == gathers(descriptor, units)).all()
    other = make_descriptor(rows=10**6, unit_rows=10, seed=1)
    assert (gathers(other, units) != gathers(descriptor, units)).any()
    assert gathers(make_descriptor(), np.arange(2)).all(), "of a few all are chosen"


def test_what_a_growing_store_keeps_holds_what_the_total_would_choose():
    growing = make_descriptor(rows=None, unit_rows=10, chunk_rows=10)
    rows = np.arange(10**5)
    candidates, final = probes(growing, "logits", rows), probes(growing, "logits", rows, total=len(rows))
    assert not (final & ~candidates).any()
    assert 200 < final.sum() < 320
    assert candidates.sum() < 256 * (2 + np.log(10**5 / 256))


def test_a_store_that_grows_does_not_know_how_long_it_will_be(tmp_path):
    growing = make_descriptor(rows=None)
    with pytest.raises(InvalidArgument, match="the store grows"):
        _ = growing.units
    with pytest.raises(InvalidArgument, match="only the record of the unit knows them"):
        growing.unit_range(0)
    create_or_open(tmp_path / "s", growing)
    with pytest.raises(StoreIncomplete, match="has no rows yet; append some, then seal"):
        sl.seal(tmp_path / "s")


def test_a_descriptor_for_other_rows_keeps_its_chunks_where_it_can():
    few, many = make_descriptor().for_rows(3), make_descriptor().for_rows(9)
    assert (few.rows, few.unit_rows, few.chunk_rows) == (3, 3, 3)
    assert (many.rows, many.unit_rows, many.chunk_rows) == (9, 9, 5)


def test_of_very_many_units_only_the_last_records_stay_in_memory(sealed, monkeypatch):
    monkeypatch.setattr(sealed_store, "MAX_READERS", 2)
    store = sl.open(sealed)
    labels = store.read(range(1797))
    assert len(store._readers) == 2
    np.testing.assert_array_equal(store.read([0, 1796]).ids, labels.ids[[0, 1796]])


def test_the_memory_of_a_large_chunk_is_given_back(tmp_path):
    """20 MB that do not compress: read, and not held on to by the thread that read them."""
    values = np.random.default_rng(0).standard_normal((5, 2**20)).astype(np.float32)
    root = tmp_path / "s"
    store = create_or_open(root, make_descriptor(rows=5, heads={"logits": Head(encoding="dense:f32", classes=2**20)}))
    with store.begin(0) as writer:
        writer.append({
            "key": np.zeros((5, 16), np.uint8), "view": np.zeros(5, np.uint32), "logits/values": values,
        })  # fmt: skip
        writer.commit()
    sl.seal(root)
    assert next((root / "shards").rglob("*.zip")).stat().st_size > unit_reader.MAX_SCRATCH_BYTES
    np.testing.assert_array_equal(sl.open(root).read([4]).values[0], values[4])
    assert len(getattr(unit_reader._THREAD, "buffer", b"")) <= unit_reader.MAX_SCRATCH_BYTES


def test_a_store_made_in_a_year_without_a_name_can_be_inspected():
    """Any program may set a file's time; memory file systems keep what disks cut off."""
    memory = Path("/dev/shm")  # noqa: S108  it keeps any time
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        root = forging.make(Path(folder) / "s", "dense-zarr")
        os.utime(root / paths.record_path(0), (-(2**40), -(2**40)))
        os.utime(root / paths.record_path(1), (2**40, 2**40))
        committed = describe_store(root).to_json()["committed"]
    assert committed["first"] <= "1970-01-01T00:00:00+00:00"
    assert committed["last"] <= "9999-12-31T23:59:59+00:00"
