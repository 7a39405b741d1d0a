"""Planning with fidelity: bytes and KL of each encoding, measured on a few rows of the teacher's own logits."""

from softlabels.planning.goals import is_target, parse_size, resolve
from softlabels.planning.sample import FEWEST, Sample, Tried, sample_of_store
from softlabels.planning.table import Plan, PlanRow, plan

__all__ = [
    "FEWEST",
    "Plan",
    "PlanRow",
    "Sample",
    "Tried",
    "is_target",
    "parse_size",
    "plan",
    "resolve",
    "sample_of_store",
]
