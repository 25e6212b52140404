"""How NIfTI, NRRD and MetaImage files become an :class:`~PartialSegLib.images.Image` and back.

ITK does the work, except for the voxels of NIfTI (see ``nifti.py``). This file adds what ITK
leaves out: it refuses what is not one scalar volume, says when a header leaves the orientation
open, and writes a file in one step or not at all.
Called by :func:`~PartialSegLib.images.read_image` and :func:`~PartialSegLib.images.write_image`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib.atomic import replacing_file
from PartialSegLib.errors import ImageError
from PartialSegLib.imagefiles.itk import geometry_of, itk_reason, simpleitk, single_volume, unoriented
from PartialSegLib.imagefiles.metaimage import verify_metaimage
from PartialSegLib.imagefiles.nifti import is_complete, read_nifti
from PartialSegLib.images import WRITABLE, Image

#: ITK's reader of each ending, named so that a file is never taken for another format.
_READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}


def ending(path: Path, known: Sequence[str]) -> str | None:
    """Return which of the `known` endings the name has, in lower case, or ``None``."""
    name = path.name.lower()
    return next((item for item in known if name.endswith(item)), None)


def read_volume(path: Path) -> Image:
    """Read a NIfTI, NRRD or MetaImage file.

    Parameters
    ----------
    path : Path
        Existing file with one of the endings in ``images.READABLE``.

    Returns
    -------
    Image
        Voxels (z, y, x), floating point as float32.

    Raises
    ------
    ImageError
        When the file is damaged, incomplete or of another format, or holds no single scalar
        3D volume.
    """
    kind = ending(path, tuple(_READERS)) or ""
    if kind in (".nii", ".nii.gz"):
        return read_nifti(path)
    if kind in (".mha", ".mhd"):
        verify_metaimage(path)
    try:
        volume = simpleitk().ReadImage(str(path), imageIO=_READERS[kind])
    except RuntimeError as error:
        name = "MetaImage" if kind in (".mha", ".mhd") else "NRRD"
        raise ImageError(
            f"'{path}' is damaged or no {name} file ({itk_reason(error)}).", "Copy or export it again."
        ) from error
    voxels, told = _voxels(volume, path)
    if kind in (".nrrd", ".nhdr") and not volume.HasMetaDataKey("NRRD_space"):
        told += (unoriented(path),)
    return Image(voxels, geometry_of(volume, path), path, corrections=told)


def write_volume(image: Image, path: Path) -> None:
    """Write a volume; see :func:`~PartialSegLib.images.write_image`."""
    itk = simpleitk()
    kind = ending(path, WRITABLE)
    if kind is None:
        raise ImageError(f"Images cannot be written as '{path.name}'.", f"Use one of {', '.join(WRITABLE)}.")
    if kind.startswith(".nii") and image.geometry.is_sheared:
        raise ImageError(
            f"'{path}' cannot be written: NIfTI keeps no sheared grid (the scan has a gantry tilt).",
            "Write .nrrd or .mha.",
        )
    voxels = image.voxels.astype(np.uint8) if image.voxels.dtype == bool else image.voxels
    volume = itk.GetImageFromArray(voxels)
    volume.SetSpacing(image.geometry.spacing)
    volume.SetOrigin(image.geometry.origin)
    volume.SetDirection(image.geometry.direction)
    if not path.parent.is_dir():
        raise ImageError(f"There is no folder '{path.parent}' to write '{path.name}' into.", "Make it first.")
    try:
        with replacing_file(path, kind) as unfinished:
            # Level 1 is several times faster than the default, and CT hardly gets larger.
            itk.WriteImage(volume, str(unfinished), True, 1, imageIO=_READERS[kind])
            _require_complete(unfinished, kind, voxels.nbytes)
    except RuntimeError as error:
        raise ImageError(
            f"'{path}' could not be written ({itk_reason(error)}).", "Is the disk full, or the folder protected?"
        ) from error
    except OSError as error:
        raise ImageError(f"'{path}' could not be written: {error.strerror}.", "Choose another name.") from error


def _require_complete(file: Path, kind: str, voxel_bytes: int) -> None:
    """Refuse what a full disk has cut short: ITK's writers do not always notice.

    Raises
    ------
    RuntimeError
        As ITK does where it notices.
    """
    try:
        if kind == ".mha":
            verify_metaimage(file)
            complete = True
        elif kind == ".nrrd":
            # The voxels are the last thing in the file, compressed; at their end stands their length (RFC 1952).
            with file.open("rb") as stream:
                stream.seek(-4, 2)
                complete = stream.read() == (voxel_bytes % 2**32).to_bytes(4, "little")
        else:
            complete = is_complete(file)
    except (ImageError, OSError):
        complete = False
    if not complete:
        raise RuntimeError("the file is incomplete")


def _voxels(volume: Any, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Take the one scalar volume out of an ITK image of any kind."""
    kind, components = volume.GetPixelIDTypeAsString(), volume.GetNumberOfComponentsPerPixel()
    if components > 1 or "complex" in kind:
        raise ImageError(
            f"'{path}' is no scalar image: its voxels are {kind} ({components} components).",
            "Export one gray-scale volume.",
        )
    shape, told = single_volume(path, volume.GetSize())
    return simpleitk().GetArrayFromImage(volume).reshape(shape), told
