"""Rounding by known offsets: its definition, its mean, and the order that neighbours are drawn in."""

import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import softlabels as sl
from softlabels import encodings, rng
from softlabels.encodings import Codebook
from softlabels.encodings.dither import GOLDEN, TURN, class_offsets, offsets_of, scaled_thresholds
from softlabels.encodings.families.counts import MAX_DITHERED
from softlabels.fidelity import measure
from softlabels.labels import Head

SPEC = "counts:12:0:2:dither"


def book_of(classes, priors=2):
    values = np.random.default_rng(0).gamma(0.3, size=(1, priors, classes)) + 1e-6
    return Codebook((values / values.sum(axis=-1, keepdims=True)).astype(np.float32))


def encode(logits, *, spec=SPEC, counters=None, temperature=1.0):
    """Labels of (B, C) logits."""
    classes = logits.shape[1]
    encoding, book = encodings.parse(spec, classes=classes), book_of(classes)
    head = Head(encoding=encoding.spec, classes=classes, temperatures=(temperature,))
    arrays = encoding.encode(logits, head, np.arange(len(logits)), counters=counters, codebook=book).arrays
    encoding.check(arrays, head)
    return encoding.decode(arrays, head, book.priors)


def drawn(labels):
    """Numbers of draws, (B, C)."""
    return np.rint(np.exp(labels.log_probs().astype(np.float64)) / labels.dither.step).astype(np.int64)


def counters_of(offsets):
    """The inverse of ``offsets_of``: 95 is that of 159 modulo 256."""
    digits = offsets.astype(">u4").view(np.uint8) * np.uint8(95)
    return digits.view("<u4").astype(np.int64)


@given(st.integers(0, 2**32 - 1))
def test_an_offset_is_its_counter_backwards_with_scrambled_digits(counter):
    digits = [159 * byte % 256 for byte in counter.to_bytes(4, "little")]
    assert offsets_of(np.array([counter], np.uint32)).tolist() == [int.from_bytes(digits, "big")]


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**31)), min_size=1, max_size=9))
def test_offsets_of_classes_are_those_of_whole_numbers(pairs):
    offsets, ids = np.array(pairs, np.int64).T
    expected = [(offset + v * GOLDEN) % 2**32 for offset, v in pairs]
    assert class_offsets(offsets.astype(np.uint32), ids).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 3000))
def test_thresholds_are_those_of_whole_numbers(offset, classes):
    exact = [1 - (offset + v * GOLDEN) % 2**32 / 2**32 for v in range(classes)]
    values = scaled_thresholds(torch.tensor([offset]), classes)[0]
    assert values.dtype == torch.float32
    away = np.abs(values.double().numpy() / TURN - exact)
    # 0 and 1 are neighbours: a bit that is lost may take the one for the other, once in 2^32 offsets.
    assert (np.minimum(away, 1 - away) <= 2**-24 * np.array(exact) + 2 / TURN).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("classes", [10, 300, 70_000])
def test_draws_are_those_of_their_definition(classes, temperature):
    """floor(N p + u) in float64; rounding in float32 may move hardly any."""
    logits = 2.5 * torch.randn(20, classes, generator=torch.Generator().manual_seed(1))
    labels = encode(logits, counters=rng.counters(3, np.arange(20)), temperature=temperature)
    steps = np.arange(classes, dtype=np.uint64) * np.uint64(GOLDEN)
    u = (labels.dither.offsets.astype(np.uint64)[:, None] + steps) % np.uint64(2**32) / 2**32
    p = (logits.double() / temperature).softmax(dim=-1).numpy()
    weights = np.zeros((20, classes))
    row, column = np.nonzero(np.isfinite(labels.values))
    weights[row, labels.ids[row, column]] = np.exp(labels.values[row, column])
    assert (np.rint(12 * weights) != np.floor(12 * p + u)).sum() <= 2


def test_the_mean_over_offsets_is_the_distribution():
    """To the order of 1 / rows, since successive offsets are spread evenly; and no class of probability 0 is drawn."""
    logits = 2.5 * torch.randn(1, 60, generator=torch.Generator().manual_seed(0))
    logits[0, 5:9] = -torch.inf
    labels = encode(logits.expand(4096, 60).contiguous(), counters=np.arange(7, 7 + 4096, dtype=np.uint32))
    p = logits[0].double().softmax(dim=-1).numpy()
    assert (np.abs(drawn(labels).mean(axis=0) / 12 - p) <= 13 / 4096).all()
    assert (drawn(labels)[:, 5:9] == 0).all()


def test_any_256_successive_counters_draw_a_class_as_often():
    """The number of draws is within 2 of N p times the items."""
    logits = 2.0 * torch.randn(1, 500, generator=torch.Generator().manual_seed(2))
    start = 2**32 - 300  # over the end of the counters
    counters = np.arange(start, start + 1024, dtype=np.uint64).astype(np.uint32)
    counts = drawn(encode(logits.expand(1024, 500).contiguous(), counters=counters))
    expected = 12 * 256 * logits[0].double().softmax(dim=-1).numpy()
    for first in (0, 44, 300, 768):
        assert (np.abs(counts[first : first + 256].sum(axis=0) - expected) <= 2).all()


@pytest.mark.parametrize("period", [2, 3, 10, 16, 100, 256])
def test_items_at_regular_distances_are_right_on_average(period):
    """Rows whose kind follows their number are drawn by offsets of all sizes, with little more noise than by chance."""
    rows = np.arange(0, 256 * 400, period)
    u = (np.stack([offsets_of(rng.counters(seed, rows)) for seed in range(20)]) / 2**32)[:, :, None]
    p = np.array([0.03, 0.2, 0.5])
    error = ((u >= 1 - p).mean(axis=1) - p) / np.sqrt(p * (1 - p) / len(rows))
    assert (np.abs(error) < 5).all()
    assert (np.square(error).mean(axis=0) < 2).all()


def test_a_pixel_is_right_on_average_over_images_and_over_its_neighbours():
    """Sides of powers of two make neither lines nor columns of equal offsets; an area has less noise than by chance."""
    u = (offsets_of(rng.position_counters(np.arange(7, 407, dtype=np.uint32), (16, 64))) / 2**32).reshape(-1, 16, 64)
    for p in (0.05, 0.2, 0.5):
        drawn = u >= 1 - p
        chance = p * (1 - p)
        assert (np.abs(drawn.mean(axis=0) - p) < 6 * np.sqrt(chance / len(u))).all()
        for area in (np.s_[:, 2:14, 5:8], np.s_[:, 3:6, 8:20], np.s_[:, 4:12, 30:38], np.s_[:, :, 9:10]):
            share = drawn[area].reshape(len(u), -1)
            assert np.square(share.mean(axis=1) - p).mean() < 0.7 * chance / share.shape[1]


def test_the_number_of_draws_of_a_row_varies_less_than_by_chance():
    """Independent offsets would have the variance of as many Bernoulli variables."""
    logits = 1.5 * torch.randn(400, 2000, generator=torch.Generator().manual_seed(3))
    totals = drawn(encode(logits)).sum(axis=1)
    chance = (12 * logits.double().softmax(dim=-1)) % 1
    assert totals.mean() == pytest.approx(12, abs=0.3)
    assert totals.var() < (chance * (1 - chance)).sum(dim=1).mean().item()


def test_a_row_of_more_classes_than_fit_takes_another_offset():
    """All probability lies on classes that this offset would round up."""
    classes, counter = 40_000, np.array([12345], np.uint32)
    least = scaled_thresholds(torch.from_numpy(offsets_of(counter).astype(np.int64)), classes)[0] / TURN
    logits = torch.where(least < 0.02, 0.0, -30.0)[None]
    labels = encode(logits, spec="counts:12:0:2:dither", counters=counter)
    assert int((least < 0.02).sum()) > 600, "so many classes would have been drawn"
    assert labels.dither.offsets[0] != offsets_of(counter)[0]
    assert drawn(labels).sum() <= 255


def test_the_most_draws_of_a_row_are_right_on_average():
    """Rows of 200 draws hardly ever have more than 255 classes, so none is redrawn, which would cost probability."""
    classes, counters = 20_000, rng.counters(0, np.arange(64))
    logits = 2 * torch.randn(64, classes, generator=torch.Generator().manual_seed(4))
    labels = encode(logits, spec=f"counts:{MAX_DITHERED}:0:2:dither", counters=counters)
    np.testing.assert_array_equal(labels.dither.offsets, offsets_of(counters))
    totals = np.exp(labels.values).sum(axis=1)
    assert abs(totals.mean() - 1) < 4 * totals.std() / np.sqrt(64) < 0.03


def test_rows_without_draws_predict_no_class():
    """A row that holds nothing does not agree with a teacher whose likeliest class is the first one, number 0."""
    logits = torch.tensor([[0.1, 0.0, *[-0.5] * 18]]).expand(400, 20).contiguous()
    labels = encode(logits, spec="threshold:0.9", counters=rng.counters(0, np.arange(400)))
    is_first = (drawn(labels)[:, 0] > 0) & (drawn(labels)[:, 1:] == 0).all(axis=1)
    assert (drawn(labels).sum(axis=1) == 0).mean() > 0.05
    assert is_first.mean() < 0.2
    agreed = measure(logits.numpy(), labels, (1.0,)).top1
    assert is_first.mean() <= agreed <= (drawn(labels)[:, 0] > 0).mean()


def test_a_certain_class_is_drawn_n_times_whatever_the_offset():
    """Also where u is so near to 1 that N + u rounds to N + 1 in float32."""
    counters = np.array([0, 1, 2**32 - 1], np.uint32)
    labels = encode(torch.tensor([[0.0, -200.0, -200.0, -200.0]]).expand(3, 4).contiguous(), counters=counters)
    assert drawn(labels).tolist() == [[12, 0, 0, 0]] * 3


def test_items_that_follow_each_other_have_counters_that_do(tmp_path):
    """Rows of a store, positions of a row, and pixels of a line, whatever the batches are."""
    rows, logits = np.arange(40), torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    by_batch = []
    for step in (40, 7):
        head = sl.Head(classes=30, encoding=SPEC)
        with sl.create(tmp_path / str(step), heads={"logits": head}, unit_rows=16, pilot={"logits": logits}) as writer:
            for start in range(0, 40, step):
                writer.append(rows[start : start + step], {"logits": logits[start : start + step]})
        by_batch.append(sl.open(tmp_path / str(step)).read(rows))
    np.testing.assert_array_equal(by_batch[0].dither.offsets, by_batch[1].dither.offsets)
    assert (np.diff(counters_of(by_batch[0].dither.offsets)) % 2**32 == 1).all()
    ragged = rng.counters(5, np.repeat([3, 4], 6), np.tile(np.arange(6), 2))
    assert (np.diff(ragged.reshape(2, 6).astype(np.int64), axis=1) % 2**32 == 1).all()
    assert ragged[0] != ragged[6]
    head = sl.Head(classes=30, kind="pixels", shape=(2, 5), encoding=SPEC)
    images = torch.randn(6, 2, 5, 30, generator=torch.Generator().manual_seed(1))
    with sl.create(tmp_path / "pixels", heads={"logits": head}, pilot={"logits": images}) as writer:
        writer.append(range(6), {"logits": images})
    lines = counters_of(sl.open(tmp_path / "pixels").read(range(6)).dither.offsets).reshape(6, 2, 5)
    assert (np.diff(lines, axis=2) % 2**32 == 1).all()
    assert (np.diff(lines, axis=1) % 2**32 == 83).all()
    assert len(set(lines[:, 0, 0].tolist())) == 6


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
def test_offsets_take_less_than_a_tenth_of_a_byte(tmp_path, shard_format):
    """Of a text of 20,000 tokens; the bytes of their column are read from the shard by another library."""
    logits = 3 * torch.randn(20_000, 50, generator=torch.Generator().manual_seed(0))
    head = sl.Head(classes=50, kind="tokens", shape=(None,), encoding=SPEC)
    options = {"shard_format": shard_format, "pilot": {"logits": logits[:500]}}
    with sl.create(tmp_path / "s", heads={"logits": head}, **options) as writer:
        writer.append(range(50), {"logits": list(logits.split(400))})
    (shard,) = (tmp_path / "s" / "shards").rglob("*.zip" if shard_format == "zarr" else "*.parquet")
    if shard_format == "zarr":
        with zipfile.ZipFile(shard) as members:
            size = sum(m.file_size for m in members.infolist() if m.filename.startswith("logits/dither/c"))
    else:
        group = pq.ParquetFile(shard).metadata.row_group(0)
        chunks = [group.column(index) for index in range(group.num_columns)]
        size = sum(c.total_compressed_size for c in chunks if c.path_in_schema.startswith("logits/dither"))
    assert 0 < size < 2000
