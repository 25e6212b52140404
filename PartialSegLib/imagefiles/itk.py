"""The one door to SimpleITK: imported when first needed, silent, and with errors of one line.

Called by the readers and writers of image files and DICOM series.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry


@cache
def simpleitk() -> Any:
    """Import SimpleITK on first use (it costs 0.3 s), with its console warnings switched off."""
    import SimpleITK

    SimpleITK.ProcessObject_GlobalWarningDisplayOff()
    return SimpleITK


def itk_reason(error: RuntimeError) -> str:
    """Return the last line of an ITK error, which is the one that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else "no reason given"
    return re.sub(r"^(ITK|sitk::)? ?ERROR: |\w+\(0x[0-9a-f]+\): ", "", last)[:200].rstrip(".")


def single_volume(path: Path, sizes: Sequence[int]) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return the array shape (z, y, x) of the one volume in a file, and what has to be told about it.

    Parameters
    ----------
    sizes : sequence of int
        Voxels along (x, y, z, time ...), as the file has them.

    Raises
    ------
    ImageError
        When there are fewer than three axes, or several volumes.
    """
    if len(sizes) < 3:
        raise ImageError(
            f"'{path}' is a 2D image of {' x '.join(map(str, sizes))} pixels.", "Give the whole 3D volume."
        )
    volumes = int(np.prod(sizes[3:], dtype=np.int64))
    if volumes > 1:
        raise ImageError(
            f"'{path}' is {len(sizes)}D with {volumes} volumes (time points).",
            "Save the one volume to be segmented as a 3D file.",
        )
    told = (f"'{path.name}' is {len(sizes)}D with a single time point, which was read as 3D.",)
    return (sizes[2], sizes[1], sizes[0]), told if len(sizes) > 3 else ()


def geometry_of(source: Any, path: Path) -> Geometry:
    """Return the grid of a SimpleITK image, or of a reader that has read the header of `path`.

    Raises
    ------
    ImageError
        When the header describes no grid.
    """
    size = len(source.GetSize())
    axes = np.reshape(source.GetDirection(), (size, size))[:3, :3]
    return named_geometry(path, source.GetSize()[2::-1], source.GetSpacing()[:3], source.GetOrigin()[:3], axes)


def named_geometry(
    path: Path, shape: Sequence[int], spacing: Sequence[float], origin: Sequence[float], axes: np.ndarray
) -> Geometry:
    """Build a grid from a (3, 3) matrix of unit columns; what is wrong with it names the file."""
    (z, y, x), (sx, sy, sz), (ox, oy, oz) = shape, map(float, spacing), map(float, origin)
    try:
        return Geometry((z, y, x), (sx, sy, sz), (ox, oy, oz), tuple(float(value) for value in np.ravel(axes)))
    except ImageError as error:
        raise ImageError(f"'{path}': {error.message}", error.hint) from error


def unoriented(path: Path) -> str:
    """Say that a header leaves the place in the patient open."""
    return f"'{path.name}' does not say how it lies in the patient; its axes were taken as left, posterior, superior."
