"""How a window lies in a volume: magnified, turned and mirrored, all in one matrix.

Every axis of a matrix is (z, y, x), and it leads from an offset in the window to one in the volume:
anatomy that is to look larger is sampled in smaller strides. Called by
:mod:`PartialSegTraining.augmentation.augmenter`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from PartialSegTraining.recipe import AugmentationRecipe, Chance

#: Windows that are so many times as long as they are thick are turned in their plane only (nnU-Net).
_FLAT = 3.0


def draw_matrix(recipe: AugmentationRecipe, window: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw how a window of `window` voxels (z, y, x) lies in its volume, (3, 3)."""
    flips = np.where(rng.random(3) < recipe.mirror, -1.0, 1.0)
    stride, angles = _DRAWS[recipe.library](recipe, window, rng)
    return rotation_matrix(np.deg2rad(angles)) * flips * stride


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


def _own(
    recipe: AugmentationRecipe, window: tuple[int, int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return strides, (3,), and angles in degrees, (3,), as the recipe says."""
    stride = np.full(3, 1.0 / recipe.scale.draw(rng, 1.0))
    return stride, recipe.rotation.draw(rng, 0.0, 3)


def _nnunet(
    recipe: AugmentationRecipe, window: tuple[int, int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return strides and angles as nnU-Net v2 draws them (``nnUNetTrainer.get_training_transforms``).

    A rotation by up to 30 degrees about each axis, with a probability of 0.2, and a stride of 0.7 to
    1.4, the same along all axes, with another one of 0.2. In a flat window ("dummy 2D") both are of
    the plane only, and the rotation goes up to 180 degrees. No elastic deformation.
    """
    flat = max(window) / window[0] > _FLAT
    turned = Chance(0.2, (-180.0, 180.0) if flat else (-30.0, 30.0))
    stride = np.full(3, _or_given(recipe.scale, Chance(0.2, (0.7, 1.4)), rng))
    angles = (turned if recipe.rotation == Chance() else recipe.rotation).draw(rng, 0.0, 3)
    if flat:
        stride[0] = 1.0
        angles = np.array([angles[0], 0.0, 0.0])
    return stride, angles


def _dodnet(
    recipe: AugmentationRecipe, window: tuple[int, int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return strides and angles as DoDNet's released data set draws them: a stride of 0.7 to 1.4, p = 0.2."""
    stride = np.full(3, _or_given(recipe.scale, Chance(0.2, (0.7, 1.4)), rng))
    return stride, recipe.rotation.draw(rng, 0.0, 3)


def _or_given(scale: Chance, strides: Chance, rng: np.random.Generator) -> float:
    """Draw a stride from those of the library, or from the magnification that the recipe gives instead."""
    return float(strides.draw(rng, 1.0) if scale == Chance() else 1.0 / scale.draw(rng, 1.0))


_Draw = Callable[[AugmentationRecipe, tuple[int, int, int], np.random.Generator], tuple[np.ndarray, np.ndarray]]
_DRAWS: dict[str, _Draw] = {"own": _own, "nnunet": _nnunet, "dodnet": _dodnet}
