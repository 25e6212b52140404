"""A scan and where it lies in the patient.

Array axes are (z, y, x): slice, row, column. Spacing, origin and points are (x, y, z) in
millimetres, and world space is LPS (left, posterior, superior), as in DICOM and ITK.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from PartialSegLib.errors import ImageError

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """The grid of an image: its size, and the place of each voxel in LPS space.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    spacing : tuple of float
        Distance of voxel centres along (x, y, z), in millimetres.
    origin : tuple of float
        LPS position of the centre of voxel (0, 0, 0), in millimetres.
    direction : tuple of float
        Row-major 3x3 matrix whose columns are the LPS directions of the x, y and z axes, as
        ``SimpleITK.Image.GetDirection`` returns it. Oblique and sheared grids are allowed.

    Raises
    ------
    ImageError
        When a spacing is not positive or the axes are linearly dependent.
    """

    shape: tuple[int, int, int]
    spacing: Vector = (1.0, 1.0, 1.0)
    origin: Vector = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or len(self.spacing) != 3 or len(self.origin) != 3 or len(self.direction) != 9:
            raise ImageError(f"A geometry needs 3 dimensions, but its shape is {self.shape}.")
        if not all(np.isfinite(value) and value > 0 for value in self.spacing):
            raise ImageError(f"The voxel spacing {self.spacing} is not positive.", "Repair the header of the file.")
        if not np.all(np.isfinite(self.direction)) or abs(np.linalg.det(self.axes)) < 1e-6:
            raise ImageError(f"The direction {self.direction} does not span space.", "Repair the header of the file.")

    @property
    def axes(self) -> np.ndarray:
        """(3, 3) matrix of unit columns: LPS directions of the x, y and z axes."""
        return np.asarray(self.direction, dtype=float).reshape(3, 3)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) matrix from voxel indices (x, y, z) to LPS millimetres."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in cubic millimetres (shear included)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def matches(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Whether both grids have one shape and place every corner within `tolerance` voxels."""
        if self.shape != other.shape:
            return False
        extent = np.asarray(self.shape[::-1], dtype=float)
        corners = np.array([[x, y, z, 1] for x in (0, extent[0]) for y in (0, extent[1]) for z in (0, extent[2])]).T
        distance = np.abs((self.affine - other.affine) @ corners)[:3].max()
        return bool(distance <= tolerance * min(self.spacing))


@dataclass(frozen=True)
class Image:
    """A scalar 3D image.

    Parameters
    ----------
    voxels : numpy.ndarray
        (z, y, x), any real dtype; Hounsfield units for CT.
    geometry : Geometry
        Grid of the voxels.
    source : Path, optional
        File or folder that it was read from.
    dicom_files : tuple of Path
        One file per slice in z order, when it was read from DICOM and its slices are untouched.
    corrections : tuple of str
        What was mended while reading, one sentence each, to be shown to the user.
    """

    voxels: np.ndarray
    geometry: Geometry
    source: Path | None = None
    dicom_files: tuple[Path, ...] = ()
    corrections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.voxels.shape != self.geometry.shape:
            raise ImageError(f"Voxels of shape {self.voxels.shape} do not fit a grid of {self.geometry.shape}.")
