"""Volumes as files for the worker: each state of a volume is written once.

The worker recognizes a file that it has read, and keeps what it computed of it; so a second task on
the same volume must find the same file. Files lie in the private folder and hold no names.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Image
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.volumes import geometryFromVolumeNode, imageFromVolumeNode


@dataclass(frozen=True)
class Scan:
    """A volume as it was sent.

    Parameters
    ----------
    file : Path
    image : Image
        What the file holds.
    """

    file: Path
    image: Image


class ScanFiles:
    """The file of the volume that was sent last.

    Parameters
    ----------
    folder : Path
        Where files go; whoever made it removes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state: tuple[Any, ...] | None = None
        self._scan: Scan | None = None
        self._number = 0

    def of(self, volumeNode: Any) -> Scan:
        """Return the file of a volume as it is now, written anew only when it changed.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode

        Raises
        ------
        ImageError
            As :func:`~PartialSegSlicer.volumes.imageFromVolumeNode`; when the disk is full.
        """
        state = _state(volumeNode)
        if self._scan is not None and self._state == state and self._scan.file.is_file():
            return self._scan
        image = imageFromVolumeNode(volumeNode)
        self.forget()
        self._number += 1
        file = self.folder / f"scan{self._number}.nrrd"
        writeUncompressed(image, file)
        self._state, self._scan = state, Scan(file, image)
        return self._scan

    def forget(self) -> None:
        """Delete the file: voxels stay nowhere longer than they are needed."""
        if self._scan is not None:
            # Windows deletes no file that the worker reads just now; it goes with the private folder.
            with suppress(OSError):
                self._scan.file.unlink(missing_ok=True)
        self._state = self._scan = None


def writeUncompressed(image: Image, file: Path) -> None:
    """Write an image for a moment: the time to compress it would be lost while a person waits.

    Raises
    ------
    ImageError
        When it cannot be written.
    """
    volume = SimpleITK.GetImageFromArray(image.voxels)
    volume.SetSpacing(image.geometry.spacing)
    volume.SetOrigin(image.geometry.origin)
    volume.SetDirection(image.geometry.direction)
    try:
        SimpleITK.WriteImage(volume, str(file), False, imageIO="NrrdImageIO")
        complete = file.stat().st_size >= image.voxels.nbytes
    except (RuntimeError, OSError):
        complete = False
    if not complete:
        file.unlink(missing_ok=True)
        raise ImageError(
            _("The volume could not be written for the worker to {folder}.").format(folder=file.parent),
            _(
                "Is the disk for temporary files full? "
                "Free some space, or set TMPDIR (TEMP on Windows) to another disk."
            ),
        )


def _state(volumeNode: Any) -> tuple[Any, ...]:
    """Return what tells one state of a volume from another: its voxels, and where they lie in the world."""
    geometry = geometryFromVolumeNode(volumeNode)
    image = volumeNode.GetImageData()
    # Times of modification are never given twice, not even to other objects.
    times = (image.GetMTime(), image.GetPointData().GetScalars().GetMTime())
    return (volumeNode.GetID(), *times, geometry)
