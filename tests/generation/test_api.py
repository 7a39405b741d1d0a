"""Generating: what the teacher said is what the store holds, and nothing is computed twice."""

import time

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels import models
from softlabels.errors import InvalidArgument, InvalidData, InvalidLogits, StoreConflict
from softlabels.generation import Settings, estimate, generate
from softlabels.store import open_storage
from softlabels.store.format import paths
from tests.warm import WarmPython


def test_the_store_holds_what_the_teacher_said(teacher, digits, dense_logits, tmp_path):
    result = generate(digits, teacher=teacher, out=tmp_path / "s", encoding="dense:f32", batch_size=1797)
    assert (result.rows, result.missing_units) == (1797, 0)
    assert sl.open(tmp_path / "s").read(range(1797)).values.tobytes() == dense_logits.tobytes()


def test_batches_that_do_not_divide_units_keep_rows_apart(teacher, digits, dense_logits, tmp_path):
    generate(digits, teacher=teacher, out=tmp_path / "s", encoding="dense:f32", batch_size=37, unit_rows=101)
    np.testing.assert_allclose(sl.open(tmp_path / "s").read(range(1797)).values, dense_logits, rtol=1e-4, atol=1e-5)


def test_any_callable_is_a_teacher(digits_path, tmp_path):
    result = sl.generate(str(digits_path), teacher=lambda x: x.float().flatten(1)[:, 10:20], out=tmp_path / "s")
    assert result.rows == 1797
    assert sl.open(tmp_path / "s").heads["logits"].encoding == "dense:f16", "the default for few classes"


class Counting(torch.nn.Module):
    """A teacher that counts the rows it was asked for, and fails after some."""

    def __init__(self, fail_after=10**9):
        super().__init__()
        self.rows = 0
        self.fail_after = fail_after

    def forward(self, inputs):
        self.rows += len(inputs)
        if self.rows > self.fail_after:
            raise RuntimeError("out of memory")
        return inputs.float().flatten(1)[:, 10:20]


def test_a_run_that_died_goes_on_where_it_was(digits, tmp_path):
    def run(module):
        teacher = models.as_model(module, sample=digits.inputs(np.arange(1)), spec="counting")
        return generate(digits, teacher=teacher, out=tmp_path / "s", unit_rows=200, batch_size=50, gate=False)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(Counting(fail_after=1000))
    done = list(paths.committed_units(open_storage(tmp_path / "s")))
    assert 2 <= len(done) < 9
    second = Counting()
    result = run(second)
    assert result.new_units == 9 - len(done)
    checked = 2 * (16 // min(4, len(done))) * min(4, len(done))
    assert second.rows == 1 + checked + 1797 - 200 * len(done), "only a few rows are computed again, to be checked"
    third = Counting()
    assert run(third).new_units == 0
    assert third.rows == 1 + 32


def test_a_teacher_that_dies_while_the_writer_waits_hangs_nobody(digits, tmp_path):
    class Slow(torch.nn.Module):
        """Gives the writer time to drain its queue in the middle of a unit, then dies."""

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, inputs):
            self.calls += 1
            if self.calls == 4:
                time.sleep(0.5)
                raise RuntimeError("out of memory")
            return inputs.float().flatten(1)[:, 10:20]

    with pytest.raises(RuntimeError, match="out of memory"):
        generate(digits, teacher=Slow(), out=tmp_path / "s", unit_rows=1000, batch_size=10, gate=False)
    assert {path.name for path in (tmp_path / "s" / "tmp").iterdir()} <= {"claims.lock"}


def test_the_same_data_by_another_path_is_the_same_work(teacher, digits_path, tmp_path):
    generate(digits_path, teacher=teacher, out=tmp_path / "s", unit_rows=600)
    (tmp_path / "copy.parquet").write_bytes(digits_path.read_bytes())
    assert generate(tmp_path / "copy.parquet", teacher=teacher, out=tmp_path / "s", unit_rows=600).new_units == 0


def test_a_row_that_is_not_finite_stops_after_what_was_committed(digits, tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, inputs):
            logits = inputs.float().flatten(1)[:, 10:20].clone()
            logits[(inputs == torch.from_numpy(np.array(digits.inputs(np.array([1003]))))).flatten(1).all(1)] = (
                torch.nan
            )
            return logits

    with pytest.raises(InvalidLogits, match="row 1003: 10 of 10 values"):
        generate(digits, teacher=Broken(), out=tmp_path / "s", unit_rows=200, gate=False)
    assert set(paths.committed_units(open_storage(tmp_path / "s"))) <= set(range(5))
    assert {path.name for path in (tmp_path / "s" / "tmp").iterdir()} <= {"claims.lock"}


def test_two_generators_share_a_store(digits_path, tmp_path):
    code = (
        "import sys, softlabels as sl\n"
        "teacher = lambda x: x.float().flatten(1)[:, 10:20]\n"
        f"result = sl.generate({str(digits_path)!r}, teacher=teacher, out=sys.argv[1], unit_rows=64, batch_size=8)\n"
        "print(result.new_units)"
    )
    out = str(tmp_path / "s")
    both = [WarmPython("-c", code, out) for _ in range(2)]
    new = [int(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(new) == sl.open(out).units == 29
    assert sl.verify(out, deep=True).ok


def test_an_estimate_writes_nothing_and_is_near_the_truth(teacher, digits, tmp_path):
    guess = estimate(digits, teacher=teacher, settings=Settings(encoding="topk:4", batch_size=256))
    assert not list(tmp_path.iterdir())
    result = generate(digits, teacher=teacher, out=tmp_path / "s", encoding="topk:4")
    assert guess.rows == result.rows
    assert guess.units == result.units
    assert guess.bytes_per_row == pytest.approx(result.bytes_per_row, rel=0.1)
    assert guess.seconds > 0


def test_what_cannot_be_meant_is_refused_before_anything_is_written(teacher, digits, tmp_path):
    for options in (
        {"encoding": "topk:11"},
        {"encoding": "zip"},
        {"codec": "rar"},
        {"temperatures": (0.0,)},
        {"device": "abacus"},
    ):
        with pytest.raises(InvalidArgument):
            generate(digits, teacher=teacher, out=tmp_path / "s", **options)
    with pytest.raises(InvalidArgument):
        Settings(batch_size=0)
    assert not (tmp_path / "s").exists()


def test_another_store_is_not_touched(teacher, digits, sealed):
    before = {path: path.read_bytes() for path in sealed.rglob("*") if path.is_file()}
    with pytest.raises(StoreConflict, match="holds another store"):
        generate(digits, teacher=teacher, out=sealed, encoding="topk:3")
    assert {path: path.read_bytes() for path in sealed.rglob("*") if path.is_file()} == before


def test_no_rows_are_nothing_to_label(teacher, digits, tmp_path):
    with pytest.raises(InvalidData, match="no rows"):
        generate(np.zeros((0, 8, 8), np.float32), teacher=teacher, out=tmp_path / "s")


def test_columns_of_the_data_are_chosen(tmp_path):
    """As on the command line; an open source has its columns already."""
    data = {"a": np.zeros((20, 4), np.float32), "b": np.eye(20, 4, dtype=np.float32), "name": np.arange(20)}
    result = generate(data, teacher=lambda x: 2 * x, out=tmp_path / "s", encoding="dense:f32", input="b", id="name")
    assert result.rows == 20
    labels = sl.open(tmp_path / "s").read(np.arange(20))
    assert labels.values.tolist() == (2 * data["b"]).tolist()
    with pytest.raises(InvalidArgument, match="has its columns already"):
        generate(sl.open_source("digits"), teacher=lambda x: x, out=tmp_path / "t", input="b")
