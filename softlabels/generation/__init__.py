"""Run a teacher once over a dataset and commit what it said, unit by unit."""

from softlabels.generation.gate import check_teacher
from softlabels.generation.label_writer import LabelWriter, create
from softlabels.generation.local import Estimate, Generated, estimate, generate, sample
from softlabels.generation.settings import Settings

__all__ = [
    "Estimate",
    "Generated",
    "LabelWriter",
    "Settings",
    "check_teacher",
    "create",
    "estimate",
    "generate",
    "sample",
]
