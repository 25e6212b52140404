"""Dice of whole held-out cases while a network is being trained, by the engine that will run it.

Masks are compared on the network's grid (:mod:`PartialSegTraining.casesegmenter`). What an evaluation
adds, the way back to the scan's own grid and the rules of the label space, changes little.
Called by :mod:`PartialSegTraining.validation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.progress import Monitor
from PartialSegTraining.casesegmenter import CaseSegmenter
from PartialSegTraining.distributed import ALONE, Processes
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.scores import Validation


class CaseValidator:
    """Segments whole cases and compares them with what they annotate.

    Parameters
    ----------
    cases : sequence of CachedCase
        Held out; wherever they lie, one at a time is brought to the device.
    recipe : Recipe
        Of the training.
    device : torch.device
        Of the network.
    processes : Processes
        They divide the cases among them.
    """

    def __init__(
        self, cases: Sequence[CachedCase], recipe: Recipe, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self._cases = cases
        self._recipe = recipe
        self._device = device
        self._processes = processes
        self._keys = recipe.tasks.select()

    @torch.no_grad()
    def measure(self, network: PartialLabelNetwork, monitor: Monitor | None = None) -> Validation:
        """Return the Dice of every structure that a case annotates.

        Parameters
        ----------
        network : PartialLabelNetwork
            As trained so far; it is left as it was.
        monitor : Monitor, optional
            May cancel between windows; it is told nothing, so that the bar of the training goes on.

        Raises
        ------
        CancelledError
            When the monitor was cancelled.
        """
        # Twice the voxels that both masks share, and the voxels of both.
        counts = torch.zeros(len(self._cases), len(self._keys), 2, dtype=torch.float64)
        with _evaluating(network):
            segmenter = CaseSegmenter(network, self._recipe, self._device, monitor)
            for at in range(self._processes.rank, len(self._cases), self._processes.count):
                self._count(self._cases[at], segmenter, counts[at])
        # A wish to stop one process must not leave the others waiting for its counts.
        return self._judged(self._processes.add(counts))

    def _count(self, case: CachedCase, segmenter: CaseSegmenter, counts: torch.Tensor) -> None:
        """Fill the counts (S, 2) of the structures that a case annotates."""
        structures = tuple(key for key in self._keys if key in case.structures)
        if not structures:
            return
        level = case.levels[0].to(self._device)
        masks = segmenter.masks(level, structures)
        unknown = case.unknown(level.bits.cpu())
        for key in structures:
            truth = (level.bits >> case.structures.index(key) & 1).bool().cpu()
            mask = masks[key]
            found = torch.from_numpy(mask.unpack()).bool()
            if unknown is not None:
                found &= ~unknown[mask.box]
            shared = int((found & truth[mask.box]).sum())
            counts[self._keys.index(key)] = torch.tensor([2 * shared, int(found.sum()) + int(truth.sum())])

    def _judged(self, counts: torch.Tensor) -> Validation:
        """Return the Dice of each case, and the mean of each structure over the cases that have any of it."""
        cases: dict[str, dict[str, float | None]] = {}
        for case, rows in zip(self._cases, counts.tolist(), strict=True):
            pairs = dict(zip(self._keys, rows, strict=True))
            cases[case.name] = {
                key: round(both / total, 4) if total else None
                for key, (both, total) in pairs.items()
                if key in case.structures
            }
        dice = {}
        for key in self._keys:
            known = [value for scores in cases.values() if (value := scores.get(key)) is not None]
            if known:
                dice[key] = round(math.fsum(known) / len(known), 4)
        return Validation(dice, cases)


@contextmanager
def _evaluating(network: PartialLabelNetwork) -> Iterator[None]:
    """Put a network into eval mode for a while."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
