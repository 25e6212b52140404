"""Overlapping masks on the grid of one image, one bit a voxel.

Every structure has its own mask, cropped to the box of its voxels and packed to bits, so that a
whole-body scan with dozens of structures stays small and nothing ever overwrites a neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.structures import Structure

Box = tuple[slice, slice, slice]

#: Slices unpacked together when two masks are compared: a few megabytes of a large scan.
_PLANES_AT_ONCE = 16


@dataclass(frozen=True)
class PackedMask:
    """One binary mask, cropped to its bounding box and packed along x.

    Parameters
    ----------
    start : tuple of int
        First voxel of the box, (z, y, x).
    shape : tuple of int
        Voxels of the box, (z, y, x); all zero for an empty mask.
    bits : numpy.ndarray
        uint8 (z, y, ceil(x / 8)), as :func:`numpy.packbits` along the last axis makes it.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    bits: np.ndarray

    @classmethod
    def empty(cls) -> PackedMask:
        """Return a mask without voxels."""
        return cls((0, 0, 0), (0, 0, 0), np.zeros((0, 0, 0), np.uint8))

    @classmethod
    def from_array(cls, array: np.ndarray, offset: tuple[int, int, int] = (0, 0, 0)) -> PackedMask:
        """Crop a (z, y, x) boolean array to its voxels and pack it.

        Parameters
        ----------
        array : numpy.ndarray
            (z, y, x); non-zero is inside.
        offset : tuple of int
            Where the array lies in the grid, (z, y, x).
        """
        mask = np.asarray(array) != 0
        box = bounding_box(mask)
        if box is None:
            return cls.empty()
        crop = mask[box]
        z, y, x = (part.start + at for part, at in zip(box, offset, strict=True))
        return cls((z, y, x), crop.shape, np.packbits(crop, axis=-1))

    @property
    def box(self) -> Box:
        """Slices of the box in the whole grid."""
        z, y, x = (slice(at, at + n) for at, n in zip(self.start, self.shape, strict=True))
        return z, y, x

    @property
    def count(self) -> int:
        """Number of voxels inside."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    def unpack(self) -> np.ndarray:
        """Return the (z, y, x) boolean array of the box."""
        if not self.bits.size:
            return np.zeros(self.shape, bool)
        return np.unpackbits(self.bits, axis=-1, count=self.shape[2]).view(bool)

    def without(self, other: PackedMask) -> PackedMask:
        """Return the voxels that are not in another mask on the same grid."""
        if not self.overlaps(other):
            return self
        array = self.unpack()
        low = np.maximum(self.start, other.start)
        high = np.minimum(np.add(self.start, self.shape), np.add(other.start, other.shape))
        mine, theirs = (
            tuple(slice(int(a - at), int(b - at)) for a, b, at in zip(low, high, item.start, strict=True))
            for item in (self, other)
        )
        array[mine] &= ~other.unpack()[theirs]
        return PackedMask.from_array(array, self.start)

    @classmethod
    def stacked(cls, parts: Sequence[PackedMask]) -> PackedMask:
        """Join masks that follow one another along z without sharing a slice."""
        filled = [part for part in parts if part.bits.size]
        if len(filled) < 2:
            return filled[0] if filled else cls.empty()
        low = np.min([part.start for part in filled], axis=0)
        high = np.max([np.add(part.start, part.shape) for part in filled], axis=0)
        depth, height, width = (int(size) for size in high - low)
        bits = np.zeros((depth, height, (width + 7) // 8), np.uint8)
        for part in filled:
            z, y, x = (slice(a - at, a - at + n) for a, n, at in zip(part.start, part.shape, low, strict=True))
            whole = np.zeros((part.shape[0], part.shape[1], width), bool)
            whole[..., x] = part.unpack()
            bits[z, y] = np.packbits(whole, axis=-1)
        start = (int(low[0]), int(low[1]), int(low[2]))
        return cls(start, (depth, height, width), bits)

    def planes(self, start: int, stop: int) -> PackedMask:
        """Return the part in the slices `start` to `stop` of the grid, sharing memory.

        Its box is the box of this mask, cut along z; it need not be the smallest.
        """
        first = max(start - self.start[0], 0)
        last = min(stop - self.start[0], self.shape[0])
        if first >= last:
            return PackedMask.empty()
        z, y, x = self.start
        return PackedMask((z + first, y, x), (last - first, *self.shape[1:]), self.bits[first:last])

    def moved(self, offset: tuple[int, int, int]) -> PackedMask:
        """Return the mask `offset` voxels (z, y, x) further along the axes, sharing memory."""
        if not self.bits.size:
            return self
        z, y, x = (at + by for at, by in zip(self.start, offset, strict=True))
        return PackedMask((z, y, x), self.shape, self.bits)

    def overlaps(self, other: PackedMask) -> bool:
        """Whether a voxel of the grid lies in both masks."""
        low = np.maximum(self.start, other.start)
        high = np.minimum(np.add(self.start, self.shape), np.add(other.start, other.shape))
        if np.any(low >= high):
            return False
        for first in range(int(low[0]), int(high[0]), _PLANES_AT_ONCE):
            last = min(first + _PLANES_AT_ONCE, int(high[0]))
            mine, theirs = (mask._window((first, *low[1:]), (last, *high[1:])) for mask in (self, other))
            if np.any(mine & theirs):
                return True
        return False

    def _window(self, low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
        """Unpack the voxels `low` to `high` of the grid, which must lie in the box."""
        z, y, x = (slice(a - at, b - at) for a, b, at in zip(low, high, self.start, strict=True))
        # Only the bytes that hold the wanted columns are unpacked.
        byte = x.start // 8
        bits = np.unpackbits(self.bits[z, y, byte : (x.stop + 7) // 8], axis=-1)
        return bits[..., x.start - 8 * byte : x.stop - 8 * byte]


@dataclass
class Segmentation:
    """Masks of any number of overlapping structures on one grid.

    Parameters
    ----------
    geometry : Geometry
        The grid, the image's own.
    structures : tuple of Structure
        What the masks show, in the order in which they are written.
    masks : dict of str to PackedMask
        One per structure key; a structure without an entry is empty.
    algorithm : str
        Name of what made the masks, for DICOM (``DICOM.SegmentAlgorithmName``); empty for a
        manual segmentation.
    """

    geometry: Geometry
    structures: tuple[Structure, ...]
    masks: dict[str, PackedMask] = field(default_factory=dict)
    algorithm: str = ""

    def __post_init__(self) -> None:
        keys = [structure.key for structure in self.structures]
        if len(set(keys)) != len(keys):
            raise SegmentationError(f"A segmentation has one mask per structure, but got {', '.join(keys)}.")
        unknown = sorted(set(self.masks) - set(keys))
        if unknown:
            raise SegmentationError(f"Masks without a structure: {', '.join(unknown)}.")
        for key in keys:
            mask = self.masks.setdefault(key, PackedMask.empty())
            if any(part.stop > n for part, n in zip(mask.box, self.geometry.shape, strict=True)):
                raise SegmentationError(f"The mask of '{key}' reaches outside the grid {self.geometry.shape}.")

    @classmethod
    def from_arrays(
        cls, geometry: Geometry, structures: Iterable[Structure], arrays: Mapping[str, np.ndarray], algorithm: str = ""
    ) -> Segmentation:
        """Pack whole-grid (z, y, x) arrays, one per structure key.

        Raises
        ------
        SegmentationError
            When an array has another shape than the grid, or no structure.
        """
        for key, array in arrays.items():
            if array.shape != geometry.shape:
                raise SegmentationError(f"The mask of '{key}' is {array.shape}, but the grid is {geometry.shape}.")
        packed = {key: PackedMask.from_array(array) for key, array in arrays.items()}
        return cls(geometry, tuple(structures), packed, algorithm)

    @property
    def keys(self) -> tuple[str, ...]:
        """Structure keys in order."""
        return tuple(structure.key for structure in self.structures)

    def array(self, key: str) -> np.ndarray:
        """Return the whole-grid (z, y, x) boolean mask of one structure."""
        whole = np.zeros(self.geometry.shape, bool)
        mask = self._mask(key)
        whole[mask.box] = mask.unpack()
        return whole

    def without(self, other: PackedMask) -> Segmentation:
        """Return the same structures without the voxels of a mask on this grid."""
        masks = {key: mask.without(other) for key, mask in self.masks.items()}
        return Segmentation(self.geometry, self.structures, masks, self.algorithm)

    def on(self, geometry: Geometry) -> Segmentation:
        """Return the same masks on another grid whose voxels coincide with those of this one.

        A file often holds only the part of the grid that has masks; this puts it back.

        Parameters
        ----------
        geometry : Geometry
            A larger or smaller grid on the same lattice: equal axes and spacing, shifted by whole
            voxels. The result has exactly this geometry.

        Raises
        ------
        SegmentationError
            When the voxels do not coincide, or a mask reaches outside `geometry`.
        """
        offset = lattice_offset(self.geometry, geometry)
        if offset is None:
            raise SegmentationError(
                f"The segmentation lies on a grid of {self.geometry.shape} voxels (z, y, x) with spacing "
                f"{self.geometry.spacing}, which does not coincide with the image's {geometry.shape} "
                f"with spacing {geometry.spacing}.",
                "Choose the image on which it was made.",
            )
        masks = {key: mask.moved(offset) for key, mask in self.masks.items()}
        for key, mask in masks.items():
            ends = zip(mask.start, mask.shape, geometry.shape, strict=True)
            if any(at < 0 or at + count > size for at, count, size in ends):
                raise SegmentationError(
                    f"The mask of '{key}' reaches outside the image of {geometry.shape} voxels (z, y, x).",
                    "Choose the image on which it was made.",
                )
        return Segmentation(geometry, self.structures, masks, self.algorithm)

    def volume_ml(self, key: str) -> float:
        """Return the volume of one structure in millilitres."""
        return self._mask(key).count * self.geometry.voxel_volume / 1000.0

    @property
    def nbytes(self) -> int:
        """Memory of the packed masks in bytes."""
        return sum(mask.bits.nbytes for mask in self.masks.values())

    def _mask(self, key: str) -> PackedMask:
        if key not in self.masks:
            raise SegmentationError(f"There is no structure '{key}' here.", f"There is: {', '.join(self.keys)}.")
        return self.masks[key]


def bounding_box(mask: np.ndarray) -> Box | None:
    """Return the smallest box with every non-zero voxel of a (z, y, x) array, or ``None``."""
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    if not planes.size:
        return None
    z = slice(int(planes[0]), int(planes[-1]) + 1)
    shadow = np.asarray(mask[z].any(axis=0))
    rows, columns = np.flatnonzero(shadow.any(axis=1)), np.flatnonzero(shadow.any(axis=0))
    return z, slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def lattice_offset(inner: Geometry, outer: Geometry, tolerance: float = 1e-3) -> tuple[int, int, int] | None:
    """Return where the first voxel of `inner` lies in `outer`, (z, y, x).

    ``None`` when the voxels of the two grids do not coincide: when any corner of `inner` is more
    than `tolerance` voxels away from a voxel of the lattice of `outer`.
    """
    to_outer = np.linalg.inv(outer.affine) @ inner.affine
    offset = np.rint(to_outer[:3, 3])
    corners = np.stack(np.meshgrid(*((0, size) for size in inner.shape[::-1])), axis=-1).reshape(-1, 3)
    off = corners @ to_outer[:3, :3].T + to_outer[:3, 3] - (corners + offset)
    if np.abs(off).max() > tolerance:
        return None
    x, y, z = (int(value) for value in offset)
    return z, y, x
