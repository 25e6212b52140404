"""How well a training does on cases that it does not see.

A recipe chooses between whole cases, segmented by the inference engine
(:mod:`PartialSegTraining.casevalidation`), and a fixed set of windows, which takes seconds but lies
near annotated structures, so that its figures are higher. Either watches a training; a model is
judged by :mod:`PartialSegTraining.evaluation`. Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.progress import Monitor
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.augmentation import Augmenter
from PartialSegTraining.casevalidation import CaseValidator
from PartialSegTraining.distributed import ALONE, Processes
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.losses import UNKNOWN_VOXEL, known_channels
from PartialSegTraining.precision import autocast
from PartialSegTraining.recipe import AugmentationRecipe, Recipe
from PartialSegTraining.sampling import WindowSampler
from PartialSegTraining.scores import Validation


class Validator(Protocol):
    """Measures Dice on held-out cases, always in the same way."""

    def measure(self, network: PartialLabelNetwork, monitor: Monitor | None = None) -> Validation:
        """Judge a network; a cancelled monitor raises :class:`CancelledError`. All processes have to call it."""
        ...


def make_validator(
    cases: Sequence[CachedCase], recipe: Recipe, device: torch.device, processes: Processes = ALONE
) -> Validator | None:
    """Return the validator that a recipe asks for; ``None`` when no case is held out."""
    if not cases:
        return None
    if recipe.monitoring.validation_windows:
        return WindowValidator([case.to(device) for case in cases], recipe, processes)
    return CaseValidator(cases, recipe, device, processes)


def split_cases(
    cases: Sequence[CachedCase], space: LabelSpace, held_out: int
) -> tuple[list[CachedCase], list[CachedCase]]:
    """Hold out the last cases of each task.

    A task always keeps a case to train on, also where cases annotate several tasks. Training and
    held-out cases are disjoint.

    Returns
    -------
    training, validation
        In the order of `cases`.
    """
    chosen: set[str] = set()
    members = [
        [case.name for case in cases if set(task.structures).intersection(case.structures)] for task in space.tasks
    ]
    for names in members:
        for name in reversed(names):
            if len(chosen.intersection(names)) >= held_out:
                break
            if all(name not in others or set(others) - chosen - {name} for others in members):
                chosen.add(name)
    return (
        [case for case in cases if case.name not in chosen],
        [case for case in cases if case.name in chosen],
    )


class WindowValidator:
    """Measures Dice in a fixed set of windows.

    Parameters
    ----------
    cases : sequence of CachedCase
        Held out; on the device of the network.
    recipe : Recipe
        Of the training.
    processes : Processes
        They divide the windows among them.
    """

    def __init__(self, cases: Sequence[CachedCase], recipe: Recipe, processes: Processes = ALONE) -> None:
        self._cases = cases
        self._space = recipe.tasks
        self._processes = processes
        self._precision = recipe.optimization.precision
        # One window at a time fits wherever a training batch does; only the spacing of the card is judged.
        plan = replace(
            recipe.sampling, batch=1, coarse=0.0, tasks={}, hard={}, strategy="tasks", foreground_rule="chance"
        )
        self._sampler = WindowSampler(cases, self._space, plan, recipe.optimization.seed)
        self._windows = len(cases) * recipe.monitoring.validation_windows
        self._augmenter = Augmenter(AugmentationRecipe(), recipe.preprocessing, self._space, recipe.sampling.window)

    @torch.no_grad()
    def measure(self, network: PartialLabelNetwork, monitor: Monitor | None = None) -> Validation:
        """Return the Dice of each annotated structure, its voxels pooled over all windows."""
        keys = self._space.select()
        # Twice the voxels that both masks share, and the voxels of both.
        counts = torch.zeros(len(keys), 2, dtype=torch.float64)
        for number in range(self._processes.rank, self._windows, self._processes.count):
            if monitor is not None and monitor.cancelled:
                monitor.step("validate", number, self._windows)
            batch = self._augmenter.batch(self._cases, self._sampler.draws(number))
            with autocast(self._precision, batch.image.device):
                logits = network(batch.image, batch.task)
            known = known_channels(batch.target)[0].tolist()
            for channel, key in enumerate(self._space.tasks[int(batch.task)].channels):
                if key is not None and known[channel]:
                    target = batch.target[0, channel]
                    found, truth = (logits[0, channel] > 0) & (target != UNKNOWN_VOXEL), target > 0
                    pair = torch.stack([2 * (found & truth).sum(), found.sum() + truth.sum()])
                    counts[keys.index(key)] += pair.double().cpu()
        pairs = zip(keys, self._processes.add(counts).tolist(), strict=True)
        return Validation({key: round(both / total, 4) for key, (both, total) in pairs if total})
