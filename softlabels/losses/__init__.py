"""Distillation losses: a scalar from the student's outputs and soft labels.

Each loss takes soft labels as the loader hands them out, dense or sparse, as NumPy arrays or as tensors. Losses between
distributions never hold a (N, C) target (see ``blocks`` and ``targets``), and compute in float32 also under autocast.
``names`` and ``get`` are the registry; every module of this package is imported, so a new loss is one new file.
"""

from __future__ import annotations

import importlib
import pkgutil

from softlabels.losses.chosen_tokens import chosen
from softlabels.losses.correlation import dist
from softlabels.losses.decoupled import dkd
from softlabels.losses.divergences import cross_entropy, jensen_shannon, kl, reverse_kl
from softlabels.losses.fused import linear_distillation, linear_kl
from softlabels.losses.logit_error import logit_mse
from softlabels.losses.matching import NO_LABEL, check_classes
from softlabels.losses.mixing import distillation
from softlabels.losses.pooling import pool
from softlabels.losses.registry import Loss, get, names
from softlabels.losses.vectors import cosine, huber, mse

__all__ = [
    "NO_LABEL",
    "Loss",
    "check_classes",
    "chosen",
    "cosine",
    "cross_entropy",
    "dist",
    "distillation",
    "dkd",
    "get",
    "huber",
    "jensen_shannon",
    "kl",
    "linear_distillation",
    "linear_kl",
    "logit_mse",
    "mse",
    "names",
    "pool",
    "reverse_kl",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
