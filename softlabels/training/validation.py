"""Evaluation on held-out rows while a run trains: with soft labels where the store has them, else with hard ones."""

from __future__ import annotations

from softlabels.errors import InvalidArgument
from softlabels.loading import Loader
from softlabels.loading.view_replay import has_views
from softlabels.models import Model
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import Store
from softlabels.training import language
from softlabels.training.distributed import Workers
from softlabels.training.figures import FigureSums
from softlabels.training.inputs import Prepared
from softlabels.training.tasks import Objectives, Task

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
                "test, or train without --eval-every and --patience"
            )
        self._objectives = objectives
        self._loader: Loader | None = None
        if not language.is_language(prepared.source):
            self._loader, has_soft = _held_out_loader(prepared, task, workers)
            self._objectives = objectives if has_soft else objectives.without_soft()
            self._has_soft = has_soft
        if len(self._objectives) == 0:
            raise InvalidArgument(
                f"{prepared.source.spec}: nothing to evaluate by, got held-out rows without soft or hard labels; "
                "expected some. Label them too, or train without --eval-every and --patience"
            )

    def measure(self) -> dict[str, float]:
        """Return the figures of the model: ``loss`` and those of its heads."""
        if self._loader is None:
            return self._workers.on_first(self._measure_text)
        sums = FigureSums(self._task, self._objectives, with_soft=self._has_soft)
        for batch in self._loader.epoch(0):
            if len(batch):
                sums.add(self._model.predict(batch.inputs), batch)
        return sums.figures(self._workers.sum(sums.totals()))

    def _measure_text(self) -> dict[str, float]:
        source = self._prepared.source
        store = self._task.store if isinstance(source, StoreTokens) else None
        measured = language.measure(self._model, source, self._prepared.held_out, store)
        figures = {"loss": measured.loss, "kl": measured.kl, "agreement": measured.agreement}
        return {name: value for name, value in figures.items() if value is not None}


def _held_out_loader(prepared: Prepared, task: Task, workers: Workers) -> tuple[Loader, bool]:
    """Return the held-out rows in batches, and whether they have soft labels."""

    def loader(store: Store | None) -> Loader:
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

    if task.store is None:
        return loader(None), bool(task.soft)
    try:
        return loader(task.store), True
    except InvalidArgument:
        # None of the held-out rows was labelled.
        return loader(None), False
