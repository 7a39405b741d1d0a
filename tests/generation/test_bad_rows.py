"""Rows that cannot be labelled are named, counted and left out; everything else is as it would be without them."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import (
    InvalidLogits,
    KeyMissing,
    ModelFailed,
    StoreCorrupt,
    TeacherRejected,
    TooManyBadRows,
    UnreadableRow,
)
from softlabels.generation import generate
from softlabels.generation.bad_rows import usable_rows
from softlabels.generation.row_plan import RowPlan
from softlabels.sources import DatasetSource
from softlabels.store import describe_store, open_storage, repair, verify
from softlabels.store.format import canonical_json, paths
from softlabels.store.format.skipped_rows import MAX_REASONS, OTHER, SkippedRow, to_json
from softlabels_cli.main import cli
from tests.store.independent_reader import read_store

ROWS, UNIT_ROWS = 60, 16
UNREADABLE = (0, 7, 8, 33)
FAILING = (17, 40)
NOT_FINITE = (21,)
BAD = sorted((*UNREADABLE, *FAILING, *NOT_FINITE))


class Plain(DatasetSource):
    """Inputs that are all right."""

    def __init__(self, inputs, ids):
        super().__init__(list(inputs), ids=ids, collate=np.stack)


class Damaged(Plain):
    """Inputs of which some cannot be read."""

    def inputs(self, rows):
        bad = [int(row) for row in rows if int(row) in UNREADABLE]
        if bad:
            raise UnreadableRow.of(f"photos, row {bad[0]}: truncated", bad, f"photo {bad[0]} is truncated")
        return super().inputs(rows)


def values():
    return np.random.default_rng(0).normal(0, 2, (ROWS, 12)).astype(np.float32)


def data(source=Damaged):
    return source(values(), ids=[f"row {row}" for row in range(ROWS)])


def teach(inputs):
    """Twelve classes; raises for some inputs and is not finite for others, which it knows by their values."""
    logits = torch.as_tensor(inputs).clone()
    known = torch.as_tensor(values())
    if any((logits == known[row]).all(dim=1).any() for row in FAILING):
        raise RuntimeError("an image of another size")
    for row in NOT_FINITE:
        logits[(logits == known[row]).all(dim=1), 3] = float("nan")
    return logits


def sound(inputs):
    return torch.as_tensor(inputs).clone()


def label(out, source=None, **options):
    settings = {"encoding": "topk:4", "unit_rows": UNIT_ROWS, "batch_size": 9, "skip_bad": len(BAD)} | options
    teacher = settings.pop("teacher", teach)
    return generate(source if source is not None else data(), teacher=teacher, out=out, **settings)


@pytest.fixture(scope="module")
def skipped(tmp_path_factory):
    """A store that lacks the bad rows; read only."""
    out = tmp_path_factory.mktemp("bad") / "labels"
    result = label(out)
    assert (result.rows, result.skipped_rows, result.missing_units) == (ROWS - len(BAD), len(BAD), 0)
    return out


def test_bad_rows_are_named_and_all_others_have_their_labels(skipped):
    store = sl.open(skipped)
    entries = store.skipped()
    assert [entry.row for entry in entries] == BAD
    reasons = {entry.row: entry.reason for entry in entries}
    assert [reasons[row] for row in UNREADABLE] == [f"photo {row} is truncated" for row in UNREADABLE]
    assert "an image of another size" in reasons[17]
    assert reasons[21] == "the output of the teacher is not finite"
    rows = np.setdiff1d(np.arange(ROWS), BAD)
    keys = data().keys()
    assert np.array_equal(store.keys(), keys[rows])
    assert [entry.key for entry in entries] == [keys[row].tobytes().hex() for row in BAD]
    top = np.argsort(-values()[rows], axis=1, kind="stable")[:, :4]
    assert np.array_equal(store.read(range(len(rows))).ids, top)


def test_the_gate_passes_over_rows_that_are_not_finite(tmp_path):
    """The first row is one that the gate tries."""

    def teacher(inputs):
        logits = sound(inputs)
        logits[(logits == torch.as_tensor(values())[0]).all(dim=1), 3] = float("nan")
        return logits

    with pytest.raises(InvalidLogits, match="row 0 are not finite"):
        label(tmp_path / "none", data(Plain), teacher=teacher, skip_bad=None)
    result = label(tmp_path / "some", data(Plain), teacher=teacher, skip_bad=1)
    assert [entry.row for entry in sl.open(tmp_path / "some").skipped()] == [0]
    assert result.rows == ROWS - 1
    with pytest.raises(TeacherRejected, match="none of 60 rows tried"):
        label(tmp_path / "all", data(Plain), teacher=lambda inputs: sound(inputs) * float("nan"), skip_bad=ROWS)


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
@pytest.mark.parametrize("encoding", ["dense:f32", "threshold:0.05", "topk:4"])
def test_draws_and_statistics_of_the_other_rows_stay(tmp_path, shard_format, encoding):
    options = {"encoding": encoding, "shard_format": shard_format, "batch_size": 1}
    label(tmp_path / "some", **options)
    label(tmp_path / "all", data(Plain), teacher=sound, **options)
    filtered, complete = sl.open(tmp_path / "some"), sl.open(tmp_path / "all")
    rows = np.setdiff1d(np.arange(ROWS), BAD)
    names = filtered.head_columns("logits")
    ours, expected = filtered.take(np.arange(len(rows)), names), complete.take(rows, names)
    assert all(np.array_equal(ours[name], expected[name]) for name in names)
    probe, full = filtered.probe(), complete.probe()
    assert set(rows[probe.rows]) == set(full.rows) - set(BAD), "the same rows are stored dense"
    assert np.array_equal(probe.logits, values()[rows[probe.rows]])
    assert verify(tmp_path / "some", deep=True).ok


def test_a_unit_without_a_row_is_committed_too(tmp_path):
    result = label(tmp_path / "labels", unit_rows=2, encoding="topk:4")
    assert result.missing_units == 0
    source = data()
    for form in ("zarr", "parquet"):
        only = Damaged(values(), ids=[f"row {row}" for row in range(ROWS)])
        out = tmp_path / form
        label(out, only, unit_rows=1, shard_format=form, teacher=sound, skip_bad=4)
        store = sl.open(out)
        assert (store.units, store.rows, store.snapshot.skipped) == (ROWS, ROWS - 4, 4)
        assert verify(out, deep=True).ok
        assert np.array_equal(store.keys(), source.keys()[np.setdiff1d(np.arange(ROWS), UNREADABLE)])
        assert len(store.read(range(store.rows))) == ROWS - 4
        rows = np.concatenate([batch.rows for batch in sl.loader(store, batch_size=7, seed=1)])
        assert sorted(rows) == list(range(ROWS - 4))


def test_the_limit_ends_the_run_with_code_3_and_keeps_what_was_committed(tmp_path):
    with pytest.raises(TooManyBadRows, match=r"got 5; expected at most 4 \(skip_bad=\).*row 0 \(photo 0 is trunc") as e:
        label(tmp_path / "labels", skip_bad=4)
    assert e.value.exit_code == 3
    assert list(paths.committed_units(open_storage(tmp_path / "labels")))[:1] == [0]
    with pytest.raises(TooManyBadRows, match="got 5; expected at most 4"):
        label(tmp_path / "labels", skip_bad=4)
    assert label(tmp_path / "labels").missing_units == 0, "the same command with a higher limit resumes"
    assert sl.open(tmp_path / "labels").snapshot.skipped == len(BAD)


def test_ranks_draw_from_one_budget(tmp_path, monkeypatch):
    out, teacher = tmp_path / "labels", sl.models.as_model(sound, sample=values()[:1])
    label(out, teacher=teacher, skip_bad=4)
    for record in ("snapshots/00000001.json", "records/00/00000002.json", "records/00/00000003.json"):
        (out / record).unlink()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TooManyBadRows, match=r"got 4; expected at most 3 .*row 0 .*row 33"):
        label(out, teacher=teacher, engine="torchrun", skip_bad=3)
    assert label(out, teacher=teacher, engine="torchrun", skip_bad=4).skipped_rows == 4


@pytest.mark.parametrize(("teacher", "error"), [(sound, UnreadableRow), (teach, ModelFailed)])
def test_without_the_option_a_bad_row_is_an_error(tmp_path, teacher, error):
    source = data() if teacher is sound else data(Plain)
    with pytest.raises(error):
        label(tmp_path / "labels", source, teacher=teacher, skip_bad=None, gate=False)


def test_errors_that_are_not_of_rows_end_the_run_at_once(tmp_path):
    def interrupted(inputs):
        if len(inputs) > 1:
            raise KeyboardInterrupt
        return sound(inputs)

    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "labels", data(Plain), teacher=interrupted, gate=False)


def test_the_gate_looks_at_rows_that_can_be_labelled(tmp_path):
    with pytest.raises(sl.errors.TeacherRejected, match="none of 60 rows tried"):
        label(tmp_path / "a", teacher=failing_after_one())
    with pytest.raises(sl.errors.TeacherRejected, match="same output"):
        label(tmp_path / "b", teacher=lambda inputs: torch.arange(12.0).repeat(len(inputs), 1))


def failing_after_one():
    """A teacher that fails always but for its first batch."""
    calls = []

    def teacher(inputs):
        calls.append(len(inputs))
        if len(calls) > 1:
            raise RuntimeError("broken")
        return sound(inputs)

    return teacher


def test_usable_rows_are_found_in_any_mixture():
    plan, model = RowPlan(data()), sl.models.as_model(teach, sample=values()[1:2])
    assert usable_rows(plan, model, np.arange(ROWS)).tolist() == sorted(set(range(ROWS)) - set(BAD))


def test_reuse_fills_the_rows_that_were_skipped(tmp_path):
    teacher = sl.models.as_model(sound, sample=values()[:1])
    label(tmp_path / "first", teacher=teacher, skip_bad=4)
    result = label(tmp_path / "labels", data(Plain), teacher=teacher, reuse=[tmp_path / "first"])
    assert (result.reused_rows, result.rows, result.skipped_rows) == (ROWS - 4, ROWS, 0)


def test_training_leaves_skipped_rows_out_and_reports_other_gaps(skipped, tmp_path):
    store = sl.open(skipped)
    source = data(Plain)
    loader = sl.loader(store, inputs=source, batch_size=8)
    seen = []
    for batch in loader:
        assert np.array_equal(np.asarray(batch.inputs), values()[batch.rows])
        top = np.argsort(-values()[batch.rows], axis=1, kind="stable")[:, :4]
        assert np.array_equal(batch.targets["logits"].ids, top)
        seen += batch.rows.tolist()
    assert sorted(seen) == sorted(set(range(ROWS)) - set(BAD))
    foreign = Plain(values()[:3], ids=["row 1", "row 2", "a row that was never there"])
    with pytest.raises(KeyMissing):
        list(sl.loader(store, inputs=foreign, batch_size=8))


def test_a_student_is_trained_on_data_with_rows_that_cannot_be_read(skipped, tmp_path):
    """Row 0 is one, and the first of those that the statistics of inputs are computed from."""
    student = sl.train_student(skipped, data(), "mlp:width=4,depth=1", tmp_path / "run", steps=4, batch_size=60)
    held_out = student.run.data.held_out
    assert held_out.rows + held_out.trained_rows == ROWS - len(BAD)


def test_a_merged_store_has_the_rows_of_both(tmp_path):
    other = Plain(values()[5:9] + 1, ids=["a", "b", "c", "d"])
    teacher = sl.models.as_model(teach, sample=values()[1:2])
    label(tmp_path / "one", teacher=teacher)
    label(tmp_path / "two", other, teacher=teacher, unit_rows=4)
    snapshot = sl.merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert (snapshot.rows, snapshot.skipped) == (ROWS - len(BAD) + 4, 0)


def test_repair_and_generate_make_a_unit_with_skipped_rows_again(tmp_path):
    out = tmp_path / "labels"
    label(out)
    before = sl.open(out).skipped()
    shard = next((out / "shards" / "00").glob("00000001-*"))
    shard.write_bytes(b"\0" * shard.stat().st_size)
    assert repair(out) == [1]
    label(out)
    assert sl.open(out).skipped() == before
    assert verify(out, deep=True).ok


def test_inspect_lists_them(skipped):
    result = CliRunner().invoke(cli, ["inspect", str(skipped)])
    assert "skipped     7 rows without labels: row 0: photo 0 is truncated" in result.output
    document = json.loads(CliRunner().invoke(cli, ["inspect", str(skipped), "--json"]).output)
    assert [entry["row"] for entry in document["skipped"]] == BAD
    assert document["rows"] == ROWS - len(BAD)


def test_an_unsealed_store_counts_and_names_them(tmp_path):
    label(tmp_path / "labels")
    for path in (tmp_path / "labels" / "snapshots").iterdir():
        path.unlink()
    assert [entry.row for entry in describe_store(tmp_path / "labels").skipped] == BAD


def test_the_independent_reader_reads_it(skipped):
    columns, _ = read_store(skipped)
    assert len(columns["key"]) == ROWS - len(BAD)


def test_many_reasons_and_long_ones_fit_into_a_record():
    rows = [SkippedRow(row, "ab" * 16, f"reason {row} " + "x" * 300) for row in range(50)]
    document = to_json(rows)
    assert len(document["reasons"]) == MAX_REASONS
    assert document["reasons"][-1] == OTHER
    assert max(map(len, document["reasons"])) == 200


@pytest.mark.parametrize(
    "change",
    [
        {"skipped": None}, {"version": 1}, {"version": 3}, {"rows": 99},
        {"skipped": {"rows": [[0, 0]], "reasons": ["x"], "keys": "ab"}},
        {"skipped": {"rows": [], "reasons": [], "keys": ""}},
        {"skipped": {"rows": [[8, 0], [7, 0], [0, 0]], "reasons": ["x"], "keys": "ab" * 48}},
        {"skipped": {"rows": [[0, 0], [7, 0], [16, 0]], "reasons": ["x"], "keys": "ab" * 48}},
        {"skipped": {"rows": [[0, 0], [7, 1], [8, 0]], "reasons": ["x"], "keys": "ab" * 48}},
        {"skipped": {"rows": [[0], [7, 0], [8, 0]], "reasons": ["x"], "keys": "ab" * 48}},
        {"skipped": {"rows": [[0, 0], [7, 0], [8, 0]], "reasons": ["x" * 201], "keys": "ab" * 48}},
        {"skipped": {"rows": [[0, 0], [7, 0], [8, 0]], "reasons": ["x"], "keys": "zz" * 48}},
    ],
)  # fmt: skip
def test_forged_records_are_refused(tmp_path, skipped, change):
    import shutil

    out = tmp_path / "labels"
    shutil.copytree(skipped, out)
    path = out / "records" / "00" / "00000000.json"
    value = json.loads(path.read_bytes()) | change
    del value["digest"]
    path.write_bytes(canonical_json.to_bytes(canonical_json.sign(value)))
    assert not verify(out).ok
    with pytest.raises(StoreCorrupt):
        sl.open(out).read([0])


def test_nothing_but_bad_rows_is_no_store(tmp_path):
    class Lost(Plain):
        def inputs(self, rows):
            if 0 not in rows or len(rows) > 1:
                raise UnreadableRow.of("gone", [int(row) for row in rows], "gone")
            return super().inputs(rows)

    def once(inputs):
        once.calls += 1
        if once.calls > 1:
            raise RuntimeError("broken")
        return sound(inputs)

    once.calls = 0
    with pytest.raises(sl.errors.StoreIncomplete, match=r"no row has labels, got 6 that were skipped.*(broken|gone)"):
        label(tmp_path / "labels", Lost(values()[:6], ids=list("abcdef")), teacher=once, gate=False, skip_bad=6)
