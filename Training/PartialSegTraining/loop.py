"""The loop of a training: what happens between its steps, and how it ends.

After a step come, when they are due and in this order: a line of the log, a validation, a
checkpoint. So a checkpoint knows the validation of its own step, a loss that is no number is noticed
before it is saved, and a training that goes on repeats nothing and leaves nothing out. Called by
:func:`PartialSegTraining.trainer.train` and by whoever makes steps with a
:class:`~PartialSegTraining.trainer.Trainer` directly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PartialSegLib.errors import CancelledError
from PartialSegLib.progress import Monitor
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.recorder import Recorder
from PartialSegTraining.state import TrainingState, remove_unfinished, save_checkpoint
from PartialSegTraining.validation import Validator

if TYPE_CHECKING:
    from PartialSegTraining.trainer import Trainer

#: Name of the checkpoint in the folder of a run.
CHECKPOINT = "checkpoint.pt"


def run(
    trainer: Trainer,
    folder: Path,
    *,
    validator: Validator | None = None,
    monitor: Monitor | None = None,
    deadline: float = math.inf,
    keep_best: Callable[[], object] | None = None,
) -> None:
    """Make the steps that are left, with log, validation and checkpoints in `folder`.

    Parameters
    ----------
    trainer : Trainer
        Fresh, or restored from a checkpoint.
    folder : Path
        Of the run.
    validator : Validator, optional
        Measures Dice on held-out cases.
    monitor : Monitor, optional
        Told about every step.
    deadline : float
        Value of :func:`time.monotonic` after which no step is begun.
    keep_best : callable, optional
        Called in the first process when a validation was better than all before it.

    Raises
    ------
    CancelledError
        When the monitor was cancelled in any process; the checkpoint is of the last finished step.
    CollectionError
        When the loss is no longer a number; the checkpoint is the last one before.
    MissingExtraError
        When the recipe wants TensorBoard's files, but it is not installed.
    """
    loop = _Loop(trainer, folder, validator, monitor or Monitor(), keep_best)
    try:
        loop.go(deadline)
    except CancelledError as error:
        loop.save()
        raise CancelledError(error.message, f"Run it again with the same '{folder}' to go on.") from error
    finally:
        loop.recorder.close()


def ended_early(state: TrainingState, recipe: Recipe) -> bool:
    """Tell whether a training has ended because it no longer got better."""
    patience = recipe.monitoring.patience
    return bool(patience) and state.validated - state.best_step >= patience


class _Loop:
    """The state of a loop: who is told what, and when that was done last."""

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        validator: Validator | None,
        monitor: Monitor,
        keep_best: Callable[[], object] | None,
    ) -> None:
        self._trainer = trainer
        self._state, self._recipe = trainer.state, trainer.recipe
        self._plan, self._total = trainer.recipe.monitoring, trainer.recipe.optimization.total_steps
        self._validator = validator
        self._monitor = monitor
        self._keep_best = keep_best
        self._first = trainer.processes.first
        self._checkpoint = folder / CHECKPOINT
        if self._first:
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder, (CHECKPOINT, self._recipe.name, f"{self._recipe.name}-best"))
        writing = folder if self._first else None
        self.recorder = Recorder(writing, self._state.step, tensorboard=self._plan.tensorboard)
        self._saved_at, self._saved_step = time.monotonic(), -1

    def go(self, deadline: float) -> None:
        """Make steps until all are made, the training no longer gets better, or the time is up."""
        state = self._state
        late = self._agree(deadline)
        # A run that was interrupted while it validated has that to do first.
        self._validate_when_due()
        while state.step < self._total and not late and not ended_early(state, self._recipe):
            self.recorder.add(self._trainer.step())
            if state.step % self._plan.log_every == 0:
                self._log()
            self._validate_when_due()
            self._save_when_due()
            late = self._agree(deadline)
        self.save()

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        self._log()
        if self._first and self._saved_step != self._state.step:
            save_checkpoint(self._state, self._recipe, self._checkpoint)
        self._saved_at, self._saved_step = time.monotonic(), self._state.step
        self.recorder.resume()

    def _agree(self, deadline: float) -> bool:
        """Report the step and return whether the time is up; a wish to stop any process stops all at this step."""
        wish: CancelledError | None = None
        try:
            self._monitor.step("train", self._state.step, self._total)
        except CancelledError as error:
            wish = error
        stop, late = self._trainer.processes.any([wish is not None, time.monotonic() >= deadline])
        if stop:
            raise wish or CancelledError(f"Another process was stopped after step {self._state.step}.")
        return late

    def _log(self) -> None:
        rate = max(group["lr"] for group in self._state.optimizer.param_groups)
        self.recorder.flush(self._state.step, rate, self._trainer.loader.waited)

    def _save_when_due(self) -> None:
        old = time.monotonic() - self._saved_at >= 60.0 * self._plan.checkpoint_minutes
        # The first process writes; what the others do at the time is up to them.
        if self._state.step % self._plan.checkpoint_every == 0 or (self._first and old):
            self.save()

    def _validate_when_due(self) -> None:
        state = self._state
        due = state.step // self._plan.validate_every * self._plan.validate_every > state.validated
        last = state.step == self._total > state.validated
        if self._validator is None or not (due or last):
            return
        self._log()
        # Processes that wait for each other's figures must not be stopped one by one.
        alone = self._trainer.processes.alone
        measured = self._validator.measure(state.average, self._monitor if alone else None)
        best = state.note_validation(measured.mean_dice)
        self.recorder.write(state.step, measured.to_log(best=best))
        if best and self._first and self._keep_best is not None:
            self._keep_best()
        if ended_early(state, self._recipe):
            reason = f"no better validation since step {state.best_step} (mean Dice {state.best_dice})"
            self.recorder.write(state.step, {"stopped": reason})
        self.recorder.resume()
