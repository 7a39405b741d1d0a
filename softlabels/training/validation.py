"""Evaluation on held-out rows while a run trains: with soft labels where the store has them, else with hard ones.

Labels of views are compared with the outputs for a view of each row. Hard targets are compared with the outputs for the
images themselves, which is what a student is used for.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from softlabels.errors import InvalidArgument
from softlabels.loading import Batch, Loader
from softlabels.loading.view_replay import has_views
from softlabels.models import Model
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import Store
from softlabels.training import language, language_figures
from softlabels.training.distributed import Workers
from softlabels.training.figures import FigureSums
from softlabels.training.head_quality import MAX_NEIGHBOURS, retrieval
from softlabels.training.run_data import Prepared
from softlabels.training.tasks import Objectives, Outputs, Task

BATCH_ROWS = 256
"""Rows that are predicted at a time."""


class Validation:
    """Measures a model on the held-out rows of a run.

    Args:
        model: Model that is trained.
        prepared: Data of the run.
        task: Heads and labels of the run.
        objectives: Losses of the run.
        workers: Processes that share the rows.

    Raises:
        InvalidArgument: There are no held-out rows, or nothing to measure them by.
    """

    def __init__(self, model: Model, prepared: Prepared, task: Task, objectives: Objectives, workers: Workers) -> None:
        self._model, self._prepared, self._task, self._workers = model, prepared, task, workers
        if len(prepared.held_out) == 0:
            raise InvalidArgument(
                f"{prepared.source.spec}: nothing to evaluate on, got no held-out rows; expected some. Name a split "
                "test, or train without eval_every= and patience="
            )
        self._objectives = objectives
        self._loader: Loader | None = None
        self._images: Loader | None = None
        if not language.is_language(prepared.source):
            self._loader, has_soft = _held_out_loader(prepared, task, workers)
            self._objectives = objectives if has_soft else objectives.without_soft()
            self._has_soft = has_soft
            if has_soft and task.hard and has_views(task.store):
                self._images = _loader(None, prepared, workers)
        if len(self._objectives) == 0:
            raise InvalidArgument(
                f"{prepared.source.spec}: nothing to evaluate by, got held-out rows without soft or hard labels; "
                "expected some. Label them too, or train without eval_every= and patience="
            )

    def measure(self) -> dict[str, float]:
        """Return the figures of the model: ``loss`` and those of its heads."""
        if self._loader is None:
            return self._workers.on_first(self._measure_text)
        sums = FigureSums(self._task, self._objectives, with_soft=self._has_soft)
        neighbours = Neighbours(self._task if self._has_soft and self._workers.world_size == 1 else None)
        for batch in self._loader.epoch(0):
            if len(batch):
                outputs = self._model.predict(batch.inputs)
                sums.add(outputs, batch)
                neighbours.add(outputs, batch)
        figures = sums.figures(self._workers.sum(sums.totals())) | neighbours.figures()
        return figures if self._images is None else figures | self._measure_images(self._images)

    def _measure_images(self, images: Loader) -> dict[str, float]:
        """Return the figures of images that are not augmented against their hard targets."""
        sums = FigureSums(self._task, None, with_soft=False)
        for batch in images.epoch(0):
            if len(batch):
                sums.add(self._model.predict(batch.inputs), batch)
        return sums.figures(self._workers.sum(sums.totals()))

    def _measure_text(self) -> dict[str, float]:
        source = self._prepared.source
        store = self._task.store if isinstance(source, StoreTokens) else None
        measured = language_figures.measure_text(self._model, source, self._prepared.held_out, store)
        figures = {"loss": measured.loss, "kl": measured.kl, "agreement": measured.agreement}
        return {name: value for name, value in figures.items() if value is not None}


class Neighbours:
    """Embeddings of the first rows beside their labels, for the agreement on nearest neighbours.

    Args:
        task: Heads and labels of the run; None: nothing is measured.
    """

    def __init__(self, task: Task | None) -> None:
        heads = {} if task is None else {name: head for name, head in task.heads.items() if name in task.soft}
        self._labels = {name: task.soft[name] for name, head in heads.items() if task and head.kind == "embedding"}
        self._prefix = "" if task is None or len(task.heads) == 1 else "{name}."
        self._vectors: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._labels}

    def add(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch.

        Args:
            outputs: Outputs by head.
            batch: The batch.
        """
        for name, labels in self._labels.items():
            pairs, values = self._vectors[name], torch.as_tensor(labels(batch).values)
            if values.ndim == 2 and name in outputs and sum(len(own) for own, _ in pairs) < MAX_NEIGHBOURS:
                pairs.append((normalize(outputs[name].float().cpu(), dim=-1), normalize(values.float().cpu(), dim=-1)))

    def figures(self) -> dict[str, float]:
        """Return the share of rows with the same nearest neighbour: ``retrieval``, or ``HEAD.retrieval``."""
        shares = {self._prefix.format(name=name): retrieval(pairs) for name, pairs in self._vectors.items()}
        return {f"{prefix}retrieval": share for prefix, share in shares.items() if share is not None}


def _held_out_loader(prepared: Prepared, task: Task, workers: Workers) -> tuple[Loader, bool]:
    """Return the held-out rows in batches, and whether they have soft labels."""
    if task.store is None:
        return _loader(None, prepared, workers), bool(task.soft)
    try:
        return _loader(task.store, prepared, workers), True
    except InvalidArgument:
        # None of the held-out rows was labelled.
        return _loader(None, prepared, workers), False


def _loader(store: Store | None, prepared: Prepared, workers: Workers) -> Loader:
    """Return the held-out rows in batches, with the labels of a store if there is one."""
    return Loader(
        store,
        inputs=prepared.source,
        rows=prepared.held_out,
        batch_size=BATCH_ROWS * workers.world_size,
        shuffle=False,
        missing="drop",
        views="one" if has_views(store) else "all",
        rank=workers.rank,
        world_size=workers.world_size,
    )
