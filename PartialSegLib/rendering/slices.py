"""Axial, coronal and sagittal views: where to cut, and what a radiologist sees there.

:class:`Views` turns image and masks to the nearest LPS axes once, finds the most informative cut
and draws it as an RGB array. It draws no text; the layout (``rendering/__init__.py``) adds that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from PartialSegLib.images import Image
from PartialSegLib.preprocessing import orientation
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.structures import Structure

#: Axis of the oriented array that each view cuts: (z, y, x) of LPS.
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}

#: Opacity of the fill, by kind of structure; outlines are always opaque.
_FILL = {"organ": 0.34, "vessel": 0.55, "finding": 0.5}
_ORDER = {"organ": 0, "vessel": 1, "finding": 2}

#: SNOMED-CT types that are drawn on top of organs although they are no findings.
_VESSELS = {"8993003", "32764006", "15825003", "64131007"}

#: Masks and image are drawn larger by this factor and averaged down.
_OVERSAMPLING = 2


def kind(structure: Structure) -> str:
    """Return ``finding`` (tumor, cyst), ``vessel`` or ``organ``: how a structure is drawn.

    Vessels are known by their SNOMED-CT type.
    """
    if structure.is_finding:
        return "finding"
    return "vessel" if structure.type.value in _VESSELS else "organ"


@dataclass(frozen=True)
class OrientedMask:
    """A mask turned to LPS axes and cropped to its box.

    Parameters
    ----------
    structure : Structure
        What it shows.
    start : tuple of int
        First voxel of the box in the oriented grid, (z, y, x).
    voxels : numpy.ndarray
        bool (z, y, x) of the box.
    """

    structure: Structure
    start: tuple[int, ...]
    voxels: np.ndarray

    def profile(self, axis: int, length: int) -> np.ndarray:
        """Return the voxels in each plane across `axis`, (length,) int."""
        counts = np.zeros(length, np.int64)
        others = tuple(other for other in range(3) if other != axis)
        counts[self.start[axis] : self.start[axis] + self.voxels.shape[axis]] = self.voxels.sum(axis=others)
        return counts

    def plane(self, axis: int, index: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the mask in one plane of the whole grid as a 2D bool array, or ``None`` where it is empty."""
        local = index - self.start[axis]
        if not 0 <= local < self.voxels.shape[axis]:
            return None
        part = self.voxels.take(local, axis)
        if not part.any():
            return None
        rows, columns = (other for other in range(3) if other != axis)
        whole = np.zeros((shape[rows], shape[columns]), bool)
        top, left = self.start[rows], self.start[columns]
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        return whole


@dataclass(frozen=True)
class Cut:
    """Where a view cuts the image, and the part of the plane that is worth showing.

    Parameters
    ----------
    plane : str
        ``axial``, ``coronal`` or ``sagittal``.
    index : int
        Plane of the oriented array.
    rows, columns : slice
        Part of the plane with the body, in voxels.
    spacing : tuple of float
        Millimetres a row and a column.
    """

    plane: str
    index: int
    rows: slice
    columns: slice
    spacing: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the part that is shown, in millimetres."""
        return (
            (self.rows.stop - self.rows.start) * self.spacing[0],
            (self.columns.stop - self.columns.start) * self.spacing[1],
        )


class Views:
    """An image and its masks along the nearest patient axes.

    Rows of an axial view run from anterior to posterior, those of a coronal and sagittal view from
    superior to inferior; columns run from the patient's right to the left (radiological convention),
    those of a sagittal view from anterior to posterior.

    Parameters
    ----------
    image : Image
        Any orientation; an oblique image is shown along its own axes.
    segmentation : Segmentation
        On the same grid.
    window : tuple of float
        Intensities shown as black and white.
    """

    def __init__(self, image: Image, segmentation: Segmentation, window: tuple[float, float]) -> None:
        self.axes, self.flips = orientation(image.geometry, "LPS")
        self.voxels = self._orient(image.voxels)
        self.spacing = tuple(image.geometry.spacing[2 - axis] for axis in self.axes)
        self.window = window
        self._affine = image.geometry.affine
        self._segmentation = segmentation

    @cached_property
    def masks(self) -> tuple[OrientedMask, ...]:
        """Masks with voxels: organs first, findings last."""
        found = []
        for structure in self._segmentation.structures:
            mask = self._segmentation.masks[structure.key]
            if mask.count:
                start = [
                    size - at - extent if flip else at
                    for at, extent, size, flip in zip(
                        (mask.start[axis] for axis in self.axes),
                        (mask.shape[axis] for axis in self.axes),
                        self.voxels.shape,
                        self.flips,
                        strict=True,
                    )
                ]
                found.append(OrientedMask(structure, tuple(start), self._orient(mask.unpack())))
        return tuple(sorted(found, key=lambda mask: _ORDER[kind(mask.structure)]))

    def cut(self, plane: str) -> Cut:
        """Choose the plane that shows most: a structure counts by the share of its largest area, a finding twice."""
        axis = PLANES[plane]
        length = self.voxels.shape[axis]
        score = np.zeros(length)
        for mask in self.masks:
            profile = mask.profile(axis, length)
            score += profile / profile.max() * (2 if kind(mask.structure) == "finding" else 1)
        index = int(score.argmax()) if score.any() else length // 2
        rows, columns = self._body(axis, index)
        spacing = tuple(step for other, step in enumerate(self.spacing) if other != axis)
        return Cut(plane, index, rows, columns, (spacing[0], spacing[1]))

    def position(self, cut: Cut) -> float:
        """Return the LPS coordinate of the plane's middle along its normal, in millimetres."""
        axis = PLANES[cut.plane]
        middle = [(n - 1) / 2 for n in self.voxels.shape]
        middle[axis] = cut.index
        index = np.zeros(3)
        for at, size, own, flip in zip(middle, self.voxels.shape, self.axes, self.flips, strict=True):
            index[2 - own] = size - 1 - at if flip else at
        return float((self._affine @ [*index, 1.0])[2 - axis])

    def draw(self, cut: Cut, height: int, width: int, scale: float) -> np.ndarray:
        """Draw a view.

        Parameters
        ----------
        cut : Cut
            From :meth:`cut`.
        height, width : int
            Pixels of the picture.
        scale : float
            Pixels a millimetre, the same along rows and columns.

        Returns
        -------
        numpy.ndarray
            float32 (height, width, 3) in 0 to 1, black beyond the image.
        """
        axis = PLANES[cut.plane]
        points = _sample_points(cut, height * _OVERSAMPLING, width * _OVERSAMPLING, scale * _OVERSAMPLING)
        low, high = self.window
        plane = np.clip((self.voxels.take(cut.index, axis).astype(np.float32) - low) / (high - low), 0, 1)
        gray = ndimage.map_coordinates(plane, points, order=3, mode="constant", cval=0.0, output=np.float32)
        picture = np.repeat(np.clip(gray, 0, 1)[..., None], 3, axis=2)
        for mask in self.masks:
            shape = mask.plane(axis, cut.index, self.voxels.shape)
            if shape is not None:
                _overlay(picture, shape, points, mask.structure)
        cells = picture.reshape(height, _OVERSAMPLING, width, _OVERSAMPLING, 3)
        return cells.mean(axis=(1, 3))

    def _orient(self, array: np.ndarray) -> np.ndarray:
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(self.axes)[steps]

    def _body(self, axis: int, index: int) -> tuple[slice, slice]:
        """Return the rows and columns of a plane that hold the body and the structures, with a margin."""
        plane = self.voxels.take(index, axis)
        low, high = self.window
        inside = plane > low - (high - low)
        for mask in self.masks:
            shape = mask.plane(axis, index, self.voxels.shape)
            inside = inside if shape is None else inside | shape
        spacing = [step for other, step in enumerate(self.spacing) if other != axis]
        parts = []
        for other, (length, step) in enumerate(zip(plane.shape, spacing, strict=True)):
            # A line of voxels needs some width of tissue, so that noise and the table do not count.
            lines = np.flatnonzero(inside.sum(axis=1 - other) * spacing[1 - other] > 40.0)
            margin = round(8.0 / step)
            first, last = (int(lines[0]), int(lines[-1])) if lines.size else (0, length - 1)
            parts.append(slice(max(0, first - margin), min(length, last + 1 + margin)))
        return parts[0], parts[1]


def _sample_points(cut: Cut, height: int, width: int, scale: float) -> np.ndarray:
    """Return the (2, height, width) voxel position of every pixel, the shown part in the middle."""
    row, column = ((part.start + part.stop - 1) / 2 for part in (cut.rows, cut.columns))
    down = (np.arange(height) + 0.5 - height / 2) / scale / cut.spacing[0]
    right = (np.arange(width) + 0.5 - width / 2) / scale / cut.spacing[1]
    # Superior is on top, but z grows towards it.
    rows = row + down if cut.plane == "axial" else row - down
    return np.stack(np.meshgrid(rows, column + right, indexing="ij")).astype(np.float32)


def _overlay(picture: np.ndarray, shape: np.ndarray, points: np.ndarray, structure: Structure) -> None:
    """Lay one structure over the oversampled picture: translucent fill, then an outline inside its edge."""
    soft = ndimage.gaussian_filter(shape.astype(np.float32), 0.5)
    inside = ndimage.map_coordinates(soft, points, order=1, mode="constant", cval=0.0) >= 0.5
    box = ndimage.find_objects(inside.astype(np.uint8))
    if not box:
        return
    part = picture[box[0]]
    inside = inside[box[0]]
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    line = 0.0016 * _OVERSAMPLING * picture.shape[0]
    opacity = np.where(depth <= max(line, 1.25 * _OVERSAMPLING), 1.0, _FILL[kind(structure)]) * inside
    color = np.asarray(structure.color, np.float32) / 255
    part += opacity[..., None].astype(np.float32) * (color - part)
