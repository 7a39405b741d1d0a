"""``sl.create`` without a pilot: the first rows are held until an encoding is found, and none is lost."""

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, InvalidLogits, StoreBusy
from softlabels.generation import first_rows

CLASSES = 300
LOGITS = np.random.default_rng(0).normal(0, 3, (700, CLASSES)).astype(np.float32)
HEADS = {"logits": sl.Head(classes=CLASSES, encoding="counts:20:0.01:4")}


def content_of(path):
    """Keys, views and labels of a sealed store."""
    store = sl.open(path)
    labels = store.read(range(store.rows))
    return np.asarray(store.keys()), labels.ids, labels.values, labels.log_tail, store.codebook("logits").priors


@pytest.mark.parametrize("held", [100, 2**20])
def test_labels_are_those_of_the_same_rows_as_a_pilot(tmp_path, monkeypatch, held):
    """The store begins once enough rows are held, or on leaving."""
    monkeypatch.setattr(first_rows, "MAX_HELD_BYTES", 4 * CLASSES * held)
    pilot = {"logits": LOGITS[: min(held, len(LOGITS))]}
    with sl.create(tmp_path / "a", heads=HEADS, unit_rows=64, pilot=pilot) as writer:
        writer.append(range(700), {"logits": LOGITS})
    buffer = np.empty((50, CLASSES), np.float32)
    with sl.create(tmp_path / "b", heads=HEADS, unit_rows=64) as writer:
        for start in range(0, 700, 50):
            buffer[:] = LOGITS[start : start + 50]  # a loop may use its memory again
            assert writer.missing(range(start, start + 50)).tolist() == list(range(50))
            assert writer.append(range(start, start + 50), {"logits": buffer}) == 50
            assert writer.append(range(start, start + 50), {"logits": buffer}) == 0
            assert writer.rows == start + 50
        assert (tmp_path / "b").exists() == (held == 100)
    for one, other in zip(content_of(tmp_path / "a"), content_of(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ragged_rows_and_views_are_held_too(tmp_path):
    head = sl.Head(classes=CLASSES, kind="tokens", encoding="threshold:ids=5", shape=(None,))
    rows = [LOGITS[:3], LOGITS[3:3], LOGITS[3:200], LOGITS[200:700]]
    with sl.create(tmp_path / "s", heads={"logits": head}) as writer:
        writer.append(["a", "a", "b", "c"], {"logits": rows}, views=[0, 1, 0, 0])
        assert writer.missing(["a", "c"], [1, 1]).tolist() == [1]
    store = sl.open(tmp_path / "s")
    assert store.heads["logits"].encoding.startswith("threshold:")
    assert store.read(range(4)).lengths.tolist() == [3, 0, 197, 500]


def test_a_store_that_exists_needs_no_rows(tmp_path):
    for start in (0, 350):
        with sl.create(tmp_path / "s", heads=HEADS) as writer:
            writer.append(range(start, start + 350), {"logits": LOGITS[start : start + 350]})
            assert isinstance(writer, first_rows.FirstRows) == (start == 0)
    assert sl.open(tmp_path / "s").rows == 700


def test_rows_that_no_store_takes_are_refused_at_once_and_the_others_stay(tmp_path):
    with sl.create(tmp_path / "s", heads=HEADS) as writer:
        writer.append(range(400), {"logits": LOGITS[:400]})
        with pytest.raises(InvalidLogits, match="row 1"):
            writer.append([400, 401], {"logits": np.array([LOGITS[0], LOGITS[1] * np.nan])})
        with pytest.raises(InvalidArgument, match="other heads"):
            writer.append([400], {"feat": LOGITS[:1]})
        with pytest.raises(InvalidArgument, match="one output per key"):
            writer.append([400, 401], {"logits": LOGITS[:1]})
    assert sl.open(tmp_path / "s").rows == 400
    with pytest.raises(StoreBusy, match="closed"):
        writer.append([500], {"logits": LOGITS[:1]})


def test_an_exception_in_the_loop_keeps_the_rows_held(tmp_path):
    def loop():
        with sl.create(tmp_path / "s", heads=HEADS) as writer:
            writer.append(range(50), {"logits": LOGITS[:50]})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    sl.seal(tmp_path / "s")
    assert sl.open(tmp_path / "s").rows == 50


def test_too_few_rows_for_a_codebook_are_an_error(tmp_path):
    with (
        pytest.raises(InvalidArgument, match="need a pilot of 16 rows or more, got 5"),
        sl.create(tmp_path / "s", heads=HEADS) as writer,
    ):
        writer.append(range(5), {"logits": LOGITS[:5]})
    with sl.create(tmp_path / "t", heads=HEADS) as writer:
        assert writer.close() is None
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("encoding", "problem"), [("auto:budget=1GB", "needs the number of rows"), ("counts:0", "counts:N")]
)
def test_encodings_that_cannot_be_found_are_refused_before_the_first_row(tmp_path, encoding, problem):
    with pytest.raises(InvalidArgument, match=problem):
        sl.create(tmp_path / "s", heads={"logits": sl.Head(classes=CLASSES, encoding=encoding)})
