"""softlabels: run the teacher once, store its outputs, train students anywhere.

The public names are resolved when first used (PEP 562), so that ``import softlabels`` costs milliseconds and reading a
store never imports torch. A test checks that every verb of the command line is here under the same name.

Example:
    >>> import softlabels as sl
    >>> sorted(name for name in ("open", "generate", "loader") if name in dir(sl))
    ['generate', 'loader', 'open']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from softlabels.version import __version__

if TYPE_CHECKING:
    from softlabels import errors as errors
    from softlabels import losses as losses
    from softlabels.generation import create, generate, merge, plan
    from softlabels.labels import DenseLabels, Head, SparseLabels
    from softlabels.loading import Ensemble, Mixture, Part
    from softlabels.loading.adapters.torch_datasets import LabelDataset
    from softlabels.loading.loader import loader
    from softlabels.sharing import describe, pull, push, sign, verify_signature
    from softlabels.sources import DatasetSource, DistinctSource, TokenSource, content_keys, open_source
    from softlabels.store import collect_garbage as gc
    from softlabels.store import describe_store as inspect
    from softlabels.store import open_store as open  # noqa: A004  sl.open is the verb of the design
    from softlabels.store import repair, seal, verify
    from softlabels.text.options import TextOptions
    from softlabels.training import compare, export_model, plot, train_student, train_teacher

_HOME = {
    "DatasetSource": "softlabels.sources",
    "DenseLabels": "softlabels.labels",
    "DistinctSource": "softlabels.sources",
    "Ensemble": "softlabels.loading",
    "Head": "softlabels.labels",
    "LabelDataset": "softlabels.loading.adapters.torch_datasets",
    "Mixture": "softlabels.loading",
    "Part": "softlabels.loading",
    "SparseLabels": "softlabels.labels",
    "TextOptions": "softlabels.text.options",
    "TokenSource": "softlabels.sources",
    "compare": "softlabels.training",
    "content_keys": "softlabels.sources",
    "create": "softlabels.generation",
    "describe": "softlabels.sharing",
    "export_model": "softlabels.training",
    "gc": "softlabels.store:collect_garbage",
    "generate": "softlabels.generation",
    "inspect": "softlabels.store:describe_store",
    "loader": "softlabels.loading.loader",
    "merge": "softlabels.generation",
    "open": "softlabels.store:open_store",
    "open_source": "softlabels.sources",
    "plan": "softlabels.generation",
    "plot": "softlabels.training",
    "pull": "softlabels.sharing",
    "push": "softlabels.sharing",
    "repair": "softlabels.store",
    "seal": "softlabels.store",
    "sign": "softlabels.sharing",
    "train_student": "softlabels.training",
    "train_teacher": "softlabels.training",
    "verify": "softlabels.store",
    "verify_signature": "softlabels.sharing",
}
_MODULES = ("errors", "losses")

__all__ = [
    "DatasetSource",
    "DenseLabels",
    "DistinctSource",
    "Ensemble",
    "Head",
    "LabelDataset",
    "Mixture",
    "Part",
    "SparseLabels",
    "TextOptions",
    "TokenSource",
    "__version__",
    "compare",
    "content_keys",
    "create",
    "describe",
    "errors",
    "export_model",
    "gc",
    "generate",
    "inspect",
    "loader",
    "losses",
    "merge",
    "open",
    "open_source",
    "plan",
    "plot",
    "pull",
    "push",
    "repair",
    "seal",
    "sign",
    "train_student",
    "train_teacher",
    "verify",
    "verify_signature",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"softlabels.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'softlabels' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
