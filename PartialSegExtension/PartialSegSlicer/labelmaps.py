"""The voxels of a segment as a packed mask, and back: always the box of the voxels only, always exact.

A segment's label map may be shared with others, lie anywhere on its grid, and be smaller or larger
than the volume. Nothing here resamples: masks move by whole voxels, or are refused. Writing, undo
and export go through this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer  # type: ignore[import-untyped]
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import PackedMask, lattice_offset
from PartialSegSlicer.geometry import (
    Indices,
    arrayFromMatrix,
    geometryFromMatrix,
    ijkToRasFromGeometry,
    matrixFromArray,
)
from PartialSegSlicer.segments import segmentOf
from PartialSegSlicer.translation import tr as _

BINARY = "Binary labelmap"


@dataclass(frozen=True)
class Labelmap:
    """The voxels of one segment, in the coordinates of its segmentation node.

    Parameters
    ----------
    mask : PackedMask
        Its start may be negative: a label map starts anywhere on its grid.
    ijkToNode : numpy.ndarray
        (4, 4) from (x, y, z) indices to RAS millimetres of the node.
    """

    mask: PackedMask
    ijkToNode: np.ndarray


def readLabelmap(segmentationNode: Any, segmentID: str, geometry: Geometry | None = None) -> Labelmap:
    """Read the voxels of a segment.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
    segmentID : str
    geometry : Geometry, optional
        Grid, in the coordinates of the node, on which a segment that is stored as a surface is
        converted. The segmentation itself is not converted.

    Raises
    ------
    SegmentationError
        When there is no such segment, or it has no voxels to read and `geometry` is not given.
    """
    segmentOf(segmentationNode, segmentID)
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetSourceRepresentationName() == BINARY:
        data = slicer.vtkOrientedImageData()
        segmentationNode.GetBinaryLabelmapRepresentation(segmentID, data)
        return _labelmap(data, None)
    if geometry is None:
        raise SegmentationError(
            _("The segments of '{node}' are stored as '{representation}', not as voxels.").format(
                node=segmentationNode.GetName(), representation=segmentation.GetSourceRepresentationName()
            ),
            _("Choose the volume whose grid they are to be converted to."),
        )
    return _converted(segmentationNode, segmentID, geometry)


def maskOnGrid(labelmap: Labelmap, geometry: Geometry) -> PackedMask | None:
    """Return the mask with indices of another grid.

    Parameters
    ----------
    labelmap : Labelmap
    geometry : Geometry
        In the coordinates of the same node.

    Returns
    -------
    PackedMask or None
        ``None`` when the voxels of both grids do not coincide. A mask may reach outside the grid.
    """
    mask = labelmap.mask
    if not mask.bits.size:
        return PackedMask.empty()
    place = lattice_offset(geometryFromMatrix(labelmap.ijkToNode, mask.shape, mask.start), geometry)
    return None if place is None else PackedMask(place, mask.shape, mask.bits)


def writeMask(segmentationNode: Any, segmentID: str, mask: PackedMask, ijkToNode: np.ndarray) -> None:
    """Make a mask the voxels of a segment; no other segment changes, whether it shares the layer or not.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
        Its source representation is the binary label map.
    segmentID : str
        An existing segment.
    mask : PackedMask
    ijkToNode : numpy.ndarray
        (4, 4) from (x, y, z) indices to RAS millimetres of the node.

    Raises
    ------
    SegmentationError
        When Slicer refuses it.
    """
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    # Zeros empty a segment: cleared outright, its surface would stay where it was.
    data = orientedImageData(ijkToNode, mask.shape if mask.bits.size else (2, 2, 2), mask.start)
    data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    vtk_to_numpy(data.GetPointData().GetScalars())[:] = mask.unpack().ravel() if mask.bits.size else 0
    if not logic.SetBinaryLabelmapToSegment(data, segmentationNode, segmentID, logic.MODE_REPLACE):
        raise SegmentationError(
            _("Slicer did not accept the voxels of segment '{segment}' in '{node}'.").format(
                segment=segmentID, node=segmentationNode.GetName()
            ),
            _("See the error log of Slicer."),
        )


def orientedImageData(ijkToNode: np.ndarray, shape: Indices, start: Indices = (0, 0, 0)) -> Any:
    """Return a ``vtkOrientedImageData`` without voxels for a box (z, y, x) of a grid."""
    data = slicer.vtkOrientedImageData()
    (z, y, x), (depth, height, width) = start, shape
    data.SetExtent(x, x + width - 1, y, y + height - 1, z, z + depth - 1)
    data.SetGeometryFromImageToWorldMatrix(matrixFromArray(ijkToNode))
    return data


def referenceGrid(segmentationNode: Any) -> Geometry | None:
    """Return the grid of a segmentation node in its own coordinates.

    It is the reference geometry of the node, or the label map of its first segment with voxels;
    ``None`` when it has neither.
    """
    data = slicer.vtkOrientedImageData()
    converter = slicer.vtkSegmentationConverter
    segmentation = segmentationNode.GetSegmentation()
    text = segmentation.GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    if text and converter.DeserializeImageGeometry(text, data, False):
        shape, start, matrix = _place(data)
        if min(shape) > 0:
            return geometryFromMatrix(matrix, shape, start)
    if segmentation.GetSourceRepresentationName() == BINARY:
        for index in range(segmentation.GetNumberOfSegments()):
            found = readLabelmap(segmentationNode, segmentation.GetNthSegmentID(index))
            if found.mask.bits.size:
                return geometryFromMatrix(found.ijkToNode, found.mask.shape, found.mask.start)
    return None


def setReferenceGrid(segmentation: Any, geometry: Geometry) -> None:
    """Make a grid the reference geometry of a ``vtkSegmentation``, in its own coordinates."""
    converter = slicer.vtkSegmentationConverter
    data = orientedImageData(ijkToRasFromGeometry(geometry), geometry.shape)
    name = converter.GetReferenceImageGeometryParameterName()
    segmentation.SetConversionParameter(name, converter.SerializeImageGeometry(data))


def _converted(segmentationNode: Any, segmentID: str, geometry: Geometry) -> Labelmap:
    """Convert one segment in a copy of it."""
    source = segmentationNode.GetSegmentation()
    copy = slicer.vtkSegmentation()
    copy.SetSourceRepresentationName(source.GetSourceRepresentationName())
    copy.CopySegmentFromSegmentation(source, segmentID, False)
    copy.CopyConversionParameters(source)
    setReferenceGrid(copy, geometry)
    if not copy.CreateRepresentation(BINARY, True):
        raise SegmentationError(
            _("Slicer cannot convert segment '{segment}' of '{node}' to voxels.").format(
                segment=segmentID, node=segmentationNode.GetName()
            ),
            _("Create its binary labelmap in the module Segmentations."),
        )
    segment = copy.GetSegment(copy.GetNthSegmentID(0))
    return _labelmap(segment.GetRepresentation(BINARY), segment.GetLabelValue())


def _labelmap(data: Any, label: int | None) -> Labelmap:
    """Pack the voxels of a ``vtkOrientedImageData`` that have a label, or any."""
    shape, start, matrix = _place(data)
    scalars = data.GetPointData().GetScalars()
    if min(shape) < 1 or scalars is None or scalars.GetNumberOfTuples() == 0:
        return Labelmap(PackedMask.empty(), matrix)
    voxels = vtk_to_numpy(scalars).reshape(shape)
    return Labelmap(PackedMask.from_array(voxels if label is None else voxels == label, start), matrix)


def _place(data: Any) -> tuple[Indices, Indices, np.ndarray]:
    """Return shape and start (z, y, x), and the matrix of a ``vtkOrientedImageData``."""
    x0, x1, y0, y1, z0, z1 = data.GetExtent()
    matrix = vtk.vtkMatrix4x4()
    data.GetImageToWorldMatrix(matrix)
    return (z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1), (z0, y0, x0), arrayFromMatrix(matrix)
