"""The loader: the order is the function it claims to be, and every label meets its input."""

import subprocess
import sys
from itertools import chain, product

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import softlabels as sl
from softlabels.errors import InvalidArgument, KeyMissing, LabelsMisaligned, StoreCorrupt
from softlabels.generation import generate
from softlabels.loading import Loader, Order
from softlabels.sources import open_source
from tests.loading.stores import memory_for, reference_order


@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(any),
    seed=st.integers(-5, 2**40),
    epoch=st.integers(0, 3),
    window=st.integers(1, 5),
    data=st.data(),
)
def test_the_order_is_the_reference_from_any_position(counts, seed, epoch, window, data):
    order = Order(np.array(counts), seed=seed, window=window)
    expected = reference_order(counts, seed, epoch, window)
    assert sorted(expected) == list(range(sum(counts)))
    start = data.draw(st.integers(0, sum(counts)))
    assert order.epoch(epoch, start).tolist() == expected[start:]


def test_the_order_is_pinned_for_ever():
    """These numbers must never change: they are what a resumed run on another machine relies on."""
    assert Order(np.array([4, 4, 4]), seed=1, window=2).epoch(0).tolist() == PINNED


PINNED = [11, 2, 1, 3, 0, 9, 10, 8, 7, 5, 6, 4]


def rows_of(batches):
    return [batch.rows.tolist() for batch in batches]


def test_a_store_is_named_by_its_location(sealed):
    by_name, opened = Loader(str(sealed), batch_size=64), Loader(sl.open(sealed), batch_size=64)
    assert rows_of(by_name.epoch(0)) == rows_of(opened.epoch(0))
    assert len(sl.LabelDataset(sealed)) == len(by_name.store) == 1797


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1797, 5000])
def test_an_epoch_holds_every_row_once_and_resumes_anywhere(sealed, digits, batch_size):
    store = sl.open(sealed)
    loader = Loader(store, inputs=digits, batch_size=batch_size, seed=3, window=2)
    epoch_rows = rows_of(loader.epoch(1))
    assert sorted(chain.from_iterable(epoch_rows)) == list(range(1797))
    assert [len(rows) for rows in epoch_rows[:-1]] == [batch_size] * (len(loader) - 1)
    for start in {0, 1, len(loader) // 2, len(loader) - 1}:
        assert rows_of(loader.epoch(1, start)) == epoch_rows[start:]


def test_a_stream_goes_on_into_the_next_epoch(sealed, digits):
    loader = Loader(sl.open(sealed), inputs=digits, batch_size=500, seed=3)
    stream = loader.stream(start_step=2)
    got = [next(stream) for _ in range(4)]
    stream.close()
    assert [(batch.epoch, batch.step) for batch in got] == [(0, 2), (0, 3), (1, 4), (1, 5)]
    assert rows_of(got) == rows_of(loader.epoch(0))[2:] + rows_of(loader.epoch(1))[:2]


@pytest.mark.parametrize("shuffle", [True, False])
def test_labels_inputs_and_hard_labels_belong_together(sealed, digits, shuffle):
    store = sl.open(sealed)
    for batch in Loader(store, inputs=digits, batch_size=100, shuffle=shuffle, check="all"):
        np.testing.assert_array_equal(batch.inputs, digits.inputs(batch.rows))
        np.testing.assert_array_equal(batch.hard, digits.labels(batch.rows))
        np.testing.assert_array_equal(batch.targets["logits"].ids, store.read(batch.rows).ids)


def test_without_shuffling_rows_come_in_order(sealed):
    rows = rows_of(sl.loader(sl.open(sealed), batch_size=100, shuffle=False))
    assert list(chain.from_iterable(rows)) == list(range(1797))


def test_seeds_and_epochs_differ(sealed):
    store = sl.open(sealed)
    orders = {
        str(rows_of(Loader(store, batch_size=1797, seed=seed).epoch(epoch))) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def shuffled_copy(digits_path, folder, rows):
    """Some of the digits in another order, as a file of their own."""
    pq.write_table(pq.read_table(digits_path).take(rows), folder / "copy.parquet")
    return open_source(folder / "copy.parquet")


def test_data_in_another_order_is_joined_by_content(sealed, digits_path, dense_logits, tmp_path):
    rows = np.random.default_rng(0).permutation(1797)[:600]
    source = shuffled_copy(digits_path, tmp_path, rows)
    seen = []
    for batch in Loader(sl.open(sealed), inputs=source, batch_size=64, check="all"):
        original = rows[batch.rows]
        assert (batch.targets["logits"].ids[:, 0] == dense_logits[original].argmax(axis=1)).all()
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(600))


def test_rows_without_labels_are_named(digits, digits_path, teacher, tmp_path):
    subset = shuffled_copy(digits_path, tmp_path, np.arange(100))
    generate(subset, teacher=teacher, out=tmp_path / "s", extra_classes=True)
    with pytest.raises(KeyMissing, match=r"1,697 of 1,797 rows of .* have no label in .*: row 100 \([0-9a-f]{32}\)"):
        Loader(sl.open(tmp_path / "s"), inputs=digits)


def test_an_input_that_changed_is_noticed(sealed, digits):
    class Changed:
        """The digits, but the inputs handed out are those of the row after."""

        def __getattr__(self, name):
            return getattr(digits, name)

        def __len__(self):
            return len(digits)

        def inputs(self, rows):
            return digits.inputs((rows + 1) % len(digits))

    for check in ("sample", "all"):
        with pytest.raises(LabelsMisaligned, match="is not the input that its labels were made from"):
            list(Loader(sl.open(sealed), inputs=Changed(), batch_size=32, check=check))


def test_corruption_in_mid_epoch_raises_and_names_the_shard(digits, teacher, tmp_path):
    generate(digits, teacher=teacher, out=tmp_path / "s", encoding="topk:4", unit_rows=200)
    shard = next((tmp_path / "s" / "shards").rglob("00000004-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    batches = Loader(sl.open(tmp_path / "s"), inputs=digits, batch_size=50, shuffle=False, window=1).epoch(0)
    before = [next(batches) for _ in range(16)]
    assert sum(len(batch.rows) for batch in before) == 800, "what comes before is handed out"
    with pytest.raises(StoreCorrupt, match=rf"{shard.name}, chunk 0 is damaged: .*softlabels repair"):
        next(batches)


def test_wrong_use_is_refused(sealed, digits):
    store = sl.open(sealed)
    for options in ({"batch_size": 0}, {"window": 0}, {"check": "maybe"}, {"rows": np.array([], int)}):
        with pytest.raises(InvalidArgument):
            Loader(store, inputs=digits, **options)
    with pytest.raises(InvalidArgument, match="expected a store, data, or both"):
        Loader(None)


@pytest.mark.parametrize("encoding", ["topk:3", "adaptive:0.05:d4", "threshold:0.05"])
def test_windows_of_unlike_lengths_leave_nothing_to_the_next(tmp_path, encoding):
    """Memory of a window is used again: a shorter one after it must not see what is left of the longer."""
    rng = np.random.default_rng(3)
    logits = [rng.normal(0, 3, (int(length), 40)).astype(np.float32) for length in rng.integers(0, 9, 70)]
    head = sl.Head(classes=40, kind="tokens", encoding=encoding, shape=(None,))
    with sl.create(tmp_path / "s", heads={"logits": head}, teacher="t", unit_rows=8) as writer:
        writer.append(range(len(logits)), {"logits": logits})
    store = sl.open(tmp_path / "s")
    assert store.descriptor.chunk_rows <= 8
    for window, fits in product((2, 4, 5, 100), (False, True)):
        seen = []
        memory = None if fits else memory_for(store, window)
        for epoch in range(3):
            for batch in Loader(store, batch_size=7, seed=1, window=window, memory=memory).epoch(epoch):
                labels, expected = batch.targets["logits"], store.read(batch.rows)
                np.testing.assert_array_equal(labels.lengths, expected.lengths)
                np.testing.assert_array_equal(labels.ids, expected.ids)
                np.testing.assert_array_equal(labels.values, expected.values)
                seen.append(batch.rows)
        assert sorted(np.concatenate(seen)) == sorted(3 * list(range(70)))


LEFT = """
import sys
import softlabels as sl

options = {"device": "cpu"} if sys.argv[2] == "cpu" else {}
loader = sl.loader(sl.open(sys.argv[1]), batch_size=7, window=2, **options)
stream, epoch = loader.stream(), iter(loader)
for batches in (stream, epoch):
    next(batches)
print("done")
"""


@pytest.mark.parametrize("device", ["none", "cpu"])
def test_a_script_may_end_in_the_middle_of_an_epoch(sealed, device):
    """Nothing is said when the interpreter ends, and it ends at once."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT, str(sealed), device], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
