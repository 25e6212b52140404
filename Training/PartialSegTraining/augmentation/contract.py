"""What augmentation works on: a batch, and the change that one of its windows undergoes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Batch(NamedTuple):
    """What one step trains on.

    Parameters
    ----------
    image : Tensor
        float32 (N, 1, D, H, W).
    task : Tensor
        int64 (N,) task indices.
    target : Tensor
        float32 (N, C, D, H, W): 0 or 1, :data:`PartialSegTraining.losses.UNKNOWN_VOXEL` where
        nothing is known of an annotated channel, and :data:`PartialSegTraining.losses.UNKNOWN` throughout
        channels that the case does not annotate or the task does not have.
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
        Strengths, as in :class:`~PartialSegTraining.recipe.AugmentationRecipe`.
    seed : int
        Of the noise, and of everything that the list of another library draws.
    """

    matrix: np.ndarray
    noise: float = 0.0
    blur: float = 0.0
    low_resolution: float = 1.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    seed: int = 0
