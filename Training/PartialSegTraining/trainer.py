"""Training: from a recipe and a collection of partially labelled cases to a model bundle.

:func:`train` is the door: it prepares the cases, trains step by step (:mod:`PartialSegTraining.loop`),
and writes the bundle. It can be stopped at any step and goes on exactly where it was, and it may be
several processes, of which each does its part of every step. Called by the command line
(:mod:`PartialSegTraining.cli`).
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegLib.inference.allocation import kept_memory
from PartialSegLib.networks.exclusive import ExclusiveNetwork
from PartialSegLib.progress import Monitor
from PartialSegTraining.augmentation import Batch
from PartialSegTraining.cache import prepare_cases
from PartialSegTraining.cases import Case
from PartialSegTraining.datasets.collection import training_cases
from PartialSegTraining.distributed import ALONE, Processes, choose_device, together
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.loader import BatchLoader, BatchMaker
from PartialSegTraining.loop import CHECKPOINT, ended_early, run
from PartialSegTraining.losses import LOSSES, LossTerms, SegmentationLoss, make_loss
from PartialSegTraining.mining import with_hard_negatives
from PartialSegTraining.objective import Objective
from PartialSegTraining.placement import place_cases
from PartialSegTraining.publishing import ancestor, write_bundle
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.schedules import rates
from PartialSegTraining.state import TrainingState, fitting_network, load_checkpoint, new_state, start_from
from PartialSegTraining.validation import make_validator, split_cases

__all__ = ["Trainer", "TrainingResult", "choose_device", "run", "train"]

# First word of the random stream of torch, apart from those of windows and their changes.
_TORCH = 12


@dataclass(frozen=True)
class TrainingResult:
    """What a training left.

    Parameters
    ----------
    bundle : Path
        The model folder, of the last step.
    steps, total_steps : int
        Steps made so far, and those of the recipe.
    best : Path, optional
        The model folder of the best validation, where there was any.
    ended_early : bool
        Whether the training has ended before its last step because it no longer got better.
    """

    bundle: Path
    steps: int
    total_steps: int
    best: Path | None = None
    ended_early: bool = False

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.ended_early or self.steps >= self.total_steps


class Trainer:
    """Makes the steps of a training.

    Parameters
    ----------
    recipe : Recipe
        Decides everything.
    cases : sequence of CachedCase
        To train on; they are brought to where ``[loading]`` of the recipe wants them.
    device : torch.device
        Where to compute.
    processes : Processes
        That train together; each makes the steps with a part of their windows.

    Raises
    ------
    CollectionError
        When window, loss or batch do not fit the network or the processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        cases: Sequence[CachedCase],
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.processes = processes
        self.state: TrainingState = new_state(recipe, device)
        _check_window(recipe, self.state)
        adding = None if processes.alone else processes.add
        loss = make_loss(recipe.loss.name, recipe.loss.parameters, recipe.tasks, reduce_sums=adding)
        _check_loss(recipe, self.state, loss)
        self._objective = Objective(self.state.network, loss, recipe.optimization, processes)
        plan, batch = recipe.optimization, recipe.sampling.batch
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(processes.count)))
        placed, workers = place_cases(cases, recipe, device, processes=local)
        self.loader = BatchLoader(
            BatchMaker(recipe, placed),
            device,
            steps=plan.total_steps,
            # Not one after another: a batch may end with the windows near structures.
            parts=[processes.share(range(part, batch, plan.accumulation)) for part in range(plan.accumulation)],
            workers=workers,
            ahead=recipe.loading.ahead,
        )
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True

    def step(self) -> LossTerms:
        """Make one step and return its loss, detached; nothing waits for the device."""
        state, plan = self.state, self.recipe.optimization
        # Dropout, where a network has it, draws from torch's stream.
        stream = (plan.seed, _TORCH, state.step, *([] if self.processes.first else [self.processes.rank]))
        torch.manual_seed(int(np.random.default_rng(stream).integers(2**62)))
        self._set_rates()
        state.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        loss = _mean_terms([self._backward(batch, part) for part, batch in enumerate(self.batches(state.step))])
        state.scaler.unscale_(state.optimizer)
        self._keep_body()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), plan.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.step += 1
        state.update_average(plan.average)
        return loss

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield what this process computes of a step, on the device: a function of the seed and the step alone."""
        return self.loader.batches(step)

    def _backward(self, batch: Batch, part: int) -> LossTerms:
        """Add the gradient of one part of a step and return its loss, detached."""
        count = self.recipe.optimization.accumulation
        with self._objective.added_later() if part + 1 < count else nullcontext():
            loss = self._objective(batch)
            self.state.scaler.scale(loss.total / count).backward()
        return loss.detach()

    def _set_rates(self) -> None:
        now = rates(self.state.step, self.recipe.optimization)
        for group in self.state.optimizer.param_groups:
            group["lr"] = now.head if group.get("head") else now.body

    def _keep_body(self) -> None:
        """While the head learns alone, forget the gradients of everything else: no moment gathers them."""
        if self.state.step >= self.recipe.optimization.head_warmup_steps:
            return
        for group in self.state.optimizer.param_groups:
            for weight in group["params"] if not group.get("head") else ():
                weight.grad = None


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

    In processes that ``torchrun`` started, all of them call this, and train together.

    Parameters
    ----------
    recipe : Recipe
        Decides what is trained and how.
    collection : path
        Folder with ``collection.json``, or a manifest (TOML, :mod:`PartialSegTraining.datasets`).
    output : path
        Folder of the run: ``cache/``, ``checkpoint.pt``, ``log.jsonl``, the bundle, named as the
        recipe, and the bundle of the best validation, with ``-best`` added. Processes on several
        machines share it.
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
        The bundles hold the averaged weights where the recipe has an average.

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
    with together() as processes:
        chosen = choose_device(device, processes)
        cases, named = training_cases(collection, recipe.tasks)
        folder = Path(cache or output / "cache")
        prepared = _prepare([*cases, *named], recipe, folder, workers, monitor, processes)
        training, held_out = prepared[: len(cases)], prepared[len(cases) :]
        if not named:
            training, held_out = split_cases(prepared, recipe.tasks, recipe.monitoring.validation_cases)
        if any(recipe.sampling.hard.values()):
            training = _with_hard_negatives(training, recipe, initial, chosen, output, monitor, processes)
        trainer = Trainer(recipe, training, chosen, processes)
        validator = make_validator(held_out, recipe, chosen, processes)
        state, checkpoint = trainer.state, output / CHECKPOINT
        last, best = output / recipe.name, output / f"{recipe.name}-best"
        if not resume and processes.first:
            # What is left of an earlier training is not this one's, whenever this one is stopped.
            checkpoint.unlink(missing_ok=True)
            shutil.rmtree(best, ignore_errors=True)
        if resume and checkpoint.is_file():
            load_checkpoint(state, recipe, checkpoint)
            _require_same_parent(state, recipe, initial)
        elif initial is not None:
            start_from(state, recipe, initial)
            state.parent = ancestor(initial)
        processes.check_same(state.step, f"step that {checkpoint} is of")

        def publish(bundle: Path) -> None:
            write_bundle(state, recipe, training, bundle)

        try:
            with kept_memory(chosen):
                run(
                    trainer,
                    output,
                    validator=validator,
                    monitor=monitor,
                    deadline=deadline,
                    keep_best=lambda: publish(best),
                )
        finally:
            trainer.loader.close()
        if processes.first:
            publish(last)
        processes.wait()
    return TrainingResult(
        last,
        state.step,
        recipe.optimization.total_steps,
        best if state.best_dice >= 0.0 and best.is_dir() else None,
        ended_early(state, recipe),
    )


def _prepare(
    cases: Sequence[Case],
    recipe: Recipe,
    folder: Path,
    workers: int | None,
    monitor: Monitor,
    processes: Processes,
) -> list[CachedCase]:
    """Prepare cases, each in one process; then all processes find all of them."""
    rules = recipe.preprocessing
    if not processes.alone:
        mine = cases[processes.rank :: processes.count]
        prepare_cases(mine, rules, folder=folder, workers=workers, monitor=monitor)
        processes.wait()
    return prepare_cases(cases, rules, folder=folder, workers=workers, monitor=monitor)


def _with_hard_negatives(
    cases: list[CachedCase],
    recipe: Recipe,
    model: ModelBundle | None,
    device: torch.device,
    output: Path,
    monitor: Monitor,
    processes: Processes,
) -> list[CachedCase]:
    """Look for hard negatives in the first process; the others find what it kept."""
    if model is None:
        raise CollectionError(
            f"Recipe '{recipe.name}' trains on hard negatives, which are the mistakes of a model.",
            "Name the model to begin with: --initial MODEL.",
        )
    fitting_network(recipe, model)
    if not processes.first:
        processes.wait()
    found = with_hard_negatives(cases, recipe, model, device, output / "hard", monitor)
    if processes.first:
        processes.wait()
    return found


def _require_same_parent(state: TrainingState, recipe: Recipe, initial: ModelBundle | None) -> None:
    """Refuse to go on with the hard negatives of another model: they decide which windows are drawn."""
    if initial is None or state.parent is None or not any(recipe.sampling.hard.values()):
        return
    if initial.card.weights["sha256"] != state.parent["sha256"]:
        raise CollectionError(
            f"The training began with another model '{state.parent['name']}' than '{initial.card.name}'.",
            "Name the same --initial again, or start again with '--restart'.",
        )


def _mean_terms(parts: Sequence[LossTerms]) -> LossTerms:
    """Return the mean of the losses of all parts of a step."""
    if len(parts) == 1:
        return parts[0]
    return LossTerms({name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms})


def _check_window(recipe: Recipe, state: TrainingState) -> None:
    divisor = state.network.divisor
    if any(size % step for size, step in zip(recipe.sampling.window, divisor, strict=True)):
        raise CollectionError(
            f"The window {recipe.sampling.window} of recipe '{recipe.name}' does not fit its network.",
            f"Its sizes have to be multiples of {divisor}.",
        )
    if tuple(recipe.sampling.window) == tuple(divisor) and any(map(_averages_space, state.network.modules())):
        raise CollectionError(
            f"In the window {recipe.sampling.window} of recipe '{recipe.name}' the coarsest map is a single voxel, "
            "which an instance normalization cannot be trained on.",
            "Make it larger along one axis at least.",
        )


def _averages_space(module: nn.Module) -> bool:
    return isinstance(module, nn.InstanceNorm3d)


def _check_loss(recipe: Recipe, state: TrainingState, loss: SegmentationLoss) -> None:
    if loss.exclusive != isinstance(state.network, ExclusiveNetwork):
        fitting = [name for name, (kind, _) in LOSSES.items() if kind.exclusive != loss.exclusive]
        raise CollectionError(
            f"Loss '{recipe.loss.name}' of recipe '{recipe.name}' does not fit network '{recipe.network.name}'.",
            f"Losses that do: {', '.join(fitting)}.",
        )
