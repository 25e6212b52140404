"""Dice of whole held-out cases while a network is being trained, by the engine that will run it.

A case lies on the network's grid already, so that it is not resampled again: windows are laid and
blended as in any run (:mod:`PartialSegLib.inference`), and masks compared where they are. What an
evaluation adds, the way back to the scan's own grid and the rules of the label space, changes little.
Called by :mod:`PartialSegTraining.validation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn import functional

from PartialSegLib.images import Geometry
from PartialSegLib.inference.extractors import TorchExtractor
from PartialSegLib.inference.passes import Job, Passes
from PartialSegLib.inference.planner import Plan
from PartialSegLib.inference.presets import preset_named
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.preprocessing import NetworkGrid, padding_value
from PartialSegLib.progress import Monitor
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
        half = self._device.type == "cuda" and network.features_half
        plan = Plan(self._device, self._device, half=half and self._recipe.optimization.precision != "float32")
        with _evaluating(network):
            passes = Passes(
                network, TorchExtractor(network, self._device, half=plan.half), plan, _SilentMonitor(monitor)
            )
            for at in range(self._processes.rank, len(self._cases), self._processes.count):
                self._count(self._cases[at], passes, counts[at])
        # A wish to stop one process must not leave the others waiting for its counts.
        return self._judged(self._processes.add(counts))

    def _count(self, case: CachedCase, passes: Passes, counts: torch.Tensor) -> None:
        """Fill the counts (S, 2) of the structures that a case annotates."""
        structures = tuple(key for key in self._keys if key in case.structures)
        if not structures:
            return
        level = case.levels[0].to(self._device)
        masks = passes.run(self._job(level.volume.float(), structures)).masks
        for key in structures:
            truth = (level.bits >> case.structures.index(key) & 1).bool().cpu()
            mask = masks[key]
            inside = tuple(slice(at, at + size) for at, size in zip(mask.start, mask.shape, strict=True))
            shared = int((torch.from_numpy(mask.unpack()).bool() & truth[inside]).sum()) if mask.count else 0
            counts[self._keys.index(key)] = torch.tensor([2 * shared, mask.count + int(truth.sum())])

    def _job(self, volume: torch.Tensor, structures: tuple[str, ...]) -> Job:
        """Lay windows over a prepared volume (D, H, W), as the preset ``standard`` does."""
        depth, height, width = volume.shape
        shape, preprocessing = (depth, height, width), self._recipe.preprocessing
        everything = (slice(0, depth), slice(0, height), slice(0, width))
        grid = NetworkGrid(Geometry(shape), (0, 1, 2), (False, False, False), everything, shape)
        centered = preprocessing.padding_place == "both"
        overlap = preset_named("standard").overlap
        windows = WindowGrid.over(shape, self._recipe.sampling.window, overlap, centered=centered)
        padding: list[int] = []
        for wanted, length, before in zip(windows.shape, shape, windows.offset, strict=True):
            padding[:0] = (before, wanted - length - before)
        volume = functional.pad(volume, padding, value=padding_value(preprocessing))
        return Job(volume, grid, windows, structures, (), False, "validate")

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


class _SilentMonitor(Monitor):
    """Passes on a wish to stop, and reports nothing."""

    def __init__(self, outer: Monitor | None) -> None:
        super().__init__()
        self._outer = outer

    def step(self, stage: str, done: int, total: int, unit: str = "") -> None:
        if self._outer is not None and self._outer.cancelled:
            self.cancel()
        super().step(stage, done, total, unit)


@contextmanager
def _evaluating(network: PartialLabelNetwork) -> Iterator[None]:
    """Put a network into eval mode for a while."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
