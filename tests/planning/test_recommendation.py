"""Recommendations: the default with its reason, goals that are reached with confidence, and what a store reached."""

from dataclasses import replace

import numpy as np
import pytest

from softlabels import planning
from softlabels.errors import InvalidArgument
from softlabels.fidelity import Fidelity
from softlabels.planning.recommendation import default_reason
from softlabels.planning.table import measure_row
from softlabels.store import HeadFidelity
from tests.planning.test_planning import logits_of


def sample_of(logits):
    return planning.Sample(logits=logits, temperatures=(1.0,), items=4000, rows=4000)


@pytest.mark.parametrize(
    ("classes", "encoding", "reason"),
    [
        (10, "dense:f16", "up to 64"),
        (120, "topk:32:f16", "below 4,096"),
        (4096, "threshold:0.05:43:dither", "from 4,096"),
    ],
)
def test_the_default_is_recommended_without_a_goal(classes, encoding, reason):
    recommended = planning.recommend(sample_of(logits_of(32, classes=classes)))
    assert (recommended.row.encoding, recommended.goal) == (encoding, None)
    assert reason in recommended.reason


def test_several_temperatures_of_a_vocabulary_have_a_reason_of_their_own():
    assert "several temperatures" in default_reason(50_000, 2)


def test_the_bound_of_the_kl_holds_for_the_rows_that_were_not_sampled():
    """In 40 draws of a sample from one population, at least 36 times; the mean of a sample is too low in many."""
    population, rng = logits_of(2048, seed=99), np.random.default_rng(0)
    true = measure_row(sample_of(population), "adaptive:0.02:d4")[0].kl
    draws = [population[rng.choice(len(population), 64, replace=False)] for _ in range(40)]
    rows = [measure_row(sample_of(draw), "adaptive:0.02:d4")[0] for draw in draws]
    assert sum(true <= row.kl_bound for row in rows) >= 36
    assert sum(true <= row.kl for row in rows) < 36, "the margin matters"


def test_a_goal_for_the_kl_is_reached_with_confidence():
    row = planning.recommend(sample_of(logits_of(64)), "adaptive:kl=0.05:d4").row
    assert row.kl < row.kl_bound <= 0.05


def test_the_standard_error_is_that_of_the_rows():
    sample = sample_of(logits_of(256))
    kls = [measure_row(sample_of(logits_of(256, seed=seed)), "topk:8:f16")[0].kl for seed in range(12)]
    row, _ = measure_row(sample, "topk:8:f16")
    assert row.kl_error == pytest.approx(np.std(kls, ddof=1), rel=0.6)
    assert measure_row(sample, "threshold:0.05")[0].kl_bound == np.inf


@pytest.mark.parametrize(
    ("goal", "words", "reached"),
    [
        ("auto:max-kl=0.05", "has KL 0.04 nats on 90 rows, within 0.05", True),
        ("adaptive:kl=0.03:d4", "has KL 0.04 nats on 90 rows, not within 0.03", False),
        ("auto:budget=1KB", "takes 900 bytes, within 1,000", True),
        ("threshold:bytes=8", "takes 9.0 bytes per row, not within 8", False),
    ],
)
def test_the_outcome_of_a_goal_is_told(goal, words, reached):
    probe = Fidelity(rows=10, kl={"1": 0.01}, mass=0.9, top1=1.0, entropy=1.0, error=0.1)
    fidelity = HeadFidelity(probe=probe, units=replace(probe, rows=90, kl={"1": 0.04}))
    result = planning.outcome(goal, "topk:4:f16", fidelity=fidelity, size=900, bytes_per_row=9.0)
    assert words in result.text
    assert result.reached == reached


def test_goals_that_no_store_records_have_no_outcome():
    assert planning.outcome("threshold:ids=4", "threshold:0.1", fidelity=None, size=9, bytes_per_row=1.0) is None
    assert planning.outcome("auto:max-kl=1", "threshold:0.1", fidelity=None, size=9, bytes_per_row=1.0) is None


def test_a_goal_out_of_reach_is_refused():
    with pytest.raises(InvalidArgument, match="with 95 % confidence"):
        planning.recommend(sample_of(logits_of(32)), "auto:max-kl=1e-12")
