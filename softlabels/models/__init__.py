"""MODEL specifications, and the networks behind them."""

from softlabels.models.cost import Cost, measure
from softlabels.models.model import Model, as_tensor, build, evaluating, load, load_run, model_digest, wrap
from softlabels.models.runs import RUN_FILE, WEIGHTS_FILE, read_run, write_atomically, write_run

__all__ = [
    "RUN_FILE",
    "WEIGHTS_FILE",
    "Cost",
    "Model",
    "as_tensor",
    "build",
    "evaluating",
    "load",
    "load_run",
    "measure",
    "model_digest",
    "read_run",
    "wrap",
    "write_atomically",
    "write_run",
]
