"""Overlapping masks on the grid of one image, one bit a voxel.

Every structure has its own mask, cropped to the box of its voxels and packed to bits, so that a
whole-body scan with dozens of structures stays small and nothing ever overwrites a neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.structures import Structure

Box = tuple[slice, slice, slice]


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
    shadow: np.ndarray = mask[z].any(axis=0)
    rows, columns = np.flatnonzero(shadow.any(axis=1)), np.flatnonzero(shadow.any(axis=0))
    return z, slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
