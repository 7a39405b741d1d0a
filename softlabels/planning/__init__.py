"""Planning with fidelity: bytes and KL of each encoding, measured on a few rows of the teacher's own logits."""

from softlabels.planning.goals import is_target, parse_size, resolve
from softlabels.planning.recommendation import Outcome, Recommendation, outcome, recommend
from softlabels.planning.sample import MIN_SAMPLE_ROWS, Sample, Tried, sample_of_store
from softlabels.planning.table import Plan, PlanRow, plan

__all__ = [
    "MIN_SAMPLE_ROWS",
    "Outcome",
    "Plan",
    "PlanRow",
    "Recommendation",
    "Sample",
    "Tried",
    "is_target",
    "outcome",
    "parse_size",
    "plan",
    "recommend",
    "resolve",
    "sample_of_store",
]
