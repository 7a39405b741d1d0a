"""One run from its network to its run directory: build, train or resume, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.interruption import Interruption
from softlabels.loading import Loader
from softlabels.loading.view_replay import has_views
from softlabels.models import Model, load_run, write_run
from softlabels.models.digest import state_of
from softlabels.models.run_files import write_file
from softlabels.models.run_record import RunKind, RunModel, RunRecord
from softlabels.sources import Source
from softlabels.text.tokenizer_files import FILE as TOKENIZER_FILE
from softlabels.training import language
from softlabels.training.checkpoint import saved_step
from softlabels.training.distributed import Workers
from softlabels.training.memory import checkpoint_layers
from softlabels.training.networks import NewModel
from softlabels.training.recipe import Recipe
from softlabels.training.result import measure_run
from softlabels.training.run_claim import claimed, release
from softlabels.training.run_data import Prepared
from softlabels.training.software import versions
from softlabels.training.tasks import Objectives, Task
from softlabels.training.trackers import Tracker, new_tracker
from softlabels.training.trainer import CHECKPOINT_SECONDS, TRAINER_VERSION, TrainingProgress, TrainingRun, fit
from softlabels.training.validation import Validation


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything that a call trains with.

    Attributes:
        kind: ``teacher`` or ``student``.
        prepared: Data of the run.
        network: The model to train.
        task: Heads, rows and losses.
        recipe: Options.
        folder: Run directory.
        interruption: Signals that end the run after the step at hand.
        workers: Processes that train together.
        progress: Callback; None: nothing is shown.
        announce: Receives one line that says what is minimised; None: nothing is shown.
        trackers: Names of trackers, or trackers.
        checkpoint_seconds: Time between checkpoints in seconds.
        keep_checkpoints: Number of checkpoints to preserve.
    """

    kind: RunKind
    prepared: Prepared
    network: NewModel
    task: Task
    recipe: Recipe
    folder: Path
    interruption: Interruption
    workers: Workers
    progress: TrainingProgress | None = None
    announce: Callable[[str], None] | None = None
    trackers: Sequence[str | Tracker] = ()
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    keep_checkpoints: int = 1

    def train(self) -> Model:
        """Train the network, or load the run that has finished.

        Returns:
            The trained model on the CPU.

        Raises:
            InvalidArgument: Every head has a weight of 0.
            KeyboardInterrupt: A signal arrived; a checkpoint was written.
        """
        model, objectives = self.network.model, Objectives(self.task.objectives(self.network.model))
        if len(objectives) == 0:
            raise InvalidArgument("weight: nothing to minimise, got a weight of 0 for every head; expected above 0")
        if self.recipe.gradient_checkpointing:
            checkpoint_layers(model)
        record = self._record(objectives)
        with self._claimed(record) as finished:
            user_network = model.module if model.user_code else None
            if not finished:
                self._announce(objectives)
                with self._tracked() as trackers:
                    run = self._run(record, objectives, trackers)
                    steps = fit(run)
                self.workers.copy_buffers(model.module)
                user_network = self.workers.on_first(lambda: self._finish(run, steps))
            self.interruption.deliver(f"Interrupted; the run in {self.folder} has finished.")
            return load_run(self.folder, user_network)

    def _run(self, record: RunRecord, objectives: Objectives, trackers: Sequence[Tracker]) -> TrainingRun:
        model, recipe = self.network.model, self.recipe
        is_evaluated = recipe.eval_every is not None or recipe.patience is not None
        return TrainingRun(
            model=model,
            loader=self._loader(model),
            task=self.task,
            objectives=objectives,
            recipe=recipe,
            record=record,
            folder=self.folder,
            interruption=self.interruption,
            workers=self.workers,
            validation=self._validation(objectives) if is_evaluated else None,
            progress=self.progress,
            trackers=trackers,
            checkpoint_seconds=self.checkpoint_seconds,
            keep_checkpoints=self.keep_checkpoints,
            forward=language_forward(model, self.prepared.source),
        )

    def _validation(self, objectives: Objectives) -> Validation:
        return Validation(self.network.model, self.prepared, self.task, objectives, self.workers)

    def _finish(self, run: TrainingRun, steps: int) -> nn.Module | None:
        """Measure on the held-out rows and write the run directory; return a network of the user."""
        metrics = measure_run(run.model, self.prepared, self.task, steps)
        model = run.model.to("cpu")
        trained = replace(run.record.model, digest=model.digest, covers=model.digest_covers)
        if model.tokenizer is not None:
            write_file(run.folder, TOKENIZER_FILE, model.tokenizer.to_bytes())
        write_run(run.folder, replace(run.record, model=trained, metrics=metrics), state_of(model.module))
        release(run.folder)
        return model.module if model.user_code else None

    def _loader(self, model: Model) -> Loader:
        # Shares of a batch are taken from arrays, so only whole batches are put on a device ahead of time.
        on_device = model.device.type != "cpu" and self.recipe.accumulation == 1
        return Loader(
            self.task.store,
            inputs=self.prepared.source,
            rows=self.task.rows,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            views=self.recipe.views if has_views(self.task.store) else "all",
            rank=self.workers.rank,
            world_size=self.workers.world_size,
            device=str(model.device) if on_device else None,
        )

    def _record(self, objectives: Objectives) -> RunRecord:
        model = self.network.model
        return RunRecord(
            kind=self.kind,
            model=RunModel(
                spec=model.spec,
                config=model.config,
                initial=model.digest if model.user_code else None,
                start=self.network.start,
            ),
            recipe=self.recipe.to_json(),
            data=self.prepared.record,
            labels=self.task.labels,
            objectives={objective.head: str(objective) for objective in objectives.objectives},
            software=versions(),
            trainer=TRAINER_VERSION,
        )

    def _announce(self, objectives: Objectives) -> None:
        if self.announce is not None and self.workers.is_first:
            self.announce(f"minimise {objectives}")

    @contextmanager
    def _claimed(self, record: RunRecord) -> Iterator[bool]:
        """Hold the run directory, which the first process alone locks and writes."""
        with ExitStack() as stack:
            yield self.workers.on_first(lambda: stack.enter_context(claimed(self.folder, record)))

    @contextmanager
    def _tracked(self) -> Iterator[list[Tracker]]:
        """Open the trackers in the first process, and close them at the end."""
        with ExitStack() as stack:
            opened: list[Tracker] = []
            for tracker in self.trackers if self.workers.is_first else ():
                config = self.recipe.to_json()
                opened.append(new_tracker(tracker, self.folder, config, saved_step(self.folder)))
                stack.enter_context(closing(opened[-1]))
            yield opened


def language_forward(model: Model, source: Source) -> Callable[[Any], Mapping[str, Tensor]] | None:
    """Return the forward pass of networks that are trained through their final states; None for the others.

    Args:
        model: The model that is trained.
        source: Data of the run.
    """
    if not language.is_language(source) or not language.uses_states(model):
        return None
    module: Any = model.module
    together = getattr(module, "states_and_outputs", None)
    if together is None:
        return lambda inputs: {language.STATES: module.states(inputs)}

    def forward(inputs: Any) -> dict[str, Tensor]:
        states, outputs = together(inputs)
        return {language.STATES: states, **outputs}

    return forward
