"""Cutting windows out of cases and changing them at random, on whatever device the cases lie.

A window is one affine sampling of its volume: magnification, rotation and mirroring cost nothing
beyond cutting it. Intensities are changed for the whole batch at once, so that a GPU never waits.
What happens to a window is drawn from a random stream of its own (:meth:`Augmenter.draw`), then
carried out. Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.preprocessing import lowest_value
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cache import CachedCase
from PartialSegTraining.losses import UNKNOWN
from PartialSegTraining.recipe import AugmentationRecipe
from PartialSegTraining.sampling import Draw


class Batch(NamedTuple):
    """What one step trains on.

    Parameters
    ----------
    image : Tensor
        float32 (N, 1, D, H, W).
    task : Tensor
        int64 (N,) task indices.
    target : Tensor
        float32 (N, C, D, H, W): 0 or 1, and :data:`UNKNOWN` throughout channels that the case
        does not annotate or the task does not have.
    """

    image: Tensor
    task: Tensor
    target: Tensor


@dataclass(frozen=True)
class Change:
    """What happens to one window; the defaults change nothing.

    Parameters
    ----------
    matrix : numpy.ndarray
        (3, 3) from an offset in the window to one in the volume, voxels (z, y, x).
    noise, blur, low_resolution, brightness, contrast, gamma : float
        Strengths, as in :class:`AugmentationRecipe`.
    """

    matrix: np.ndarray
    noise: float = 0.0
    blur: float = 0.0
    low_resolution: float = 1.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0


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
        self._lowest = lowest_value(preprocessing)
        self._highest = (preprocessing.intensity_range[1] - preprocessing.intensity_shift) / (
            preprocessing.intensity_scale
        )

    def draw(self, rng: np.random.Generator) -> Change:
        """Draw what happens to one window."""
        recipe = self._recipe
        flips = np.where(rng.random(3) < recipe.mirror, -1.0, 1.0)
        # Anatomy that is to look larger is sampled in smaller strides.
        stride = 1.0 / recipe.scale.draw(rng, 1.0)
        angles = np.deg2rad(recipe.rotation.draw(rng, 0.0, 3))
        return Change(
            matrix=rotation_matrix(angles) * flips * stride,
            noise=recipe.noise.draw(rng, 0.0),
            blur=recipe.blur.draw(rng, 0.0),
            low_resolution=recipe.low_resolution.draw(rng, 1.0),
            brightness=recipe.brightness.draw(rng, 0.0),
            contrast=recipe.contrast.draw(rng, 1.0),
            gamma=recipe.gamma.draw(rng, 1.0),
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
            All on one device.
        draws : sequence of Draw
            From :class:`~PartialSegTraining.sampling.WindowSampler`.
        changes : sequence of Change, optional
            One per window; ``None`` leaves them as they are. Noise comes from torch's global stream.
        """
        device = cases[draws[0].case].levels[0].volume.device
        image = torch.empty((len(draws), 1, *self._window), device=device)
        target = torch.full((len(draws), self._channels, *self._window), UNKNOWN, device=device)
        for index, draw in enumerate(draws):
            matrix = np.eye(3) if changes is None else changes[index].matrix
            self._cut(cases[draw.case], draw, matrix, image[index, 0], target[index])
        task = torch.tensor([draw.task for draw in draws]).to(device, non_blocking=True)
        if changes is not None:
            image = self._change_intensities(image, changes)
        return Batch(image, task, target)

    def _cut(self, case: CachedCase, draw: Draw, matrix: np.ndarray, image: Tensor, target: Tensor) -> None:
        """Fill the image (D, H, W) and the known channels of the target (C, D, H, W) of one window."""
        level = case.levels[draw.level]
        size, center = np.array(self._window), np.array(draw.center)
        reach = np.abs(matrix) @ (size / 2) + 1
        start = np.clip(np.floor(center - reach), 0, np.array(level.shape) - 1).astype(int)
        stop = np.maximum(np.clip(np.ceil(center + reach), 1, level.shape).astype(int), start + 1)
        z, y, x = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))

        channels = self._space.tasks[draw.task].channels
        known = [(at, case.structures.index(key)) for at, key in enumerate(channels) if key in case.structures]
        bits = level.bits[z, y, x]
        # Zero, which the sampling finds beyond the border, has to stand for air.
        layers = [level.volume[z, y, x].float() - self._lowest, *((bits >> bit & 1).float() for _, bit in known)]

        # From normalized window coordinates to those of the cut-out part, as torch has them: (x, y, z), -1 to 1.
        extent = stop - start
        theta = np.empty((3, 4), np.float32)
        theta[:, :3] = (2 / extent[:, None] * matrix * (size / 2))[::-1, ::-1]
        theta[:, 3] = (2 * (center - start) / extent - 1)[::-1]
        grid = functional.affine_grid(
            torch.from_numpy(theta)[None].to(image.device, non_blocking=True), [1, 1, *self._window], False
        )
        sampled = functional.grid_sample(torch.stack(layers)[None], grid, align_corners=False)[0]
        image.copy_(sampled[0] + self._lowest)
        for layer, (channel, _) in enumerate(known, 1):
            target[channel] = (sampled[layer] >= 0.5).float()

    def _change_intensities(self, image: Tensor, changes: Sequence[Change]) -> Tensor:
        """Blur, coarsen, re-scale and add noise to (N, 1, D, H, W); the result stays in the network's range."""
        for index, change in enumerate(changes):
            if change.blur:
                image[index] = _blurred(image[index], change.blur)
            if change.low_resolution < 1.0:
                image[index] = _coarsened(image[index], change.low_resolution)
        names = ("noise", "brightness", "contrast", "gamma")
        columns = torch.tensor([[getattr(change, name) for name in names] for change in changes])
        columns = columns.to(image.device, non_blocking=True)[:, :, None, None, None, None]
        noise, brightness, contrast, gamma = columns.unbind(1)
        mean = image.mean(dim=(1, 2, 3, 4), keepdim=True)
        image = (image - mean) * contrast + mean + brightness
        span = self._highest - self._lowest
        image = ((image - self._lowest) / span).clamp(0.0, 1.0) ** gamma * span + self._lowest
        if any(change.noise for change in changes):
            image = image + noise * torch.randn_like(image)
        return image.clamp(self._lowest, self._highest)


def rotation_matrix(angles: np.ndarray) -> np.ndarray:
    """Return the (3, 3) rotation about z, then y, then x by (3,) `angles` in radians; axes (z, y, x)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Convolve (1, D, H, W) with a Gaussian of `sigma` voxels, cut at three sigma, borders repeated."""
    radius = max(1, int(3 * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(image.device, non_blocking=True)
    image = image[None]
    for axis in range(3):
        shape, padding = [1, 1, 1], [0] * 6
        shape[axis] = -1
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        padded = functional.pad(image, padding, mode="replicate")
        image = functional.conv3d(padded, kernel.view(1, 1, *shape))
    return image[0]


def _coarsened(image: Tensor, part: float) -> Tensor:
    """Keep `part` of the voxels of (1, D, H, W) along each axis, and interpolate back."""
    size = image.shape[1:]
    small = [max(1, round(n * part)) for n in size]
    kept = functional.interpolate(image[None], size=small, mode="nearest-exact")
    return functional.interpolate(kept, size=size, mode="trilinear", align_corners=False)[0]
