"""How well a training does on cases that it does not see: Dice over a fixed set of windows.

This watches a training; it does not judge a model. Windows lie near annotated structures, so the
figures are higher than those of whole scans, which :mod:`PartialSegTraining.evaluation` measures.
Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.augmentation import Augmenter
from PartialSegTraining.cache import CachedCase
from PartialSegTraining.losses import known_channels
from PartialSegTraining.precision import autocast
from PartialSegTraining.recipe import AugmentationRecipe, Recipe
from PartialSegTraining.sampling import WindowSampler


def split_cases(
    cases: Sequence[CachedCase], space: LabelSpace, held_out: int
) -> tuple[list[CachedCase], list[CachedCase]]:
    """Hold out the last cases of each task.

    A task always keeps a case to train on. Training and held-out cases are disjoint.

    Returns
    -------
    training, validation
        In the order of `cases`.
    """
    chosen: set[str] = set()
    for task in space.tasks:
        names = [case.name for case in cases if set(task.structures).intersection(case.structures)]
        chosen.update(names[max(1, len(names) - held_out) :] if held_out else ())
    return (
        [case for case in cases if case.name not in chosen],
        [case for case in cases if case.name in chosen],
    )


class Validator:
    """Measures Dice on held-out cases, always on the same windows.

    Parameters
    ----------
    cases : sequence of CachedCase
        Held out; on the device of the network.
    recipe : Recipe
        Of the training.
    """

    def __init__(self, cases: Sequence[CachedCase], recipe: Recipe) -> None:
        self._cases = cases
        self._space = recipe.tasks
        self._precision = recipe.optimization.precision
        # One window at a time fits wherever a training batch does; only the spacing of the card is judged.
        plan = replace(recipe.sampling, batch=1, coarse=0.0, tasks={})
        self._sampler = WindowSampler(cases, self._space, plan, recipe.optimization.seed)
        self._windows = len(cases) * recipe.monitoring.validation_windows
        self._augmenter = Augmenter(AugmentationRecipe(), recipe.preprocessing, self._space, recipe.sampling.window)

    @torch.no_grad()
    def dice(self, network: PartialLabelNetwork) -> dict[str, float]:
        """Return the Dice of each annotated structure, its voxels pooled over all windows."""
        sums: dict[str, torch.Tensor] = {}
        for number in range(self._windows):
            batch = self._augmenter.batch(self._cases, self._sampler.draws(number))
            with autocast(self._precision, batch.image.device):
                logits = network(batch.image, batch.task)
            known = known_channels(batch.target)[0].tolist()
            for channel, key in enumerate(self._space.tasks[int(batch.task)].channels):
                if key is not None and known[channel]:
                    found, truth = logits[0, channel] > 0, batch.target[0, channel] > 0
                    counts = torch.stack([(found & truth).sum(), found.sum() + truth.sum()]).double()
                    sums[key] = sums.get(key, torch.zeros_like(counts)) + counts
        return {key: round(float(2 * both / total), 4) for key, (both, total) in sums.items() if total > 0}
