"""Volume nodes as images: which nodes are accepted as a scan, and what is done about their transforms.

The logic calls :func:`imageFromVolumeNode` before a run and :func:`geometryFromVolumeNode` after
it; a sequence is read frame by frame by :func:`imagesFromSequence`. The image is a copy: the node
may be edited or removed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry, Image
from PartialSegSlicer.geometry import arrayFromMatrix, geometryFromMatrix, matrixToWorld
from PartialSegSlicer.translation import tr as _


def imageFromVolumeNode(volumeNode: Any) -> Image:
    """Copy a scalar volume node; a linear parent transform is part of the geometry of the copy.

    The proxy node of a sequence is the frame that it shows.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
        Any orientation, flipped, oblique or sheared.

    Returns
    -------
    Image
        Voxels (z, y, x) of the node's own integer type, or float32, in LPS world space.

    Raises
    ------
    ImageError
        When the node was removed from its scene, holds no 3D scalar image, is a label map, has
        voxels that are no numbers or all the same, or lies under a transform that is not linear.
    """
    _requireInScene(volumeNode)
    _requireScalarVolume(volumeNode)
    return _image(volumeNode, volumeNode.GetParentTransformNode())


def geometryFromVolumeNode(volumeNode: Any) -> Geometry:
    """Return the world grid of a volume node, as :func:`imageFromVolumeNode` does, without its voxels.

    Raises
    ------
    ImageError
        When the node was removed, holds no 3D scalar image, or lies under a transform that is not
        linear.
    """
    _requireInScene(volumeNode)
    _requireScalarVolume(volumeNode)
    return _geometry(volumeNode, volumeNode.GetParentTransformNode())


def imagesFromSequence(sequenceNode: Any, transformNode: Any = None) -> Iterator[tuple[str, Image]]:
    """Copy the frames of a sequence of volumes, one at a time.

    Parameters
    ----------
    sequenceNode : vtkMRMLSequenceNode
        Frames are scalar volumes.
    transformNode : vtkMRMLTransformNode, optional
        What all frames lie under, usually ``proxyNode.GetParentTransformNode()``: a frame itself
        has no parent transform.

    Yields
    ------
    tuple of (str, Image)
        Index value of the frame ("0.25"), and its image.

    Raises
    ------
    ImageError
        When the sequence was removed or is empty, or as :func:`imageFromVolumeNode` for a frame.
    """
    if sequenceNode is None or sequenceNode.GetScene() is None:
        raise ImageError(_("There is no sequence: it was removed from the scene."), _("Load it again."))
    if sequenceNode.GetNumberOfDataNodes() == 0:
        raise ImageError(
            _("The sequence '{sequence}' has no frames.").format(sequence=sequenceNode.GetName()),
            _("Choose another one."),
        )
    index = 0
    # Counted anew for each frame: somebody may remove frames while they are read.
    while index < sequenceNode.GetNumberOfDataNodes():
        yield sequenceNode.GetNthIndexValue(index), _image(sequenceNode.GetNthDataNode(index), transformNode)
        index += 1


def geometriesOfSequence(sequenceNode: Any, transformNode: Any = None) -> Iterator[tuple[str, Geometry]]:
    """Yield index value and world grid of each frame, as :func:`imagesFromSequence`, without voxels."""
    for index in range(sequenceNode.GetNumberOfDataNodes()):
        yield sequenceNode.GetNthIndexValue(index), _geometry(sequenceNode.GetNthDataNode(index), transformNode)


def _image(volumeNode: Any, transformNode: Any) -> Image:
    geometry = _geometry(volumeNode, transformNode)
    voxels = vtk_to_numpy(volumeNode.GetImageData().GetPointData().GetScalars()).reshape(geometry.shape)
    _requireNumbers(voxels, volumeNode.GetName())
    wanted = np.float32 if voxels.dtype.kind == "f" else voxels.dtype
    return Image(np.array(voxels, dtype=wanted), geometry)


def _geometry(volumeNode: Any, transformNode: Any) -> Geometry:
    _requireScalarVolume(volumeNode)
    x0, x1, y0, y1, z0, z1 = volumeNode.GetImageData().GetExtent()
    shape = (z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
    name = volumeNode.GetName()
    if min(shape) < 2:
        raise ImageError(
            _("'{volume}' is 2D: {size} voxels (x, y, z).").format(
                volume=name, size=f"{shape[2]} x {shape[1]} x {shape[0]}"
            ),
            _("Choose the whole 3D volume."),
        )
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    toWorld = matrixToWorld(volumeNode, transformNode, ImageError)
    try:
        return geometryFromMatrix(toWorld @ arrayFromMatrix(matrix), shape, (z0, y0, x0))
    except ImageError as error:
        raise ImageError(
            _("The grid of '{volume}' cannot be used. {reason}").format(volume=name, reason=error.message),
            _("Correct it in Volumes."),
        ) from error


def _requireInScene(volumeNode: Any) -> None:
    if volumeNode is None:
        raise ImageError(_("There is no volume."), _("Choose one."))
    if volumeNode.GetScene() is None:
        raise ImageError(
            _("The volume '{volume}' was removed from the scene.").format(volume=volumeNode.GetName()),
            _("Load it again."),
        )


def _requireScalarVolume(volumeNode: Any) -> None:
    """Refuse what is no scan, saying what it is."""
    name = volumeNode.GetName()
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode"):
        raise ImageError(
            _("'{name}' is no volume.").format(name=name),
            _("Choose a scalar volume."),
        )
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise ImageError(
            _("'{name}' is a label map, not a scan.").format(name=name), _("Choose the scan that it was drawn on.")
        )
    image = volumeNode.GetImageData()
    scalars = None if image is None else image.GetPointData().GetScalars()
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise ImageError(_("The volume '{volume}' holds no image.").format(volume=name), _("Load its file again."))
    components = scalars.GetNumberOfComponents()
    if components != 1:
        raise ImageError(
            _("'{volume}' has {count} values in each voxel: it is a color or vector volume.").format(
                volume=name, count=components
            ),
            _("Convert it with the module Vector to Scalar Volume."),
        )


def _requireNumbers(voxels: np.ndarray, name: str) -> None:
    low, high = voxels.min(), voxels.max()
    limit = np.finfo(np.float32).max
    if not (np.isfinite(low) and np.isfinite(high)) or (voxels.dtype.kind == "f" and max(-low, high) > limit):
        raise ImageError(
            _("'{volume}' has voxels that are NaN, infinite or beyond the range of float32.").format(volume=name),
            _("Replace them by the value of air (-1024 for CT) first."),
        )
    if low == high:
        raise ImageError(
            _("'{volume}' is empty: every voxel has the value {value}.").format(volume=name, value=f"{low:g}"),
            _("Load its file again."),
        )
