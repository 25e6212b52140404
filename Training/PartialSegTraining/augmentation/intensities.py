"""Changes of intensity for a whole batch at once, on the device where it lies.

Called by :mod:`PartialSegTraining.augmentation.augmenter` where a recipe names no other library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from PartialSegTraining.augmentation.contract import Change


def change_intensities(image: Tensor, changes: Sequence[Change], limits: tuple[float, float] | None) -> Tensor:
    """Blur, coarsen, re-scale and add noise; the result stays in the range that the network sees.

    Parameters
    ----------
    image : Tensor
        float32 (N, 1, D, H, W); may be changed in place.
    changes : sequence of Change
        One per window.
    limits : tuple of float, optional
        Lowest and highest intensity that the network ever sees; those of each window where images
        have no common unit.
    """
    if limits is None:
        lowest, highest = image.amin((1, 2, 3, 4), keepdim=True), image.amax((1, 2, 3, 4), keepdim=True)
    else:
        lowest, highest = (torch.full_like(image[:1, :1, :1, :1, :1], value) for value in limits)
    for index, change in enumerate(changes):
        if change.blur:
            image[index] = _blurred(image[index], change.blur)
        if change.low_resolution < 1.0:
            image[index] = _coarsened(image[index], change.low_resolution)
    names = ("brightness", "contrast", "gamma")
    columns = torch.tensor([[getattr(change, name) for name in names] for change in changes])
    columns = columns.to(image.device, non_blocking=True)[:, :, None, None, None, None]
    brightness, contrast, gamma = columns.unbind(1)
    mean = image.mean(dim=(1, 2, 3, 4), keepdim=True)
    image = (image - mean) * contrast + mean + brightness
    span = (highest - lowest).clamp(min=1e-6)
    image = ((image - lowest) / span).clamp(0.0, 1.0) ** gamma * span + lowest
    for index, change in enumerate(changes):
        if change.noise:
            image[index] += change.noise * _noise(image[index], change.seed)
    return image.clamp(lowest, highest)


def _noise(image: Tensor, seed: int) -> Tensor:
    """Return normal noise like `image`, from a stream of its own."""
    stream = torch.Generator(image.device).manual_seed(seed)
    return torch.randn(image.shape, generator=stream, device=image.device)


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
