"""MODEL specifications, and the models behind them.

``as_model`` turns a specification, a network or any callable into a ``Model``, whose ``predict`` returns one tensor per
named head. ``build`` returns a network with initial weights. The kinds of MODEL are in ``softlabels.models.kinds``.
"""

from softlabels.models.building import build
from softlabels.models.cost import Cost, measure_cost
from softlabels.models.heads import DEFAULT_HEAD, OutputHead
from softlabels.models.kinds import kinds
from softlabels.models.kinds.run import load_run
from softlabels.models.loading import ModelLike, as_model, load, needs_sample
from softlabels.models.model import Model, as_tensor, evaluating
from softlabels.models.preprocessing import Preprocessing, PreprocessingOptions
from softlabels.models.run_directory import RUN_FILE, WEIGHTS_FILE, read_run, write_run
from softlabels.models.standardize import InputStatistics

__all__ = [
    "DEFAULT_HEAD",
    "RUN_FILE",
    "WEIGHTS_FILE",
    "Cost",
    "InputStatistics",
    "Model",
    "ModelLike",
    "OutputHead",
    "Preprocessing",
    "PreprocessingOptions",
    "as_model",
    "as_tensor",
    "build",
    "evaluating",
    "kinds",
    "load",
    "load_run",
    "measure_cost",
    "needs_sample",
    "read_run",
    "write_run",
]
