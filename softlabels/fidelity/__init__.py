"""Planning with fidelity: what each encoding costs and keeps, measured on a few rows of the teacher's own logits."""

from softlabels.fidelity.planning import Plan, PlanRow, plan
from softlabels.fidelity.sample import FEWEST, Sample, sample_of_store
from softlabels.fidelity.targets import is_target, parse_size, resolve

__all__ = ["FEWEST", "Plan", "PlanRow", "Sample", "is_target", "parse_size", "plan", "resolve", "sample_of_store"]
