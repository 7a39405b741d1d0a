"""The writer API: a user's own inference loop, stopped and started at will."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import InvalidArgument, InvalidLogits, StoreBusy, StoreConflict, StoreIncomplete
from softlabels.sources import id_keys
from softlabels.training import train_student

HEADS = {"logits": sl.Head(classes=10, encoding="topk:4", temperatures=(1.0, 4.0))}
STUDENT = "mlp:width=16,depth=1"


def ids(count, start=0):
    return [f"image {number}" for number in range(start, start + count)]


def answers(names):
    """The teacher: logits that follow from the name alone."""
    seeds = id_keys(names)[:, :8].copy().view(np.uint64).reshape(-1)
    return np.stack([np.random.default_rng(int(seed)).normal(0, 3, 10) for seed in seeds]).astype(np.float32)


def assert_holds(root, names):
    """The sealed store holds each name once, with its own answer."""
    store = sl.open(root)
    keys = [key.tobytes() for key in np.asarray(store.keys())]
    assert sorted(keys) == sorted(key.tobytes() for key in id_keys(names))
    by_key = dict(zip((key.tobytes() for key in id_keys(names)), answers(names), strict=True))
    truth = np.stack([by_key[key] for key in keys]).astype(np.float64)
    truth -= np.logaddexp.reduce(truth, axis=1, keepdims=True)
    labels = store.read(range(store.rows))
    np.testing.assert_allclose(labels.values, np.take_along_axis(truth, labels.ids, axis=1), rtol=2e-3, atol=1e-3)
    assert sl.verify(root, deep=True).ok


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
def test_appended_rows_are_there_and_sealed_on_leaving(tmp_path, shard_format):
    names = ids(57)
    with sl.create(tmp_path / "s", heads=HEADS, teacher="mine", shard_format=shard_format, unit_rows=20) as writer:
        for start in range(0, 57, 9):
            batch = names[start : start + 9]
            assert writer.append(batch, {"logits": torch.from_numpy(answers(batch))}) == len(batch)
        assert writer.rows == 57
    assert_holds(tmp_path / "s", names)
    store = sl.open(tmp_path / "s")
    assert (store.units, store.rows, store.chunk_rows().tolist()) == (3, 57, [20, 20, 17])
    assert store.snapshot.fidelity["logits"].probe.rows > 0
    assert store.prior("logits").shape == (2, 10)


def test_a_loop_that_starts_over_adds_only_what_is_missing(tmp_path):
    names = ids(50)
    with sl.create(tmp_path / "s", heads=HEADS, unit_rows=8) as writer:
        writer.append(names[10:30], {"logits": answers(names[10:30])})
    with sl.create(tmp_path / "s", heads=HEADS, unit_rows=8) as writer:
        assert writer.missing(names).tolist() == [*range(10), *range(30, 50)]
        assert writer.append(names[:40], {"logits": answers(names[:40])}) == 20
        again = names[35:]
        assert writer.append(again, {"logits": answers(again)}) == 10
        assert len(writer.missing(names)) == 0
    assert_holds(tmp_path / "s", names)
    assert sl.open(tmp_path / "s").snapshot.number == 2


def test_an_exception_inside_keeps_what_was_appended(tmp_path):
    names = ids(30)

    def run():
        with sl.create(tmp_path / "s", heads=HEADS, unit_rows=8) as writer:
            writer.append(names[:11], {"logits": answers(names[:11])})
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run()
    with sl.create(tmp_path / "s", heads=HEADS, unit_rows=8) as writer:
        assert writer.missing(names).tolist() == list(range(11, 30))
        writer.append(names, {"logits": answers(names)})
    assert_holds(tmp_path / "s", names)


def test_text_in_place_of_a_list_and_a_head_without_description_are_errors(tmp_path):
    """A text is a sequence, too: its letters would be ids."""
    with pytest.raises(InvalidArgument, match="heads: no description of head 'logits', got 10"):
        sl.create(tmp_path / "store", heads={"logits": 10})
    with (
        sl.create(
            tmp_path / "store", heads={"logits": sl.Head(classes=2, encoding="dense:f16")}, teacher="t"
        ) as writer,
        pytest.raises(
            InvalidArgument, match=r"ids: no sequence, got 'row'; expected one id per row, such as \['row'\]"
        ),
    ):
        writer.append("row", {"logits": np.zeros((3, 2), np.float32)})


def test_a_bad_batch_is_refused_whole_and_the_rest_goes_on(tmp_path):
    names = ids(20)
    bad = answers(names[10:])
    bad[3, 3] = np.nan
    with sl.create(tmp_path / "s", heads=HEADS, unit_rows=100) as writer:
        writer.append(names[:10], {"logits": answers(names[:10])})
        with pytest.raises(InvalidLogits, match="not finite"):
            writer.append(names[10:], {"logits": bad})
        writer.append(names[10:], {"logits": answers(names[10:])})
    assert_holds(tmp_path / "s", names)


def append_until_killed(root, names, pipe):
    """Append and say what is safe: the rows of full units."""
    torch.set_num_threads(1)
    with sl.create(root, heads=HEADS, unit_rows=5) as writer:
        for start in range(0, len(names), 3):
            batch = names[start : start + 3]
            writer.append(batch, {"logits": answers(batch)})
            os.write(pipe, bytes([writer.rows // 5 * 5]))


@pytest.mark.slow
def test_a_kill_inside_loses_no_more_than_the_unit_at_hand(tmp_path):
    names = ids(60)
    rng = np.random.default_rng(0)
    context = multiprocessing.get_context("fork")
    safe = 0
    for _ in range(3):
        read_end, write_end = os.pipe()
        worker = context.Process(target=append_until_killed, args=(tmp_path / "s", names, write_end))
        worker.start()
        os.close(write_end)
        first = os.read(read_end, 1)
        worker.join(float(rng.uniform(0.002, 0.02)))
        worker.kill()
        worker.join()
        said = first + os.read(read_end, 1000)
        os.close(read_end)
        safe = max(safe, *said)
        with sl.create(tmp_path / "s", heads=HEADS, unit_rows=5) as writer:
            assert writer.rows >= safe
    with sl.create(tmp_path / "s", heads=HEADS, unit_rows=5) as writer:
        writer.append(names, {"logits": answers(names)})
    assert_holds(tmp_path / "s", names)


def test_views_of_one_example_are_rows_of_their_own(tmp_path):
    names = ids(4)
    with sl.create(tmp_path / "s", heads=HEADS) as writer:
        for view in range(3):
            assert writer.append(names, {"logits": answers(names) + view}, views=[view] * 4) == 4
        assert writer.append(names, {"logits": answers(names)}) == 0
    store = sl.open(tmp_path / "s")
    assert store.rows == 12
    assert store.read_chunk(0, ["view"])["view"].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_ragged_rows_and_several_heads(tmp_path):
    heads = {
        "tokens": sl.Head(classes=50, kind="tokens", encoding="topk:3", shape=(None,)),
        "speed": sl.Head(classes=1, kind="regression", encoding="dense:f32"),
    }
    rng = np.random.default_rng(0)
    sequences = [rng.normal(0, 2, (length, 50)).astype(np.float32) for length in (3, 0, 5, 1, 7, 2, 4)]
    speeds = rng.normal(20, 5, (7, 1)).astype(np.float32)
    with sl.create(tmp_path / "s", heads=heads, unit_rows=3) as writer:
        writer.append(range(7), {"tokens": sequences, "speed": speeds})
    store = sl.open(tmp_path / "s")
    labels = store.read(range(7), head="tokens")
    assert labels.lengths.tolist() == [3, 0, 5, 1, 7, 2, 4]
    assert (labels.ids[:, 0] == np.concatenate(sequences).argmax(axis=1)).all()
    np.testing.assert_array_equal(store.read(range(7), head="speed").values, speeds)
    assert sl.verify(tmp_path / "s", deep=True).ok


def test_a_student_trains_from_appended_labels_by_content(tmp_path, digits, dense_logits):
    rows = np.random.default_rng(0).permutation(len(digits))
    with sl.create(tmp_path / "s", heads={"logits": sl.Head(classes=10, encoding="dense:f16")}) as writer:
        for chosen in np.array_split(rows, 7):
            writer.append(sl.content_keys(digits.inputs(chosen)), {"logits": dense_logits[chosen]})
    result = train_student(tmp_path / "s", digits, STUDENT, tmp_path / "run", steps=20)
    assert result is not None
    assert (tmp_path / "run" / "run.json").exists()


def test_one_process_appends_at_a_time(tmp_path):
    with sl.create(tmp_path / "s", heads=HEADS) as writer:
        with pytest.raises(StoreBusy, match="another process"):
            sl.create(tmp_path / "s", heads=HEADS)
        writer.append(ids(2), {"logits": answers(ids(2))})
    with pytest.raises(StoreBusy, match="closed"):
        writer.append(ids(2), {"logits": answers(ids(2))})


def test_what_cannot_be_meant_is_refused(tmp_path, sealed):
    with pytest.raises(StoreConflict):
        sl.create(sealed, heads=HEADS)
    with pytest.raises(InvalidArgument, match="unit_rows"):
        sl.create(tmp_path / "x", heads=HEADS, unit_rows=0)
    with sl.create(tmp_path / "s", heads=HEADS) as writer:
        with pytest.raises(InvalidArgument, match="heads"):
            writer.append(ids(2), {"other": answers(ids(2))})
        with pytest.raises(InvalidArgument, match=r"shape \(3, 10\) for 2 keys"):
            writer.append(ids(2), {"logits": answers(ids(3))})
        with pytest.raises(InvalidArgument, match="rows 0 and 1 are both 'a'"):
            writer.append(["a", "a"], {"logits": answers(ids(2))})
        with pytest.raises(InvalidArgument, match="expected text, a whole number or a key"):
            writer.append([1.5, 2.5], {"logits": answers(ids(2))})
        with pytest.raises(InvalidArgument, match="views"):
            writer.append(ids(2), {"logits": answers(ids(2))}, views=[-1, 0])
        with pytest.raises(InvalidArgument, match="16"):
            writer.append([b"short", b"keys"], {"logits": answers(ids(2))})
    with pytest.raises(StoreIncomplete, match="no rows yet"):
        sl.seal(tmp_path / "s")


@pytest.mark.parametrize(
    ("target", "family"), [("threshold:bytes=28", "threshold:"), ("adaptive:kl=0.05", "adaptive:")]
)
def test_an_encoding_may_say_what_it_is_to_reach(tmp_path, target, family):
    """It is found on the pilot, kept by the store, and the same command goes on with it."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (600, 300)).astype(np.float32)
    heads = {"logits": sl.Head(classes=300, encoding=target)}
    with pytest.raises(InvalidArgument, match=r"got \(600, 200\); expected \(n, 300\)"):
        sl.create(tmp_path / "s", heads=heads, pilot={"logits": logits[:, :200]})
    with sl.create(tmp_path / "s", heads=heads, pilot={"logits": logits}) as writer:
        writer.append(range(300), {"logits": logits[:300]})
    with sl.create(tmp_path / "s", heads=heads) as writer:
        writer.append(range(600), {"logits": logits})
    store = sl.open(tmp_path / "s")
    assert store.rows == 600
    assert store.heads["logits"].encoding.startswith(family)
    if family == "adaptive:":
        assert 0.025 < store.snapshot.fidelity["logits"].probe.kl["1"] < 0.075
    else:
        labels = store.read(range(600))
        assert 6 < np.isfinite(labels.values).sum() / 600 < 12, "a byte or so an id in the 12 beside the key"


def test_a_budget_means_nothing_to_a_store_that_grows(tmp_path):
    head = sl.Head(classes=300, encoding="auto:budget=1GB")
    with pytest.raises(InvalidArgument, match=r"needs the number of rows.*threshold:bytes=40"):
        sl.create(tmp_path / "s", heads={"logits": head}, pilot={"logits": np.zeros((600, 300), np.float32)})
