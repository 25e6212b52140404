"""Training: from a recipe and a collection of partially labelled cases to a model bundle.

:func:`train` is the door: it prepares the cases, trains step by step, writes checkpoints and a log,
and writes the bundle. It can be stopped at any step and goes on exactly where it was. Called by
the command line (:mod:`PartialSegTraining.cli`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CancelledError, CollectionError
from PartialSegLib.inference.allocation import kept_memory
from PartialSegLib.networks.exclusive import ExclusiveNetwork
from PartialSegLib.progress import Monitor
from PartialSegTraining.augmentation import Augmenter, Batch
from PartialSegTraining.cache import CachedCase, prepare_cases
from PartialSegTraining.datasets.collection import training_cases
from PartialSegTraining.losses import LOSSES, LossTerms, SegmentationLoss, make_loss
from PartialSegTraining.precision import autocast
from PartialSegTraining.publishing import write_bundle
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.runlog import RunLog
from PartialSegTraining.sampling import WindowSampler
from PartialSegTraining.schedules import learning_rate
from PartialSegTraining.state import TrainingState, load_checkpoint, new_state, save_checkpoint, start_from
from PartialSegTraining.validation import Validator, split_cases

# First words of the random streams of the changes to windows and of torch, apart from the sampler's.
_CHANGE, _TORCH = 11, 12


@dataclass(frozen=True)
class TrainingResult:
    """What a training left.

    Parameters
    ----------
    bundle : Path
        The model folder.
    steps, total_steps : int
        Steps made so far, and those of the recipe.
    """

    bundle: Path
    steps: int
    total_steps: int

    @property
    def finished(self) -> bool:
        """Whether every step of the recipe was made."""
        return self.steps >= self.total_steps


class Trainer:
    """Makes the steps of a training.

    Parameters
    ----------
    recipe : Recipe
        Decides everything.
    cases : sequence of CachedCase
        To train on; they are moved to `device` and stay there.
    device : torch.device
        Where to compute.
    """

    def __init__(self, recipe: Recipe, cases: Sequence[CachedCase], device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        self.state: TrainingState = new_state(recipe, device)
        _check_window(recipe, self.state)
        self._loss = make_loss(recipe.loss.name, recipe.loss.parameters, recipe.tasks)
        _check_loss(recipe, self.state, self._loss)
        self._cases = [case.to(device) for case in cases]
        plan = recipe.optimization
        self._sampler = WindowSampler(self._cases, recipe.tasks, recipe.sampling, plan.seed)
        self._augmenter = Augmenter(recipe.augmentation, recipe.preprocessing, recipe.tasks, recipe.sampling.window)
        outputs = self.state.network.training_outputs
        self._outputs = torch.compile(outputs) if plan.compiled and device.type == "cuda" else outputs
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True

    def step(self) -> LossTerms:
        """Make one step and return its loss, detached; nothing waits for the device."""
        state, plan = self.state, self.recipe.optimization
        batch = self.batch(state.step)
        rate = learning_rate(
            state.step,
            peak=plan.learning_rate,
            total_steps=plan.total_steps,
            warmup_steps=plan.warmup_steps,
            power=plan.power,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        image = batch.image.to(memory_format=torch.channels_last_3d) if plan.channels_last else batch.image
        with autocast(plan.precision, self.device):
            outputs = self._outputs(image, batch.task)
        loss = self._loss(outputs, batch.target, batch.task)
        state.scaler.scale(loss.total).backward()
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), plan.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.step += 1
        state.update_average(plan.average)
        return loss.detach()

    def batch(self, step: int) -> Batch:
        """Cut and change the windows of a step: a function of the seed and the step alone."""
        seed, size = self.recipe.optimization.seed, self.recipe.sampling.batch
        changes = [
            self._augmenter.draw(np.random.default_rng((seed, _CHANGE, number)))
            for number in range(step * size, (step + 1) * size)
        ]
        # The noise of the augmentation, and dropout where a network has it, come from torch's stream.
        torch.manual_seed(int(np.random.default_rng((seed, _TORCH, step)).integers(2**62)))
        return self._augmenter.batch(self._cases, self._sampler.draws(step), changes)


def train(
    recipe: Recipe,
    collection: str | Path,
    output: str | Path,
    *,
    device: str = "auto",
    monitor: Monitor | None = None,
    resume: bool = True,
    initial: ModelBundle | None = None,
    max_minutes: float | None = None,
    workers: int | None = None,
    cache: str | Path | None = None,
) -> TrainingResult:
    """Train a model on a partially labelled collection.

    Parameters
    ----------
    recipe : Recipe
        Decides what is trained and how.
    collection : path
        Folder with ``collection.json``, or a manifest (TOML, :mod:`PartialSegTraining.datasets`).
    output : path
        Folder of the run: ``cache/``, ``checkpoint.pt``, ``log.jsonl`` and the bundle, named as the recipe.
    device : str
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    monitor : Monitor, optional
        Told about every case and step; cancelling it writes a checkpoint first.
    resume : bool
        Go on from the checkpoint of an earlier run; otherwise start anew.
    initial : ModelBundle, optional
        Begin with the weights of this model, unless there is a checkpoint to go on from.
    max_minutes : float, optional
        Stop after this time, with a checkpoint and the bundle of what was learnt so far.
    workers : int, optional
        Threads that prepare cases.
    cache : path, optional
        Folder of the prepared cases, for trainings that share them; ``OUTPUT/cache`` when not given.

    Returns
    -------
    TrainingResult
        The bundle holds the averaged weights where the recipe has an average.

    Raises
    ------
    CollectionError
        When the recipe and the collection do not fit each other, a case cannot be read, or the
        training diverges.
    CancelledError
        When the monitor was cancelled.
    """
    deadline = math.inf if max_minutes is None else time.monotonic() + 60.0 * max_minutes
    monitor, output = monitor or Monitor(), Path(output)
    chosen = choose_device(device)
    cases, named = training_cases(collection, recipe.tasks)
    prepared = prepare_cases(
        [*cases, *named], recipe.preprocessing, folder=Path(cache or output / "cache"), workers=workers, monitor=monitor
    )
    if named:
        training, held_out = prepared[: len(cases)], prepared[len(cases) :]
    else:
        training, held_out = split_cases(prepared, recipe.tasks, recipe.monitoring.validation_cases)
    trainer = Trainer(recipe, training, chosen)
    validator = Validator([case.to(chosen) for case in held_out], recipe) if held_out else None
    checkpoint = output / "checkpoint.pt"
    if resume and checkpoint.is_file():
        load_checkpoint(trainer.state, recipe, checkpoint)
    elif initial is not None:
        start_from(trainer.state, recipe, initial)
    with kept_memory(chosen):
        run(trainer, output, validator=validator, monitor=monitor, deadline=deadline)
    bundle = write_bundle(trainer.state, recipe, training, output / recipe.name, parent=initial)
    return TrainingResult(bundle, trainer.state.step, recipe.optimization.total_steps)


def run(
    trainer: Trainer,
    folder: Path,
    *,
    validator: Validator | None = None,
    monitor: Monitor | None = None,
    deadline: float = math.inf,
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

    Raises
    ------
    CancelledError
        When the monitor was cancelled; the checkpoint is of the last finished step.
    CollectionError
        When the loss is no longer a number; the checkpoint is the last one before.
    """
    monitor, recipe, state = monitor or Monitor(), trainer.recipe, trainer.state
    total, plan = recipe.optimization.total_steps, recipe.monitoring
    folder.mkdir(parents=True, exist_ok=True)
    recorder = _Recorder(RunLog(folder / "log.jsonl", state.step), trainer)
    monitor.step("train", state.step, total)
    try:
        while state.step < total and time.monotonic() < deadline:
            recorder.add(trainer.step())
            if state.step % plan.log_every == 0:
                recorder.flush()
            if validator is not None and (state.step % plan.validate_every == 0 or state.step == total):
                recorder.log.write(state.step, {"validation": validator.dice(state.average)})
            if state.step % plan.checkpoint_every == 0:
                recorder.flush()
                save_checkpoint(state, recipe, folder / "checkpoint.pt")
            monitor.step("train", state.step, total)
    except CancelledError as error:
        recorder.flush()
        save_checkpoint(state, recipe, folder / "checkpoint.pt")
        raise CancelledError(error.message, f"Run it again with the same '{folder}' to go on.") from error
    recorder.flush()
    save_checkpoint(state, recipe, folder / "checkpoint.pt")


class _Recorder:
    """Gathers losses without waiting for the device, and logs their mean now and then."""

    def __init__(self, log: RunLog, trainer: Trainer) -> None:
        self.log = log
        self._trainer = trainer
        self._losses: list[LossTerms] = []
        self._started = time.monotonic()

    def add(self, loss: LossTerms) -> None:
        self._losses.append(loss)

    def flush(self) -> None:
        """Log the mean of the losses since the last time; CollectionError when it is not finite."""
        if not self._losses:
            return
        step, count = self._trainer.state.step, len(self._losses)
        names = list(self._losses[0].terms)
        terms = torch.stack([torch.stack(list(loss.terms.values())) for loss in self._losses]).mean(0).tolist()
        self._losses.clear()
        total = sum(terms)
        if not math.isfinite(total):
            raise CollectionError(
                f"The training diverged: its loss is {total} after {step} steps.",
                "Lower 'learning_rate', or train in float32; the last checkpoint is from before.",
            )
        now = time.monotonic()
        rate = self._trainer.state.optimizer.param_groups[0]["lr"]
        seconds = round((now - self._started) / count, 4)
        self._started = now
        values = {"loss": total, **dict(zip(names, terms, strict=True)), "lr": rate, "seconds_per_step": seconds}
        self.log.write(step, {name: float(f"{value:.6g}") for name, value in values.items()})


def choose_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU where there is one.

    Raises
    ------
    CollectionError
        When there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CollectionError(f"There is no device '{name}' here.", "Use 'auto', 'cpu' or 'cuda'.") from error
    return device


def _check_window(recipe: Recipe, state: TrainingState) -> None:
    divisor = state.network.divisor
    if any(size % step for size, step in zip(recipe.sampling.window, divisor, strict=True)):
        raise CollectionError(
            f"The window {recipe.sampling.window} of recipe '{recipe.name}' does not fit its network.",
            f"Its sizes have to be multiples of {divisor}.",
        )


def _check_loss(recipe: Recipe, state: TrainingState, loss: SegmentationLoss) -> None:
    if loss.exclusive != isinstance(state.network, ExclusiveNetwork):
        fitting = [name for name, (kind, _) in LOSSES.items() if kind.exclusive != loss.exclusive]
        raise CollectionError(
            f"Loss '{recipe.loss.name}' of recipe '{recipe.name}' does not fit network '{recipe.network.name}'.",
            f"Losses that do: {', '.join(fitting)}.",
        )
