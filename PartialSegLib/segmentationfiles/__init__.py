"""Saving segmentations and loading them again, whatever the format.

:func:`write_segmentation` and :func:`read_segmentation` are the only doors: the command line, the
worker and the training library call them, and the path says which format is meant.

==========================  ============================================================
Path                        Format
==========================  ============================================================
``case.seg.nrrd``           one file, overlapping layers, as 3D Slicer writes and reads it
``folder``                  one NIfTI file per structure, and ``segmentation.json``
``folder/case_*.nii.gz``    the same, with names of its own in a shared folder
``case.dcm``                DICOM Segmentation, for an image that was read from DICOM
==========================  ============================================================
"""

from __future__ import annotations

import os
from pathlib import Path

from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles.dicomseg import check_source, read_dicomseg, write_dicomseg
from PartialSegLib.segmentationfiles.niftimasks import is_pattern, read_niftimasks, write_niftimasks
from PartialSegLib.segmentationfiles.segnrrd import read_segnrrd, write_segnrrd

__all__ = ["check_target", "read_segmentation", "write_segmentation"]

_FORMATS = "Use a name like case.seg.nrrd, case.dcm, a folder, or case_*.nii.gz."


def write_segmentation(segmentation: Segmentation, path: str | Path, *, image: Image | None = None) -> None:
    """Write a segmentation; an interrupted write leaves an older file as it was.

    Parameters
    ----------
    segmentation : Segmentation
    path : str or Path
        Says the format, see the module. Its folder must exist.
    image : Image, optional
        What was segmented; needed for DICOM.

    Raises
    ------
    SegmentationError
        When the name fits no format, the disk is full or not writable, or the format cannot hold
        the segmentation.
    ImageError
        When NIfTI is asked to hold a sheared grid.
    """
    path = Path(path)
    kind = _format(path, writing=True)
    try:
        if kind == "nifti":
            write_niftimasks(segmentation, path)
            return
        with atomic_write(path) as stream:
            if kind == "nrrd":
                write_segnrrd(segmentation, stream)
            elif image is None:
                raise SegmentationError(
                    f"{path} needs the DICOM series that was segmented.", "Pass image=, read from the DICOM folder."
                )
            else:
                write_dicomseg(segmentation, stream, image)
    except OSError as error:
        raise SegmentationError(
            f"{path} could not be written: {error.strerror or error}.",
            "Check that the folder exists, may be written and has space.",
        ) from error


def read_segmentation(
    path: str | Path, *, geometry: Geometry | None = None, image: Image | None = None
) -> Segmentation:
    """Read a segmentation.

    Parameters
    ----------
    path : str or Path
        A file or folder of one of the formats, see the module.
    geometry : Geometry, optional
        Grid to put the masks on; it must coincide with the stored voxels.
    image : Image, optional
        What was segmented: its grid is used, and for DICOM its slices are found by their UIDs.

    Returns
    -------
    Segmentation
        On the grid of `image` or `geometry`; without either on the grid that the file names.

    Raises
    ------
    SegmentationError
        When the file is missing, damaged or of another format, or lies on another grid.
    """
    path = Path(path)
    if image is not None:
        geometry = image.geometry
    kind = _format(path, writing=False)
    if kind == "nrrd":
        return read_segnrrd(path, geometry)
    if kind == "nifti":
        return read_niftimasks(path, geometry)
    segmentation = read_dicomseg(path, image)
    return segmentation if geometry is None else segmentation.on(geometry)


def check_target(path: str | Path, image: Image | None = None) -> None:
    """Refuse, before long work, a path that :func:`write_segmentation` would refuse after it.

    Parameters
    ----------
    path : str or Path
        Where a segmentation is to be written.
    image : Image, optional
        What will be segmented, once it is known.

    Raises
    ------
    SegmentationError
        When the name fits no format, its folder is missing or not writable, or the format cannot
        hold a segmentation of this image.
    """
    path = Path(path)
    kind = _format(path, writing=True)
    folder = path if kind == "nifti" and path.is_dir() else path.parent
    if not folder.is_dir():
        raise SegmentationError(f"There is no folder '{folder}' to write '{path.name}' into.", "Make it first.")
    if not os.access(folder, os.W_OK):
        raise SegmentationError(f"The folder '{folder}' may not be written.", "Choose another one.")
    if kind != "nifti" and path.is_dir():
        raise SegmentationError(f"'{path}' is a folder, not a file.", "Choose another name.")
    if image is None:
        return
    if kind == "dicom":
        check_source(image)
    if kind == "nifti" and image.geometry.is_sheared:
        raise SegmentationError(
            f"'{path}' would be NIfTI, which keeps no sheared grid (the scan has a gantry tilt).", "Write .seg.nrrd."
        )


def _format(path: Path, *, writing: bool) -> str:
    name = path.name.lower()
    if name.endswith((".seg.nrrd", ".nrrd")):
        return "nrrd"
    if name.endswith(".dcm"):
        return "dicom"
    if is_pattern(path) or path.is_dir() or (writing and not path.suffix) or (not writing and name.endswith(".json")):
        return "nifti"
    if not writing and not path.exists():
        raise SegmentationError(f"There is no segmentation {path}.", _FORMATS)
    if name.endswith((".nii.gz", ".nii")):
        raise SegmentationError(f"{path} would hold one mask only, but structures may overlap.", _FORMATS)
    raise SegmentationError(f"{path} has no ending of a segmentation.", _FORMATS)
