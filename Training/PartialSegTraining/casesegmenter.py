"""Whole prepared cases, segmented by the engine that will run the network.

A case lies on the network's grid already, so that it is not resampled again: windows are laid and
blended as in any run (:mod:`PartialSegLib.inference`). Called by the validation of cases, and by
:mod:`PartialSegTraining.mining`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from PartialSegLib.images import Geometry
from PartialSegLib.inference.extractors import TorchExtractor
from PartialSegLib.inference.passes import Job, Passes, pad_to_windows
from PartialSegLib.inference.planner import Plan
from PartialSegLib.inference.presets import preset_named
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.preprocessing import NetworkGrid, padding_value
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import PackedMask
from PartialSegTraining.levels import Level
from PartialSegTraining.recipe import Recipe


class CaseSegmenter:
    """Segments prepared cases with a network as it is now.

    Parameters
    ----------
    network : PartialLabelNetwork
        In eval mode; its weights are copied.
    recipe : Recipe
        Of the training: window, precision and padding.
    device : torch.device
        Of the network.
    monitor : Monitor, optional
        May cancel between windows; it is told nothing, so that the bar of the training goes on.
    stage : str
        What the work is called when it is cancelled.
    """

    def __init__(
        self,
        network: PartialLabelNetwork,
        recipe: Recipe,
        device: torch.device,
        monitor: Monitor | None = None,
        stage: str = "validate",
    ) -> None:
        self._recipe, self._stage = recipe, stage
        half = device.type == "cuda" and network.features_half and recipe.optimization.precision != "float32"
        plan = Plan(device, device, half=half)
        self._passes = Passes(
            network, TorchExtractor(network, device, half=half), plan, (monitor or Monitor()).silent()
        )

    @torch.no_grad()
    def masks(self, level: Level, structures: tuple[str, ...]) -> Mapping[str, PackedMask]:
        """Return the mask of each structure on the grid of a level, which lies on the device.

        Raises
        ------
        CancelledError
            When the monitor was cancelled.
        """
        return self._passes.run(self._job(level.volume.float(), structures)).masks

    def _job(self, volume: Tensor, structures: tuple[str, ...]) -> Job:
        """Lay windows over a prepared volume (D, H, W), as the preset ``standard`` does."""
        depth, height, width = volume.shape
        shape, preprocessing = (depth, height, width), self._recipe.preprocessing
        everything = (slice(0, depth), slice(0, height), slice(0, width))
        grid = NetworkGrid(Geometry(shape), (0, 1, 2), (False, False, False), everything, shape)
        centered = preprocessing.padding_place == "both"
        overlap = preset_named("standard").overlap
        windows = WindowGrid.over(shape, self._recipe.sampling.window, overlap, centered=centered)
        volume = pad_to_windows(volume, windows, padding_value(preprocessing))
        return Job(volume, grid, windows, structures, (), False, self._stage)
