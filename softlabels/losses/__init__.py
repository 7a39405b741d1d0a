"""Distillation losses: from what the teacher said to a number the student can follow.

Each takes the student's outputs and soft labels as the loader hands them out, dense or sparse, and gives a scalar.
Those between distributions never hold a (N, C) target: ``pieces`` says how, ``targets`` what of the labels they need.
"""

from __future__ import annotations

from softlabels.losses.correlation import dist
from softlabels.losses.distributions import (
    NO_LABEL,
    cross_entropy,
    dkd,
    jensen_shannon,
    kl,
    linear_kl,
    logit_mse,
    reverse_kl,
)
from softlabels.losses.matching import check_classes
from softlabels.losses.mixing import distillation
from softlabels.losses.vectors import cosine, huber, mse

__all__ = [
    "NO_LABEL",
    "check_classes",
    "cosine",
    "cross_entropy",
    "dist",
    "distillation",
    "dkd",
    "huber",
    "jensen_shannon",
    "kl",
    "linear_kl",
    "logit_mse",
    "mse",
    "reverse_kl",
]
