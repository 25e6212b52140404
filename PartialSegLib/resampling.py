"""How one axis of an image becomes another: the operators of resampling, ours and the published ones.

Resampling is separable: an image is multiplied by one matrix per axis, a few planes at a time. The
matrices of published code are those of its own calls on impulses, so that they are right to the last
digit at the border too. Grids are aligned as in nnU-Net and scikit-image: both cover the same extent,
so voxel ``i`` of ``m`` lies at ``(i + 0.5) * n / m - 0.5`` of ``n``. Called by
:mod:`PartialSegLib.preprocessing`, and by the exporter for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from PartialSegLib.preparation import Resampling

Shape = tuple[int, int, int]

#: What SciPy calls the borders of a cubic image.
_BORDERS = {"edge": "nearest", "mirror": "mirror", "zero": "grid-constant"}
#: Voxels of an image that are resampled at once.
_VOXELS = 1 << 22


class Taps(NamedTuple):
    """Linear interpolation along one axis: ``(1 - fraction) * values[lower] + fraction * values[upper]``."""

    lower: np.ndarray
    upper: np.ndarray
    fraction: np.ndarray


def linear_taps(n: int, m: int) -> Taps:
    """Return how `m` voxels are interpolated linearly between `n`, with the outermost ones beyond the border."""
    position = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    lower = np.minimum(position.astype(np.int64), max(n - 2, 0))
    return Taps(lower, np.minimum(lower + 1, n - 1), (position - lower).astype(np.float32))


def nearest_taps(n: int, m: int) -> Taps:
    """Return which of `n` voxels is nearest to each of `m`; of two, the later one, as in nnU-Net."""
    position = n / m * (np.arange(m) + 0.5) - 0.5
    nearest = np.clip(np.floor(position + 0.5).astype(np.int64), 0, n - 1)
    return Taps(nearest, nearest, np.zeros(m, np.float32))


def new_size(size: int, spacing: float, wanted: float, rule: Resampling) -> int:
    """Return the voxels of an axis of `size` voxels of `spacing`, once they are as large as `wanted`."""
    if rule.size == "down":
        return max(1, int(size * spacing / wanted))
    # In the published order of operations, which decides where a fraction of one half is not exact.
    voxels = spacing / wanted * size if rule.interpolation == "cubic" else size * spacing / wanted
    return max(1, round(voxels))


def separate_axis(spacing: Sequence[float], wanted: Sequence[float], rule: Resampling) -> int | None:
    """Return the axis that takes its nearest slice (:attr:`Resampling.separate_axis_above`), if any.

    Parameters
    ----------
    spacing, wanted : sequence of float
        Of the image and of the network's grid, along the same axes.
    """
    if rule.separate_axis_above is None:
        return None
    for steps in (spacing, wanted):
        if max(steps) / min(steps) > rule.separate_axis_above:
            coarsest = [axis for axis, step in enumerate(steps) if step == max(steps)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample_image(
    view: np.ndarray,
    shape: Shape,
    rule: Resampling,
    separate: int | None = None,
    prepare_planes: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Resample an image by the rule of a model.

    Only the in-plane resampled volume is ever held in floating point at full slice count.

    Parameters
    ----------
    view : numpy.ndarray
        (z, y, x), any real dtype.
    shape : tuple of int
        Wanted voxels, (D, H, W).
    rule : Resampling
        Its interpolation; rounding to integers and clipping are the caller's.
    separate : int, optional
        Axis that takes its nearest slice, from :func:`separate_axis`.
    prepare_planes : callable, optional
        Changes some planes, float32 (n, y, x), before they are resampled; it may work in place.

    Returns
    -------
    Tensor
        float32 (D, H, W).
    """
    if separate:
        # Its planes are images of their own: they come first.
        y, x = (size for axis, size in enumerate(shape) if axis != separate)
        moved = resample_image(np.moveaxis(view, separate, 0), (shape[separate], y, x), rule, 0, prepare_planes)
        return moved.movedim(0, separate).contiguous()
    operators = [_operator(n, m, rule) for n, m in zip(view.shape, shape, strict=True)]
    if separate == 0:
        operators[0] = _matrix(nearest_taps(view.shape[0], shape[0]), view.shape[0])
    limits = _Limits(by_plane=separate == 0) if rule.interpolation == "cubic" else None
    return _apply(view, operators, prepare_planes, limits)


def resample_mask(view: np.ndarray, shape: Shape, rule: Resampling, separate: int | None = None) -> Tensor:
    """Return how much of each voxel of the new grid lies inside a mask; from one half on, it does.

    Parameters
    ----------
    view : numpy.ndarray
        Boolean (z, y, x).
    shape, rule, separate
        As for :func:`resample_image`. With cubic interpolation of images, masks are interpolated
        linearly without averaging, as in nnU-Net (``order_seg`` 1).

    Returns
    -------
    Tensor
        float32 (D, H, W), 0 to 1.
    """
    if rule.interpolation == "linear":
        return resample_image(view, shape, rule)
    operators = []
    for axis, (n, m) in enumerate(zip(view.shape, shape, strict=True)):
        operators.append(_matrix(nearest_taps(n, m) if axis == separate else linear_taps(n, m), n))
    return _apply(view, operators)


class _Limits:
    """The range of an image, to which a spline that overshoots is clipped as scikit-image does.

    Parameters
    ----------
    by_plane : bool
        Each plane is an image of its own.
    """

    def __init__(self, *, by_plane: bool) -> None:
        self._by_plane = by_plane
        self._low, self._high = float("inf"), float("-inf")

    def clip_planes(self, resampled: Tensor, planes: Tensor) -> Tensor:
        """Remember the range of `planes`, and clip what became of them where each is an image."""
        low, high = planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True)
        self._low, self._high = min(self._low, float(low.min())), max(self._high, float(high.max()))
        return torch.clamp(resampled, low, high) if self._by_plane else resampled

    def clip(self, volume: Tensor) -> Tensor:
        """Clip in place to the range of all planes."""
        return volume.clamp_(self._low, self._high)


def _apply(
    view: np.ndarray,
    operators: Sequence[Tensor],
    prepare_planes: Callable[[Tensor], Tensor] | None = None,
    limits: _Limits | None = None,
) -> Tensor:
    """Multiply each axis of a (z, y, x) array by its operator, a few planes at a time."""
    along_z, rows, columns = operators[0], operators[1], operators[2].T.contiguous()
    halfway = torch.empty((view.shape[0], rows.shape[0], columns.shape[1]))
    step = max(1, _VOXELS // max(1, view.shape[1] * view.shape[2]))
    for start in range(0, view.shape[0], step):
        planes = torch.from_numpy(np.ascontiguousarray(view[start : start + step], dtype=np.float32))
        planes = planes if prepare_planes is None else prepare_planes(planes)
        resampled = torch.matmul(rows, torch.matmul(planes, columns))
        halfway[start : start + step] = resampled if limits is None else limits.clip_planes(resampled, planes)
    same = along_z.shape[0] == along_z.shape[1]
    volume = halfway if same else (along_z @ halfway.flatten(1)).reshape(-1, *halfway.shape[1:])
    return volume if limits is None else limits.clip(volume)


def _operator(n: int, m: int, rule: Resampling) -> Tensor:
    return _averaging_operator(n, m) if rule.interpolation == "linear" else _cubic_operator(n, m, rule)


def _averaging_operator(n: int, m: int) -> Tensor:
    """Return the (m, n) matrix that resamples an axis linearly, averaging where it shrinks.

    The triangle of linear interpolation is widened by the shrink factor, so that noise is averaged
    and nothing between two samples is lost.
    """
    centers = (torch.arange(m, dtype=torch.float64) + 0.5) * n / m - 0.5
    width = max(1.0, n / m)
    distance = (torch.arange(n, dtype=torch.float64)[None] - centers.clamp(0, n - 1)[:, None]).abs()
    weights = (1.0 - distance / width).clamp_(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


def _cubic_operator(n: int, m: int, rule: Resampling) -> Tensor:
    """Return the (m, n) matrix of ``skimage.transform.resize`` of order 3 along one axis.

    Its columns are the answers to impulses: those of :func:`scipy.ndimage.zoom`, which scikit-image
    calls for all axes together, after the Gaussian of its anti-aliasing.
    """
    if n == m:
        return torch.eye(n)
    border = _BORDERS[rule.border]
    columns = []
    for impulse in np.eye(n):
        if rule.anti_aliasing and n > m:
            impulse = ndimage.gaussian_filter1d(impulse, (n / m - 1) / 2, mode=border)
        columns.append(ndimage.zoom(impulse, m / n, order=3, mode=border, grid_mode=True))
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def _matrix(taps: Taps, n: int) -> Tensor:
    """Return the (m, n) matrix of taps."""
    rows = np.arange(len(taps.lower))
    weights = np.zeros((len(rows), n), np.float32)
    weights[rows, taps.upper] = taps.fraction
    weights[rows, taps.lower] += 1 - taps.fraction
    return torch.from_numpy(weights)
