"""One run from its network to its run directory: build, train or resume, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from softlabels.interruption import Interruption
from softlabels.loading import Loader
from softlabels.models import Model, load_run, write_run
from softlabels.models.digest import state_of
from softlabels.models.run_files import write_file
from softlabels.models.run_record import RunKind, RunModel, RunRecord
from softlabels.sources import Source
from softlabels.text.tokenizer_files import FILE as TOKENIZER_FILE
from softlabels.training import language
from softlabels.training.inputs import Prepared
from softlabels.training.networks import new_model
from softlabels.training.recipe import Recipe
from softlabels.training.result import measure
from softlabels.training.run_claim import claimed, release
from softlabels.training.tasks import Objectives, Task
from softlabels.training.trainer import CHECKPOINT_SECONDS, TRAINER_VERSION, TrainingProgress, TrainingRun, fit


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything that a call trains with, apart from the network.

    Attributes:
        kind: ``teacher`` or ``student``.
        prepared: Data of the run.
        task: Heads, rows and losses.
        recipe: Options.
        folder: Run directory.
        interruption: Signals that end the run after the step at hand.
        progress: Callback; None: nothing is shown.
        checkpoint_seconds: Time between checkpoints in seconds.
        device: torch device; None: an accelerator if there is one.
    """

    kind: RunKind
    prepared: Prepared
    task: Task
    recipe: Recipe
    folder: Path
    interruption: Interruption
    progress: TrainingProgress | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    device: str | None = None

    def train(self, network: str | nn.Module) -> Model:
        """Train a network, or load the run that has finished.

        Args:
            network: MODEL specification of a kind that can be trained, or a network, which is copied.

        Returns:
            The trained model on the CPU.
        """
        model = new_model(network, self.prepared, self.task.heads, self.recipe).to(self.device)
        run = TrainingRun(
            model=model,
            loader=self._loader(model),
            loss=Objectives(self.task.objectives(model)),
            recipe=self.recipe,
            record=self._record(model),
            folder=self.folder,
            interruption=self.interruption,
            progress=self.progress,
            checkpoint_seconds=self.checkpoint_seconds,
            forward=language_forward(model, self.prepared.source),
        )
        with claimed(run.folder, run.record) as finished:
            user_network = model.module if model.user_code else None
            if not finished:
                fit(run)
                user_network = self._finish(run)
            run.interruption.deliver(f"Interrupted; the run in {run.folder} has finished.")
            return load_run(run.folder, user_network)

    def _finish(self, run: TrainingRun) -> nn.Module | None:
        """Measure on the held-out rows and write the run directory; return a network of the user."""
        metrics = measure(run.model, self.prepared, run.steps, self.task.store)
        model = run.model.to("cpu")
        trained = replace(run.record.model, digest=model.digest, covers=model.digest_covers)
        if model.tokenizer is not None:
            write_file(run.folder, TOKENIZER_FILE, model.tokenizer.to_bytes())
        write_run(run.folder, replace(run.record, model=trained, metrics=metrics), state_of(model.module))
        release(run.folder)
        return model.module if model.user_code else None

    def _loader(self, model: Model) -> Loader:
        return Loader(
            self.task.store,
            inputs=self.prepared.source,
            rows=self.task.rows,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            device=None if model.device.type == "cpu" else str(model.device),
        )

    def _record(self, model: Model) -> RunRecord:
        initial = model.digest if model.user_code else None
        return RunRecord(
            kind=self.kind,
            model=RunModel(spec=model.spec, config=model.config, initial=initial),
            recipe=self.recipe.to_json(),
            data=self.prepared.record,
            labels=self.task.labels,
            trainer=TRAINER_VERSION,
        )


def language_forward(model: Model, source: Source) -> Callable[[Any], Mapping[str, Tensor]] | None:
    """Return the forward pass of networks that are trained through their final states; None for the others.

    Args:
        model: The model that is trained.
        source: Data of the run.
    """
    if not language.is_language(source) or not language.uses_states(model):
        return None
    module: Any = model.module
    return lambda inputs: {language.STATES: module.states(inputs)}
