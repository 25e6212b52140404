"""A scan and where it lies in the patient; which inputs are accepted as a scan.

Array axes are (z, y, x): slice, row, column. Spacing, origin and points are (x, y, z) in
millimetres, and world space is LPS (left, posterior, superior), as in DICOM and ITK.

Everything that takes an image from disk comes in through :func:`read_image` or
:func:`read_labels`. How a format is read is decided in ``imagefiles.py`` and ``dicomseries.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from PartialSegLib.errors import ImageError

Vector = tuple[float, float, float]

#: Endings of the image files that are read; a DICOM series is a folder, or any one of its files.
READABLE = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
#: Endings of the image files that are written: those that are a single file.
WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")


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
        When an axis has no voxel, a spacing is not positive, the origin is no point, or the axes
        are linearly dependent.
    """

    shape: tuple[int, int, int]
    spacing: Vector = (1.0, 1.0, 1.0)
    origin: Vector = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or len(self.spacing) != 3 or len(self.origin) != 3 or len(self.direction) != 9:
            raise ImageError(f"A geometry needs 3 dimensions, but its shape is {self.shape}.")
        if min(self.shape) < 1:
            raise ImageError(f"A grid of {self.shape} (z, y, x) holds no voxel.", "Repair the header of the file.")
        if not all(np.isfinite(value) and value > 0 for value in self.spacing):
            raise ImageError(f"The voxel spacing {self.spacing} is not positive.", "Repair the header of the file.")
        if not np.all(np.isfinite(self.origin)):
            raise ImageError(f"The origin {self.origin} is no point.", "Repair the header of the file.")
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

    @property
    def is_sheared(self) -> bool:
        """Whether two axes are not perpendicular, by more than headers round (1e-5 rad)."""
        return bool(np.abs(self.axes.T @ self.axes - np.eye(3)).max() > 1e-5)

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
        One file per slice in z order, when it was read from a single-frame DICOM series.
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


def read_image(path: str | Path, series: str | None = None) -> Image:
    """Read a scan from an image file or a DICOM series.

    Parameters
    ----------
    path : str or Path
        NIfTI, NRRD or MetaImage file, a folder with DICOM files, or one file of a DICOM series.
    series : str, optional
        Which series of a DICOM folder: its SeriesInstanceUID, a unique beginning of it, or its
        description.

    Returns
    -------
    Image
        Voxels (z, y, x) in the file's own values (Hounsfield units for CT) and integer type;
        floating point comes as float32. What was mended is listed in ``corrections``.

    Raises
    ------
    ImageError
        When the file is missing, damaged or of an unknown kind; when it is not one 3D scalar
        volume (2D, several time points, RGB); when it holds NaN or infinity, or one value only;
        and when a DICOM folder holds several series and none was chosen, or its slices do not
        form a regular grid.
    """
    path = Path(path)
    image = _load(path, series)
    low, high = _value_range(image.voxels, path)
    if low == high:
        raise ImageError(f"'{path}' is empty: every voxel has the value {low:g}.", "Export the scan again.")
    return image


def read_labels(path: str | Path) -> Image:
    """Read a mask or label map: whole numbers, which may all be zero.

    Parameters
    ----------
    path : str or Path
        NIfTI, NRRD or MetaImage file.

    Returns
    -------
    Image
        Voxels (z, y, x) of an integer type; whole numbers stored as floating point become int32.

    Raises
    ------
    ImageError
        As :func:`read_image`, except that one value only is allowed; and when a voxel is no whole
        number.
    """
    path = Path(path)
    image = _load(path, None)
    low, high = _value_range(image.voxels, path)
    if image.voxels.dtype.kind in "iu":
        return image
    limits = np.iinfo(np.int32)
    if low < limits.min or high > limits.max or not np.array_equal(image.voxels, np.rint(image.voxels)):
        raise ImageError(f"'{path}' is no label map: it holds values that are no whole numbers.", "Is it the scan?")
    return replace(image, voxels=image.voxels.astype(np.int32))


def write_image(image: Image, path: str | Path) -> None:
    """Write an image so that :func:`read_image` returns the same voxels on the same grid.

    The file appears under its name only when it is complete. NIfTI keeps the grid to the
    precision of its float32 header; NRRD and MetaImage keep it exactly.

    Parameters
    ----------
    image : Image
        What to write; boolean voxels become uint8.
    path : str or Path
        Ends in one of :data:`WRITABLE`; its folder exists.

    Raises
    ------
    ImageError
        When the ending is unknown, the folder is missing or not writable, or the grid is sheared
        and the format is NIfTI, whose readers do not agree on sheared grids.
    """
    from PartialSegLib.imagefiles import write_volume

    write_volume(image, Path(path))


def _load(path: Path, series: str | None) -> Image:
    """Read `path` by its kind, refusing what is no volume."""
    from PartialSegLib.imagefiles import ending, read_volume
    from PartialSegLib.imagefiles.dicomheaders import is_dicom_file
    from PartialSegLib.imagefiles.dicomseries import read_dicom

    try:
        path.stat()
    except FileNotFoundError as error:
        raise ImageError(f"There is no file or folder '{path}'.", "Check the spelling of the path.") from error
    except OSError as error:
        raise ImageError(
            f"'{path}' cannot be opened: {error.strerror}.", "Check the path and its permissions."
        ) from error
    known = ending(path, READABLE)
    if path.is_dir() or (known is None and is_dicom_file(path)):
        image = read_dicom(path, series)
    elif known is None:
        raise ImageError(
            f"'{path}' is no DICOM file, and its ending is of no known image format.",
            f"Readable: {', '.join(READABLE)}, or a folder of DICOM files.",
        )
    elif series is not None:
        raise ImageError(f"'{path}' is a single volume: it has no series '{series}'.", "Leave the series out.")
    else:
        image = read_volume(path)
    if min(image.voxels.shape) < 2:
        z, y, x = image.voxels.shape
        raise ImageError(
            f"'{path}' is 2D: a single slice of {x} x {y} x {z} voxels (x, y, z).", "Give the whole 3D volume."
        )
    voxels = image.voxels
    if voxels.dtype.kind == "f" and voxels.dtype != np.float32:
        # What float32 cannot hold becomes infinite, and is refused with the other infinite voxels.
        with np.errstate(over="ignore"):
            voxels = voxels.astype(np.float32)
    return replace(image, voxels=voxels, source=path)


def _value_range(voxels: np.ndarray, path: Path) -> tuple[float, float]:
    """Return the lowest and highest value; refuse voxels that are no numbers."""
    low, high = voxels.min(), voxels.max()
    if np.isfinite(low) and np.isfinite(high):
        return float(low), float(high)
    if np.isnan(voxels).all():
        raise ImageError(f"'{path}' holds no values: every voxel is NaN.", "Export the scan again.")
    bad = voxels.size - np.count_nonzero(np.isfinite(voxels))
    raise ImageError(
        f"'{path}' has {bad} of {voxels.size} voxels that are NaN, infinite or beyond the range of float32.",
        "Replace them by the value of air (-1024 for CT) first.",
    )
