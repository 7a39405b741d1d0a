"""Generation: run a teacher once over a dataset and commit its outputs, unit by unit."""

from softlabels.generation.api import estimate, generate
from softlabels.generation.costs import Costs
from softlabels.generation.creation import create
from softlabels.generation.engines import engines
from softlabels.generation.gate import check_teacher
from softlabels.generation.label_writer import LabelWriter
from softlabels.generation.merging import merge
from softlabels.generation.planned import plan, sample
from softlabels.generation.results import Estimate, Generated
from softlabels.generation.settings import Settings

__all__ = [
    "Costs",
    "Estimate",
    "Generated",
    "LabelWriter",
    "Settings",
    "check_teacher",
    "create",
    "engines",
    "estimate",
    "generate",
    "merge",
    "plan",
    "sample",
]
