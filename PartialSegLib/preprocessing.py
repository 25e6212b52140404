"""From an image to the network's grid and back.

The nearest axes of the image are permuted and flipped to the model's orientation, the image is
cropped to the body (and to a region of interest), resampled to the model's spacing and its
intensities are clipped and scaled, all by the rules of the model's card. :class:`NetworkGrid`
remembers where it lies, so that results come back on the image's own grid exactly; oblique and
sheared images stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.normalization import normalize_foreground
from PartialSegLib.preparation import OURS, Preprocessing, Resampling
from PartialSegLib.progress import Monitor
from PartialSegLib.resampling import (
    Taps,
    linear_taps,
    nearest_taps,
    new_size,
    resample_image,
    resample_mask,
    separate_axis,
)
from PartialSegLib.segmentation import Box, PackedMask, bounding_box

#: Region of interest in LPS millimetres: (x from, x to, y from, y to, z from, z to).
Region = tuple[float, float, float, float, float, float]

_LETTERS = ({"L": 1, "R": -1}, {"P": 1, "A": -1}, {"S": 1, "I": -1})


@dataclass(frozen=True)
class NetworkGrid:
    """Where the network's voxels lie in an image.

    Parameters
    ----------
    image : Geometry
        The image's own grid.
    axes : tuple of int
        Array axis of the image for each of the network's (z, y, x).
    flips : tuple of bool
        Whether the network's (z, y, x) run against the image's axis.
    crop : tuple of slice
        The part of the permuted and flipped image that the grid covers, (z, y, x).
    shape : tuple of int
        Voxels of the network's grid, (D, H, W).
    resampling : Resampling
        How images and masks come to the grid.
    separate_axis : int or None
        Axis of the network (0 = z) along which voxels take the nearest slice, there and back.
    """

    image: Geometry
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    crop: Box
    shape: tuple[int, int, int]
    resampling: Resampling = OURS
    separate_axis: int | None = None

    @property
    def crop_shape(self) -> tuple[int, int, int]:
        """Voxels of the crop on the image's own grid, (z, y, x) of the network."""
        z, y, x = (part.stop - part.start for part in self.crop)
        return z, y, x

    def orient(self, array: np.ndarray) -> np.ndarray:
        """Return the whole image array with the network's axis order and directions, as a view."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(self.axes)[steps]

    def restore(self, mask: PackedMask) -> PackedMask:
        """Move a mask from the permuted and flipped image back to the image's own axes."""
        if not mask.bits.size:
            return PackedMask.empty()
        if self.axes == (0, 1, 2):
            return self._flip_back(mask)
        start, array = list(mask.start), mask.unpack()
        sizes = [self.image.shape[axis] for axis in self.axes]
        for axis in range(3):
            if self.flips[axis]:
                start[axis] = sizes[axis] - start[axis] - array.shape[axis]
                array = np.flip(array, axis)
        back = np.argsort(self.axes)
        z, y, x = (start[axis] for axis in back)
        return PackedMask.from_array(array.transpose(back), (z, y, x))

    def _flip_back(self, mask: PackedMask) -> PackedMask:
        """Undo flips alone, a few planes at a time, so that a long mask is never unpacked whole."""
        if not any(self.flips):
            return mask
        depth, _, width = mask.shape
        start = [
            size - at - extent if flip else at
            for at, extent, size, flip in zip(mask.start, mask.shape, self.image.shape, self.flips, strict=True)
        ]
        source = np.flip(mask.bits, tuple(axis for axis in (0, 1) if self.flips[axis]))
        if not self.flips[2]:
            return PackedMask((start[0], start[1], start[2]), mask.shape, np.ascontiguousarray(source))
        bits = np.empty_like(mask.bits)
        for plane in range(0, depth, 16):
            rows = np.unpackbits(source[plane : plane + 16], axis=-1, count=width)
            bits[plane : plane + 16] = np.packbits(rows[:, :, ::-1], axis=-1)
        return PackedMask((start[0], start[1], start[2]), mask.shape, bits)

    def image_box(self, box: Box) -> Box:
        """Return a box of the oriented image (network axes) on the image's own axes."""
        parts = [
            slice(size - part.stop, size - part.start) if flip else part
            for part, flip, size in zip(box, self.flips, (self.image.shape[a] for a in self.axes), strict=True)
        ]
        z, y, x = (parts[axis] for axis in np.argsort(self.axes))
        return z, y, x

    def oriented_box(self, box: Box) -> Box:
        """Return a box of the image's own axes on the oriented image; undoes :meth:`image_box`."""
        z, y, x = (
            slice(self.image.shape[axis] - box[axis].stop, self.image.shape[axis] - box[axis].start)
            if flip
            else box[axis]
            for axis, flip in zip(self.axes, self.flips, strict=True)
        )
        return z, y, x

    def restore_array(self, array: np.ndarray, fill: float) -> np.ndarray:
        """Move values of the crop (network axes) to the whole image grid, `fill` elsewhere."""
        whole = np.full(self.image.shape, fill, array.dtype)
        self.orient(whole)[self.crop] = array
        return whole

    def taps(self, axis: int) -> Taps:
        """Return how the crop's voxels along `axis` (0 = z) are interpolated from the network's grid."""
        taps = nearest_taps if axis == self.separate_axis else linear_taps
        return taps(self.shape[axis], self.crop_shape[axis])

    def resample_mask(self, mask: np.ndarray) -> np.ndarray:
        """Bring a mask on the image's grid to the network's grid.

        Parameters
        ----------
        mask : numpy.ndarray
            Boolean (z, y, x) of the image.

        Returns
        -------
        numpy.ndarray
            Boolean (D, H, W): voxels that are at least half inside.
        """
        view = self.orient(mask)[self.crop]
        return (resample_mask(view, self.shape, self.resampling, self.separate_axis) >= 0.5).numpy()


@dataclass(frozen=True)
class Prepared:
    """The network's input and the grid it lies on.

    Parameters
    ----------
    volume : Tensor
        float32 (D, H, W), clipped and scaled or normalized.
    grid : NetworkGrid
        Its place in the image.
    """

    volume: Tensor
    grid: NetworkGrid


def prepare(
    image: Image,
    recipe: Preprocessing,
    *,
    spacing: Sequence[float] | None = None,
    crop: Box | None = None,
    monitor: Monitor | None = None,
) -> Prepared:
    """Bring an image to the network's grid.

    Parameters
    ----------
    image : Image
        Any orientation and spacing.
    recipe : Preprocessing
        From the model's card.
    spacing : sequence of float, optional
        (x, y, z) millimetres in place of ``recipe.spacing``.
    crop : tuple of slice, optional
        Part of the oriented image to use, from :func:`find_crop`; found anew when ``None``.
    monitor : Monitor, optional
        Told about every few planes.

    Raises
    ------
    CancelledError
        When the monitor was cancelled.
    """
    crop = find_crop(image, recipe) if crop is None else crop
    grid = make_grid(image.geometry, recipe, spacing or recipe.spacing, crop)
    low, high = recipe.intensity_range
    view = grid.orient(image.voxels)[grid.crop]
    first = recipe.resampling.clip == "before"
    done, total = 0, view.shape[grid.separate_axis or 0]

    def begin(planes: Tensor) -> Tensor:
        nonlocal done
        if monitor is not None:
            monitor.step("prepare", done, total)
        done += len(planes)
        return planes.clamp_(low, high) if first else planes

    volume = resample_image(view, grid.shape, recipe.resampling, grid.separate_axis, begin)
    if recipe.resampling.integers:
        volume.round_()
    if not first:
        volume.clamp_(low, high)
    return Prepared(_normalize(volume, view, recipe), grid)


def _normalize(volume: Tensor, view: np.ndarray, recipe: Preprocessing) -> Tensor:
    """Shift and scale a clipped volume in place; `view` is the image that it was resampled from."""
    if recipe.normalization == "foreground":
        return torch.from_numpy(normalize_foreground(volume.numpy())).float()
    shift, scale = recipe.intensity_shift, recipe.intensity_scale
    if recipe.normalization == "image":
        measured = view if recipe.resampling.clip == "before" else volume.numpy()
        shift, scale = _mean_and_deviation(measured, recipe.intensity_range)
    return volume.sub_(shift).div_(scale)


def _mean_and_deviation(voxels: np.ndarray, limits: tuple[float, float]) -> tuple[float, float]:
    """Measure clipped intensities, plane by plane; a flat image has a deviation of 1e-8, as in nnU-Net."""
    total, squares = 0.0, 0.0
    middle = float(np.clip(voxels[:1], *limits).mean())
    for plane in voxels:
        # Around a typical intensity, so that large intensities leave the squares their digits.
        values = np.clip(plane.astype(np.float64), *limits) - middle
        total += float(values.sum())
        squares += float(np.square(values).sum())
    mean = total / voxels.size
    return middle + mean, max(max(squares / voxels.size - mean**2, 0.0) ** 0.5, 1e-8)


def padding_value(recipe: Preprocessing) -> float:
    """Return what stands beyond the border of an image that is smaller than a window, scaled."""
    return lowest_value(recipe) if recipe.padding_value is None else recipe.padding_value


def lowest_value(recipe: Preprocessing) -> float:
    """Return the lowest intensity (air), scaled."""
    return (recipe.intensity_range[0] - recipe.intensity_shift) / recipe.intensity_scale


def intensity_limits(recipe: Preprocessing) -> tuple[float, float] | None:
    """Return the lowest and highest value of the network's input, or ``None`` where every image has its own."""
    if recipe.normalization != "fixed":
        return None
    first, second = ((value - recipe.intensity_shift) / recipe.intensity_scale for value in recipe.intensity_range)
    return min(first, second), max(first, second)


def make_grid(geometry: Geometry, recipe: Preprocessing, spacing: Sequence[float], crop: Box) -> NetworkGrid:
    """Return the network grid of `spacing` (x, y, z) over a crop of the oriented image."""
    axes, flips = orientation(geometry, recipe.orientation)
    rule, wanted = recipe.resampling, tuple(reversed(spacing))
    own = [geometry.spacing[2 - axis] for axis in axes]
    z, y, x = (
        new_size(part.stop - part.start, step, goal, rule) for part, step, goal in zip(crop, own, wanted, strict=True)
    )
    return NetworkGrid(geometry, axes, flips, crop, (z, y, x), rule, separate_axis(own, wanted, rule))


def orientation(geometry: Geometry, letters: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Find the image axes nearest to a wanted orientation.

    Parameters
    ----------
    geometry : Geometry
        Of the image.
    letters : str
        Directions in which the network's x, y and z grow (``LPS``), or a permutation of ``xyz``: the
        image's own axes, whatever their directions.

    Returns
    -------
    axes, flips
        For the network's (z, y, x): array axis of the image, and whether it runs against it.

    Raises
    ------
    ImageError
        When `letters` does not name three different axes.
    """
    if sorted(letters) == ["x", "y", "z"]:
        x, y, z = (2 - "xyz".index(letter) for letter in letters)
        return (z, y, x), (False, False, False)
    wanted = np.zeros((3, 3))
    for column, letter in enumerate(letters):
        for row, signs in enumerate(_LETTERS):
            if letter in signs:
                wanted[row, column] = signs[letter]
    if len(letters) != 3 or abs(np.linalg.det(wanted)) != 1:
        raise ImageError(
            f"'{letters}' is no orientation.", "It takes one of L/R, one of P/A and one of S/I; or x, y and z."
        )
    cosines = wanted.T @ geometry.axes
    # The assignment with the largest sum of cosines, so that every image axis is used once.
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    best = max(orders, key=lambda order: sum(abs(cosines[row, column]) for row, column in enumerate(order)))
    i, j, k = best
    flip = [bool(cosines[row, column] < 0) for row, column in enumerate(best)]
    return (2 - k, 2 - j, 2 - i), (flip[2], flip[1], flip[0])


def find_crop(image: Image, recipe: Preprocessing, *, margin: float = 10.0) -> Box:
    """Find the part of the oriented image that holds the body, or everything but zeros, as the recipe says.

    For the body, the image is thresholded on a grid of about 4 mm, and the box of the largest connected region
    is taken; lungs and bowel gas lie inside that box. Without a threshold or a body, this is
    the whole image. The crop to nonzero voxels is exact, without a margin.

    Parameters
    ----------
    margin : float
        Millimetres around the body.

    Returns
    -------
    tuple of slice
        (z, y, x) in the orientation of the recipe.
    """
    axes, flips = orientation(image.geometry, recipe.orientation)
    view = NetworkGrid(image.geometry, axes, flips, _whole((0, 0, 0)), (1, 1, 1)).orient(image.voxels)
    whole = _whole(view.shape)
    if recipe.crop_to_nonzero:
        return bounding_box(view != 0) or whole
    if recipe.body_threshold is None:
        return whole
    spacing = [image.geometry.spacing[2 - axis] for axis in axes]
    strides = [max(1, round(4.0 / step)) for step in spacing]
    coarse = view[tuple(slice(None, None, stride) for stride in strides)] > recipe.body_threshold
    labels, count = ndimage.label(coarse)
    if not count:
        return whole
    body = bounding_box(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    return whole if body is None else _expand(body, strides, spacing, margin, view.shape)


def region_crop(geometry: Geometry, recipe: Preprocessing, region: Region) -> Box:
    """Return the box of the oriented image that holds a region of interest.

    Raises
    ------
    ImageError
        When the region is empty or lies outside the image.
    """
    low, high = np.asarray(region[::2], float), np.asarray(region[1::2], float)
    if not np.all(low < high):
        raise ImageError(f"The region {region} is empty.", "Give x0,x1,y0,y1,z0,z1 in LPS millimetres with x0 < x1.")
    corners = np.array(
        [[x, y, z, 1.0] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    indices = (np.linalg.inv(geometry.affine) @ corners.T)[:3]
    axes, flips = orientation(geometry, recipe.orientation)
    box = []
    for axis, flip in zip(axes, flips, strict=True):
        size = geometry.shape[axis]
        first, last = np.floor(indices[2 - axis].min() + 0.5), np.ceil(indices[2 - axis].max() + 0.5)
        start, stop = int(np.clip(first, 0, size)), int(np.clip(last, 0, size))
        box.append(slice(size - stop, size - start) if flip else slice(start, stop))
    if any(part.start >= part.stop for part in box):
        raise ImageError(f"The region {region} lies outside the image.", "Check that it is given in LPS millimetres.")
    return box[0], box[1], box[2]


def widen(box: Box, geometry: Geometry, recipe: Preprocessing, margin: float) -> Box:
    """Grow a box of the oriented image by `margin` millimetres on every side, within the image."""
    axes, _ = orientation(geometry, recipe.orientation)
    spacing = [geometry.spacing[2 - axis] for axis in axes]
    return _expand(box, [1, 1, 1], spacing, margin, [geometry.shape[axis] for axis in axes])


def intersect(box: Box, other: Box) -> Box:
    """Return what two boxes share; parts are empty, never negative, where they do not meet."""
    z, y, x = (
        slice(low := max(a.start, b.start), max(low, min(a.stop, b.stop))) for a, b in zip(box, other, strict=True)
    )
    return z, y, x


def _expand(body: Box, strides: list[int], spacing: list[float], margin: float, shape: Sequence[int]) -> Box:
    """Bring a box of the subsampled image to full resolution and add the margin."""
    box = []
    for part, stride, step, size in zip(body, strides, spacing, shape, strict=True):
        extra = round(margin / step)
        box.append(slice(max(0, part.start * stride - extra), min(size, part.stop * stride + extra)))
    return box[0], box[1], box[2]


def _whole(shape: Sequence[int]) -> Box:
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
