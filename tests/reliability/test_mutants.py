"""Mutated stores: an exception or the right labels, never a crash; short version of ``make reliability``."""

import random

import pytest

from tests.reliability import mutants

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("labels", ["topk", "adaptive", "threshold", "counts"])
@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
def test_no_mutant_crashes_the_reader_or_yields_wrong_labels(shard_format, labels):
    result = mutants.run(800, shard_format, labels, seed=1)
    assert result["crashes"] == 0
    assert set(result["accidents"]) <= {"refused", "same"}, result["accidents"]
    assert set(result["attacks"]) <= {"refused", "same", "other"}, result["attacks"]
    assert result["accidents"]["refused"] > 400
    assert result["memory"] < 256 * 2**20


def test_a_mutant_is_seldom_the_original():
    rng = random.Random(0)
    data = rng.randbytes(500)
    assert sum(mutants.mutate(data, rng) != data for _ in range(300)) > 270
