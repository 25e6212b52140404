"""Cutting windows out of cases and changing them at random, on whatever device the cases lie.

A window is one affine sampling of its volume: magnification, rotation and mirroring cost nothing
beyond cutting it. Intensities are changed for the whole batch at once, so that a GPU never waits, or
by the list of another library (:mod:`PartialSegTraining.augmentation.lists`). What happens to a
window is drawn from a random stream of its own (:meth:`Augmenter.draw`), then carried out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.preprocessing import intensity_limits, padding_value
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.augmentation.contract import Batch, Change
from PartialSegTraining.augmentation.geometry import draw_matrix
from PartialSegTraining.augmentation.intensities import change_intensities
from PartialSegTraining.augmentation.lists import apply_list, make_list
from PartialSegTraining.augmentation.sides import is_mirrored, mirrored_key
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.losses import UNKNOWN, UNKNOWN_VOXEL
from PartialSegTraining.recipe import AugmentationRecipe
from PartialSegTraining.sampling import Draw


class Augmenter:
    """Cuts and changes the windows of a batch.

    Parameters
    ----------
    recipe : AugmentationRecipe
        What may happen.
    preprocessing : Preprocessing
        Says which intensities the network ever sees.
    space : LabelSpace
        Its tasks say which structure belongs into which channel.
    window : tuple of int
        Voxels (z, y, x).

    Raises
    ------
    MissingExtraError
        When the recipe names a library that is not installed.
    """

    def __init__(
        self,
        recipe: AugmentationRecipe,
        preprocessing: Preprocessing,
        space: LabelSpace,
        window: tuple[int, int, int],
    ) -> None:
        self._recipe = recipe
        self._space = space
        self._window = window
        self._channels = max(len(task.channels) for task in space.tasks)
        self._limits = intensity_limits(preprocessing)
        self._outside = padding_value(preprocessing)
        self._list = None if recipe.library == "own" else make_list(recipe.library, window)

    def draw(self, rng: np.random.Generator) -> Change:
        """Draw what happens to one window."""
        recipe = self._recipe
        return Change(
            matrix=draw_matrix(recipe, self._window, rng),
            noise=recipe.noise.draw(rng, 0.0),
            blur=recipe.blur.draw(rng, 0.0),
            low_resolution=recipe.low_resolution.draw(rng, 1.0),
            brightness=recipe.brightness.draw(rng, 0.0),
            contrast=recipe.contrast.draw(rng, 1.0),
            gamma=recipe.gamma.draw(rng, 1.0),
            seed=int(rng.integers(2**62)),
        )

    def batch(
        self,
        cases: Sequence[CachedCase],
        draws: Sequence[Draw],
        changes: Sequence[Change] | None = None,
    ) -> Batch:
        """Cut the windows of a step and change them.

        Parameters
        ----------
        cases : sequence of CachedCase
            All on one device; on the CPU where the recipe names a library.
        draws : sequence of Draw
            From :class:`~PartialSegTraining.sampling.WindowSampler`.
        changes : sequence of Change, optional
            One per window; ``None`` leaves them as they are.
        """
        device = cases[draws[0].case].levels[0].device
        image = torch.empty((len(draws), 1, *self._window), device=device)
        target = torch.full((len(draws), self._channels, *self._window), UNKNOWN, device=device)
        for index, draw in enumerate(draws):
            matrix = np.eye(3) if changes is None else changes[index].matrix
            self._cut(cases[draw.case], draw, matrix, image[index, 0], target[index])
        task = torch.tensor([draw.task for draw in draws]).to(device, non_blocking=True)
        if changes is not None:
            image = self._change(image, changes)
        return Batch(image, task, target)

    def _change(self, image: Tensor, changes: Sequence[Change]) -> Tensor:
        """Change the intensities of (N, 1, D, H, W)."""
        if self._list is None:
            return change_intensities(image, changes, self._limits)
        windows = zip(image, changes, strict=True)
        return torch.stack([apply_list(self._list, window, change.seed) for window, change in windows])

    def _cut(self, case: CachedCase, draw: Draw, matrix: np.ndarray, image: Tensor, target: Tensor) -> None:
        """Fill the image (D, H, W) and the known channels of the target (C, D, H, W) of one window."""
        level = case.levels[draw.level]
        size, center = np.array(self._window), np.array(draw.center)
        reach = np.abs(matrix) @ (size / 2) + 1
        start = np.clip(np.floor(center - reach), 0, np.array(level.shape) - 1).astype(int)
        stop = np.maximum(np.clip(np.ceil(center + reach), 1, level.shape).astype(int), start + 1)
        z, y, x = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))

        known = self._known(case, draw.task, mirrored=is_mirrored(matrix))
        volume, bits = level.cut((z, y, x))
        # Zero, which the sampling finds beyond the border, has to stand for what lies there.
        layers = [volume - self._outside, *((bits >> bit & 1).float() for _, bit in known)]
        unknown = case.unknown(bits)
        if unknown is not None:
            layers.append(unknown.float())

        # From normalized window coordinates to those of the cut-out part, as torch has them: (x, y, z), -1 to 1.
        extent = stop - start
        theta = np.empty((3, 4), np.float32)
        theta[:, :3] = (2 / extent[:, None] * matrix * (size / 2))[::-1, ::-1]
        theta[:, 3] = (2 * (center - start) / extent - 1)[::-1]
        grid = functional.affine_grid(
            torch.from_numpy(theta)[None].to(image.device, non_blocking=True), [1, 1, *self._window], False
        )
        sampled = functional.grid_sample(torch.stack(layers)[None], grid, align_corners=False)[0]
        image.copy_(sampled[0] + self._outside)
        for layer, (channel, _) in enumerate(known, 1):
            target[channel] = (sampled[layer] >= 0.5).float()
            if unknown is not None:
                target[channel][sampled[-1] >= 0.5] = UNKNOWN_VOXEL

    def _known(self, case: CachedCase, task: int, *, mirrored: bool) -> list[tuple[int, int]]:
        """Return the channels of a task that are known in a window, and the bit of the case that shows each."""
        known = []
        for channel, key in enumerate(self._space.tasks[task].channels):
            shown = mirrored_key(key) if key is not None and mirrored else key
            if shown in case.structures:
                known.append((channel, case.structures.index(shown)))
        return known
