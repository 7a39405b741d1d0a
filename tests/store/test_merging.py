"""Merging stores and topping one up: each row once, by key, with the very labels it had."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import softlabels as sl
from softlabels import models
from softlabels.errors import InvalidArgument, StoreConflict, StoreNotFound
from softlabels.generation import generate
from softlabels.sources import DistinctSource, open_source
from softlabels.store import TeacherRecord, create_or_open
from tests.corpus import forging

OPTIONS = {"encoding": "topk:4", "temperatures": (1.0, 4.0), "unit_rows": 300}


def part(digits_path, folder, rows, name):
    """A file of some of the digits."""
    table = pq.read_table(digits_path).take(pa.array(rows))
    pq.write_table(table, folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def assert_same_labels(store, reference, digits):
    """Each row of ``store`` has the labels its key has in ``reference``, a store of all digits in order."""
    by_key = {key.tobytes(): row for row, key in enumerate(digits.keys())}
    rows = np.array([by_key[key.tobytes()] for key in np.asarray(store.keys())])
    got, expected = store.read(range(store.rows)), reference.read(rows)
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_array_equal(got.values, expected.values)
    np.testing.assert_allclose(got.log_tail, expected.log_tail, rtol=1e-5)
    return rows


@pytest.fixture
def halves(tmp_path, digits_path, teacher):
    """Two sealed stores that overlap in 200 rows."""
    rows = np.random.default_rng(0).permutation(1797)
    for name, chosen in (("a", rows[:900]), ("b", rows[700:])):
        generate(part(digits_path, tmp_path, chosen, name), teacher=teacher, out=tmp_path / f"{name}.store", **OPTIONS)
    return tmp_path / "a.store", tmp_path / "b.store"


def test_a_merged_store_is_the_union(tmp_path, halves, digits, sealed, teacher):
    seen = []
    snapshot = sl.merge(halves, tmp_path / "all", progress=lambda done, total: seen.append((done, total)))
    store = sl.open(tmp_path / "all")
    assert snapshot.rows == store.rows == 1797
    rows = assert_same_labels(store, sl.open(sealed), digits)
    assert sorted(rows) == list(range(1797))
    assert seen[-1] == (1797, 1797)
    assert sl.verify(tmp_path / "all", deep=True).ok
    # What sealing needs came along: the prior is close to that of all rows, the probe is both stores'.
    np.testing.assert_allclose(store.prior("logits"), sl.open(sealed).prior("logits"), atol=0.03)
    probe_rows, logits, _ = store.probe()
    assert len(probe_rows) > 300
    truth = teacher.predict(digits.inputs(rows[probe_rows]))["logits"].numpy()
    np.testing.assert_allclose(logits, truth, atol=1e-4)
    assert sl.merge(halves, tmp_path / "all") == snapshot, "run again, nothing changes"


def test_unlike_labels_of_one_row_are_named(tmp_path, digits_path, teacher, digits, monkeypatch):
    first, second = part(digits_path, tmp_path, range(100), "a"), part(digits_path, tmp_path, range(99, 200), "b")
    generate(first, teacher=teacher, out=tmp_path / "a.store", extra_classes=True, **OPTIONS)
    real = models.Model.predict

    def predict(self, inputs):
        return {name: 1.5 * logits for name, logits in real(self, inputs).items()}

    with monkeypatch.context() as patch:  # a driver that has gone wrong
        patch.setattr(models.Model, "predict", predict)
        generate(second, teacher=teacher, out=tmp_path / "b.store", extra_classes=True, **OPTIONS)
    stores = (tmp_path / "a.store", tmp_path / "b.store")
    with pytest.raises(StoreConflict, match=rf"1 rows? have unlike labels.*{digits.keys(99, 100).tobytes().hex()}"):
        sl.merge(stores, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    sl.merge(stores, tmp_path / "all", conflicts="first")
    np.testing.assert_array_equal(
        sl.open(tmp_path / "all").read([99]).values, sl.open(stores[0]).read([99]).values, strict=True
    )


def test_stores_of_other_teachers_or_heads_do_not_mix(tmp_path, halves, digits_path, digits):
    heads = {"logits": models.OutputHead(classes=10)}
    other = models.build("mlp:width=8,depth=1", input_shape=(8, 8), heads=heads, seed=1)
    generate(part(digits_path, tmp_path, range(50), "c"), teacher=other, out=tmp_path / "c.store", **OPTIONS)
    with pytest.raises(StoreConflict, match="Labels of different teachers do not mix"):
        sl.merge([halves[0], tmp_path / "c.store"], tmp_path / "all")
    with pytest.raises(InvalidArgument, match="too few stores, got 1; expected two or more"):
        sl.merge([halves[0]], tmp_path / "all")
    with pytest.raises(StoreNotFound):
        sl.merge([halves[0], tmp_path / "nowhere"], tmp_path / "all")


def test_stores_without_rows_kept_dense_merge_too(tmp_path):
    """Of what their rows did not list the prior tells, without a probe."""
    first = forging.make(tmp_path / "a", "topk-zarr")
    other = forging.make(tmp_path / "b", "topk-zarr", spoil=lambda result: result["key"].__iadd__(100))
    sl.merge([first, other], tmp_path / "all")
    merged = sl.open(tmp_path / "all")
    assert merged.rows == 12 + 6, "the first unit has other keys"
    assert merged.probe() is None
    np.testing.assert_allclose(merged.prior("logits"), sl.open(first).prior("logits"), rtol=1e-5)
    assert sl.verify(tmp_path / "all", deep=True).ok


def test_rows_kept_dense_come_along_with_their_rows_alone(tmp_path):
    """Of the units of a store only the second kept some."""
    roots = [tmp_path / "a", tmp_path / "b"]
    for root, apart in zip(roots, (0, 100), strict=True):
        store = create_or_open(root, forging.descriptor("topk-zarr"))
        for unit in range(2):
            result = forging.columns("topk-zarr", store.descriptor.unit_range(unit))
            result["key"] += np.uint8(apart)
            dense = np.zeros((1, forging.CLASSES), np.float32) + apart
            with store.begin(unit) as writer:
                writer.append(result)
                writer.commit(extras={"logits/probe": dense, "logits/probe_rows": np.array([3])} if unit else None)
        sl.seal(root)
    sl.merge(roots, tmp_path / "all")
    rows, logits, _ = sl.open(tmp_path / "all").probe()
    assert rows.tolist() == [9, 12 + 9]
    assert logits[:, 0].tolist() == [0, 100]


def test_a_store_with_a_head_more_does_not_mix(tmp_path):
    first = forging.make(tmp_path / "a", "topk-zarr")
    heads = {"logits": forging.head_of("topk-zarr"), "other": forging.head_of("dense-zarr")}
    store = create_or_open(tmp_path / "b", forging.descriptor("topk-zarr", heads=heads))
    for unit in range(2):
        rows = store.descriptor.unit_range(unit)
        dense = forging.columns("dense-zarr", rows)["logits/values"]
        with store.begin(unit) as writer:
            writer.append(forging.columns("topk-zarr", rows) | {"other/values": dense})
            writer.commit()
    sl.seal(tmp_path / "b")
    with pytest.raises(StoreConflict, match=r"b: other heads, got logits, other; expected logits"):
        sl.merge([first, tmp_path / "b"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_teachers_that_nothing_names_but_people_do_not_mix(tmp_path):
    """Without a digest, what a teacher is called is all that tells it from another."""
    first, other, again = (
        forging.make(tmp_path / name, "topk-zarr", teacher=TeacherRecord(spec=spec, digest=None))
        for name, spec in (("a", "llama"), ("b", "qwen"), ("c", "llama"))
    )
    with pytest.raises(StoreConflict, match="labels of another teacher, got qwen; expected llama"):
        sl.merge([first, other], tmp_path / "all")
    assert sl.merge([first, again], tmp_path / "all").rows == 12
    with pytest.raises(StoreConflict, match=r"holds another store: its teacher is .*llama"):
        create_or_open(first, forging.descriptor("topk-zarr", teacher=TeacherRecord(spec="qwen", digest=None)))


def test_topping_up_asks_the_teacher_about_new_rows_alone(tmp_path, digits_path, teacher, digits, sealed, monkeypatch):
    grown = open_source(digits_path)
    generate(part(digits_path, tmp_path, range(0, 1797, 2), "old"), teacher=teacher, out=tmp_path / "old", **OPTIONS)
    requested = []
    real = models.Model.predict
    monkeypatch.setattr(
        models.Model, "predict", lambda self, inputs: requested.append(len(inputs)) or real(self, inputs)
    )
    created = generate(grown, teacher=teacher, out=tmp_path / "new", reuse=[tmp_path / "old"], gate=False, **OPTIONS)
    again = 32  # rows of the reused store that the teacher predicts once more, to compare
    assert (created.rows, created.reused_rows, sum(requested)) == (1797, 899, 898 + again)
    store = sl.open(tmp_path / "new")
    assert (store.keys() == digits.keys()).all()
    assert_same_labels(store, sl.open(sealed), digits)
    np.testing.assert_allclose(store.prior("logits"), sl.open(sealed).prior("logits"), atol=0.02)
    assert store.snapshot.fidelity["logits"].overall.top1 == 1.0


def test_reusing_labels_kept_otherwise_is_refused(tmp_path, digits, teacher, sealed):
    with pytest.raises(StoreConflict, match="Rows are copied unchanged"):
        generate(digits, teacher=teacher, out=tmp_path / "x", reuse=[sealed], encoding="topk:5")
    assert not (tmp_path / "x").exists()


def test_equal_inputs_are_labelled_once_and_serve_all(tmp_path, digits_path, teacher, digits):
    rows = [5, 3, 5, 5, 8, 3, 1]
    source = open_source(part(digits_path, tmp_path, rows, "twice"))
    distinct = DistinctSource(source)
    assert distinct.left_out == 3
    assert distinct.labels(np.arange(4)).tolist() == digits.labels(np.array([5, 3, 8, 1])).tolist()
    generate(distinct, teacher=teacher, out=tmp_path / "s", encoding="dense:f32", extra_classes=True)
    store = sl.open(tmp_path / "s")
    assert (store.keys() == digits.keys()[[5, 3, 8, 1]]).all()
    got = {}
    for batch in sl.loader(store, inputs=source, batch_size=2):
        for row, values in zip(batch.rows, batch.targets["logits"].values, strict=True):
            got[int(row)] = values
    expected = teacher.predict(digits.inputs(np.array(rows)))["logits"].numpy()
    np.testing.assert_allclose(np.stack([got[row] for row in range(7)]), expected, atol=1e-5)
