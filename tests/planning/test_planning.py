"""Plans: what they promise is what a store of those labels has, and the recommendation is the best there is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels import encodings, planning
from softlabels.encodings import codebook
from softlabels.encodings.families import families
from softlabels.errors import InvalidArgument, InvalidLogits
from softlabels.labels import Head
from softlabels.planning import plot
from softlabels.planning.table import Plan, PlanRow, measure_row

CLASSES = 120


def logits_of(rows, seed=0, classes=CLASSES):
    """Zipf-like rows around a common opinion: some sure of themselves, some not."""
    rng = np.random.default_rng(seed)
    common = -1.2 * np.log(np.arange(1, classes + 1))
    return (common + rng.normal(0, 1.5, (rows, classes)) * rng.uniform(0.3, 2, (rows, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def sample():
    return planning.Sample(logits=logits_of(256), temperatures=(1.0, 2.0), items=4000, rows=4000)


@pytest.fixture(scope="module")
def table(sample):
    return planning.plan(sample)


def test_the_encoding_of_a_store_has_one_row():
    """Also if the table tries it under a shorter name."""
    encoding = encodings.parse("threshold:0.05", classes=40).spec
    sample = planning.Sample(logits=logits_of(40), temperatures=(1.0,), items=40, rows=40, encoding=encoding)
    assert [row.encoding for row in planning.plan(sample).rows if row.current] == [encoding]


def test_the_table_is_ordered_and_its_fronts_are_those_of_brute_force(table):
    sizes = [row.bytes_per_row for row in table.rows]
    assert sizes == sorted(sizes)
    assert {row.encoding.split(":")[0] for row in table.rows} == {"dense", "topk", "adaptive", "threshold", "sampled"}
    for row in table.rows:
        beaten = any(
            other.unbiased == row.unbiased
            and other.distance <= row.distance
            and other.bytes_per_row <= row.bytes_per_row
            and (other.distance, other.bytes_per_row) != (row.distance, row.bytes_per_row)
            for other in table.rows
        )
        assert row.front == (not beaten), row.encoding


def test_the_figures_are_those_of_float64(sample, table):
    scaled = sample.logits.astype(np.float64)
    log_p = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
    p = np.exp(log_p)
    assert table.entropy == pytest.approx(-(p * log_p).sum(axis=1).mean(), rel=1e-6)
    by_name = {row.encoding: row for row in table.rows}
    for k in (1, 8, 64):
        top = np.sort(p, axis=1)[:, -k:].sum(axis=1).mean()
        assert by_name[f"topk:{k}:f16"].mass == pytest.approx(top, rel=1e-5)
        assert (by_name[f"topk:{k}:f16"].ids, by_name[f"topk:{k}:f16"].top1) == (k, 1.0)
    for least in (0.05, 0.005):
        listed = np.maximum((p >= least).sum(axis=1), 1).mean()
        assert by_name[f"adaptive:{least:g}:d4"].ids == pytest.approx(listed, abs=0.02)
    half = sample.logits.astype(np.float16).astype(np.float64)
    log_q = half - np.logaddexp.reduce(half, axis=1, keepdims=True)
    assert by_name["dense:f16"].kl == pytest.approx((p * (log_p - log_q)).sum(axis=1).mean(), abs=2e-7)
    # The variance of threshold sampling is known: sum of p (tau - p) over the small classes.
    small = np.where(p < 0.05, p * (0.05 - p), 0.0).sum(axis=1).mean()
    assert by_name[next(n for n in by_name if n.startswith("threshold:0.05:"))].error == pytest.approx(small, rel=0.25)


@pytest.mark.parametrize(
    "spec", ["dense:f16", "topk:8:d4", "topk:8:f16", "adaptive:0.01:d4", "adaptive:0.01:d4:6", "threshold:0.05"]
)
def test_a_store_has_the_bytes_and_the_fidelity_that_were_planned(tmp_path, spec):
    """Of rows that were not in the sample."""
    sample = planning.Sample(logits=logits_of(512), temperatures=(1.0,), items=4000, rows=4000)
    promised, _ = measure_row(sample, spec)
    heads, pilot = {"logits": sl.Head(classes=CLASSES, encoding=spec)}, {"logits": logits_of(1000, seed=3)}
    with sl.create(tmp_path / "s", heads=heads, pilot=pilot) as writer:
        writer.append(range(4000), {"logits": logits_of(4000, seed=1)})
    store = sl.open(tmp_path / "s")
    assert store.bytes_per_row == pytest.approx(promised.bytes_per_row, rel=0.06)
    figures = store.snapshot.fidelity["logits"].units
    kl = next(iter(figures.kl.values()), None)
    if promised.kl is None:
        assert kl is None
        assert figures.error == pytest.approx(promised.error, rel=0.5)
    elif spec.startswith("dense"):
        assert kl < 1e-5
    else:  # a unit measures without the tail prior that sealing makes; the probe with it
        assert store.snapshot.fidelity["logits"].probe.kl["1"] == pytest.approx(promised.kl, rel=0.2)


def test_a_sample_stands_for_a_dataset_of_any_size(sample):
    row, _ = measure_row(sample, "topk:4")
    twice, _ = measure_row(sample.for_rows(8000), "topk:4")
    assert twice.bytes_total == pytest.approx(2 * row.bytes_total, rel=0.02), "one unit has one footer"
    assert sample.for_rows(None) is sample
    ragged = replace(sample, items=40_000)
    assert measure_row(ragged, "topk:4")[0].bytes_per_row == pytest.approx(row.bytes_per_row - 16 * 0.9, abs=2)
    assert ragged.for_rows(400).items == 4000


@pytest.mark.parametrize("limit", [0.5, 0.05, 0.005])
def test_the_smallest_labels_within_a_kl_are_found(sample, table, limit):
    spec = planning.resolve(f"auto:max-kl={limit}", sample)
    row, _ = measure_row(sample, spec)
    assert row.kl <= limit
    within = [other for other in table.rows if other.kl is not None and other.kl <= limit]
    assert all(other.bytes_per_row >= row.bytes_per_row for other in within)
    adaptive = planning.resolve(f"adaptive:kl={limit}", sample)
    assert adaptive.startswith("adaptive:")
    assert measure_row(sample, adaptive)[0].kl <= limit


@pytest.mark.parametrize("budget", ["90KB", "200000", "0.4MB"])
def test_the_most_faithful_labels_within_a_budget_are_found(sample, table, budget):
    chosen, _ = measure_row(sample, planning.resolve(f"auto:budget={budget}", sample))
    limit = planning.parse_size(budget)
    assert chosen.bytes_total <= limit
    assert all(
        row.kl >= chosen.kl
        for row in table.rows
        if row.bytes_total <= 64_000 + (limit - 64_000) / 1.02 and row.kl is not None
    )


@pytest.mark.parametrize("target", ["adaptive:bytes=30", "threshold:bytes=40", "threshold:ids=12"])
def test_a_mean_size_is_approached_from_below(sample, target):
    spec = planning.resolve(target, sample)
    row, _ = measure_row(sample, spec)
    family, _, limit = target.partition(":")
    value = float(limit.partition("=")[2])
    measured = row.ids if "ids" in limit else row.bytes_per_row
    assert spec.startswith(family)
    assert 0.85 * value <= measured <= value


@pytest.mark.parametrize("target", ["counts:ids=8", "counts:bytes=30"])
def test_targets_of_counts_draw_from_all_classes(sample, target):
    """Students learn worse from labels with a floor, though their squared error is less."""
    family, _, floor, _, rule = planning.resolve(target, sample).split(":")
    assert (family, floor, rule) == ("counts", "0", "dither")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("auto:max-kl=0", "target 'auto:max-kl=0': invalid value, got '0'"),
        ("auto:max-kl=-1", "expected a number above 0"),
        ("auto:max-kl=nan", "expected a number above 0"),
        ("auto:max-kl=low", "got 'low'"),
        ("auto:max-kl=1e-12", "no encoding comes within 1e-12 nats"),
        ("auto:budget=much", "invalid size, got 'much'; expected 50GB"),
        ("auto:budget=10KB", r"keys alone take 64,000 bytes for 4,000 rows, got 10,000 bytes"),
        (
            "auto:budget=70KB",
            "out of reach for 4,000 rows, got 70,000 bytes; expected .*, which topk:1:d4 takes",
        ),
        ("threshold:ids=0.1", "out of reach, the least ids of threshold are"),
        ("adaptive:bytes=16", "keys alone take 16 bytes per row, got 16; expected more"),
        ("threshold:bytes=17", "out of reach, the least bytes of threshold are"),
        ("threshold:ids=3:d4", "unexpected options, got 'd4'"),
        ("adaptive:ids=3", "encoding 'adaptive:ids=3': unknown target; .*auto:max-kl=NATS"),
        ("auto=3", "unknown target"),
        ("=", "unknown target"),
    ],
)
def test_targets_that_cannot_be_reached_or_meant_say_so(sample, target, problem):
    assert planning.is_target(target)
    with pytest.raises(InvalidArgument, match=problem):
        planning.resolve(target, sample)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("50GB", 50 * 10**9), ("1.5TiB", 3 * 2**39), ("200 mb", 200 * 10**6), ("3k", 3000), ("0", 0)],
)
def test_sizes_are_read(text, size):
    assert planning.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "12 parsecs", "1.2.3MB", "iB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InvalidArgument, match="or a number of bytes"):
        planning.parse_size(text)


def test_samples_that_cannot_be_planned_with_are_refused(sample):
    with pytest.raises(InvalidArgument, match="too few rows to plan with, got 15; expected 16"):
        replace(sample, logits=sample.logits[:15])
    broken = sample.logits.copy()
    broken[200, 7] = np.inf
    with pytest.raises(InvalidLogits, match="row 200"):
        planning.plan(replace(sample, logits=broken))


def test_a_store_plans_for_itself(tmp_path):
    """Also of ragged rows, with its own codebook."""
    head = Head(classes=CLASSES, encoding="adaptive:0.02:d4:5", kind="tokens", shape=(None,))
    lengths = np.random.default_rng(0).integers(0, 9, 300)
    positions = logits_of(int(lengths.sum()))
    with sl.create(tmp_path / "s", heads={"logits": head}, pilot={"logits": logits_of(400, seed=5)}) as writer:
        writer.append(range(300), {"logits": np.split(positions, np.cumsum(lengths)[:-1])})
    store = sl.open(tmp_path / "s")
    sample = planning.sample_of_store(tmp_path / "s")
    assert (sample.items, sample.rows) == (int(lengths.sum()), 300)
    assert sample.codebook.priors.shape == (1, 5, CLASSES)
    (current,) = (row for row in planning.plan(sample).rows if row.current)
    assert current.encoding == store.heads["logits"].encoding == "adaptive:0.02:d4:5"
    measured = store.snapshot.fidelity["logits"].probe
    assert current.kl == pytest.approx(measured.kl["1"], rel=1e-5)
    assert store.bytes == pytest.approx(current.bytes_total, rel=0.25), "a few positions compress worse than 1,275"


def test_numbers_to_regress_on_have_no_plan(tmp_path):
    heads = {"logits": sl.Head(classes=4, kind="regression", encoding="dense:f32")}
    with sl.create(tmp_path / "s", heads=heads) as writer:
        writer.append(range(50), {"logits": logits_of(50, classes=4)})
    with pytest.raises(InvalidArgument, match="no dense rows of a distribution"):
        planning.sample_of_store(tmp_path / "s")
    with pytest.raises(InvalidArgument, match="no head 'other'; it has logits"):
        planning.sample_of_store(tmp_path / "s", "other")


@pytest.mark.parametrize(("ending", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_a_plan_is_drawn(tmp_path, table, ending, start):
    pytest.importorskip("matplotlib")
    plot.draw(table, tmp_path / f"plan{ending}")
    data = (tmp_path / f"plan{ending}").read_bytes()
    assert data.startswith(start)
    assert len(data) > 5000


def test_a_picture_of_another_kind_is_refused(tmp_path, table):
    with pytest.raises(InvalidArgument, match=r"unknown file type, got .*plan.gif; expected .svg"):
        plot.draw(table, tmp_path / "plan.gif")


def test_priors_worth_a_try_are_tried_where_there_are_many_classes():
    wide = planning.Sample(logits=logits_of(96, classes=600), temperatures=(1.0,), items=96, rows=96)
    tried = [row.encoding for row in planning.plan(wide).rows if row.encoding.endswith(":d4:6")]
    assert tried
    encoding = encodings.parse(tried[0], classes=600)
    head = Head(classes=600, encoding=encoding.spec, codebook="0" * 64)
    book = codebook.fit(encoding, head, [torch.from_numpy(wide.logits)])
    assert book.priors.shape == (1, 6, 600)


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
@pytest.mark.parametrize("target", ["adaptive:bytes=50", "threshold:bytes=50", "auto:budget=100KB"])
def test_a_store_stays_within_its_target_in_bytes(tmp_path, target, shard_format):
    """Keys, chunks and footers count."""
    weights = torch.from_numpy(logits_of(8))
    inputs = np.random.default_rng(3).normal(size=(2000, 8)).astype(np.float32)
    result = sl.generate(
        inputs, teacher=lambda batch: batch @ weights, out=tmp_path / "s", encoding=target, shard_format=shard_format
    )
    limit = 100_000 if "budget" in target else 50 * 2000
    assert 0.85 * limit <= result.bytes <= limit


def test_a_plan_of_every_family_is_drawn(sample, tmp_path):
    """Also of those that only a vocabulary is planned with, and of a family without a colour of its own."""
    names = [*families(), "new"]
    rows = [
        PlanRow(encoding=f"{family}:1", bytes_per_row=9.0, kl=None, top1=1.0, bytes_total=9, mass=1.0, error=0.1,
                ids=1.0, unbiased=True)
        for family in names
    ]  # fmt: skip
    plot.draw(Plan(rows=rows, sample=sample, entropy=1.0), tmp_path / "plan.svg")
    assert set(plot.COLOURS) == set(names) - {"new"}
    assert (tmp_path / "plan.svg").stat().st_size > 0
