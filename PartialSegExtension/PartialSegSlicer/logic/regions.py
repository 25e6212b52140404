"""The region of a run: a markups ROI as a box in space, and what lies outside it stays as it was.

A run with a region looks at this box only. A segment that was there before keeps its voxels outside
the box, so that one part of an organ can be segmented again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import Box, PackedMask, Segmentation
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.segments import findSegment
from PartialSegSlicer.translation import tr as _

Region = tuple[float, float, float, float, float, float]


def regionOfNode(roiNode: Any) -> Region:
    """Return the box of a markups ROI in the world; of a rotated one, the box that holds it.

    Parameters
    ----------
    roiNode : vtkMRMLMarkupsROINode
        Under any parent transform.

    Returns
    -------
    tuple of float
        LPS millimetres: x from, x to, y from, y to, z from, z to.

    Raises
    ------
    ImageError
        When the node is no ROI, was removed, or has no size.
    """
    if roiNode.GetScene() is None:
        raise ImageError(
            _("The region '{name}' was removed from the scene.").format(name=roiNode.GetName()),
            _("Choose another one."),
        )
    if not roiNode.IsA("vtkMRMLMarkupsROINode"):
        raise ImageError(
            _("'{name}' is no region of interest.").format(name=roiNode.GetName()), _("Choose a markups ROI.")
        )
    bounds = [0.0] * 6
    roiNode.GetRASBounds(bounds)
    x0, x1, y0, y1, z0, z1 = bounds
    if not (np.all(np.isfinite(bounds)) and x0 < x1 and y0 < y1 and z0 < z1):
        raise ImageError(
            _("The region '{name}' has no size.").format(name=roiNode.GetName()), _("Draw it in the Markups module.")
        )
    return (-x1, -x0, -y1, -y0, z0, z1)


def boxOfRegion(region: Region, geometry: Geometry) -> Box:
    """Return the voxels (z, y, x) of a grid that a region holds, by the rule of the library.

    Raises
    ------
    ImageError
        When it lies outside the grid.
    """
    low, high = region[::2], region[1::2]
    corners = np.array(
        [[x, y, z, 1.0] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    indices = (np.linalg.inv(geometry.affine) @ corners.T)[:3][::-1]
    first = np.clip(np.floor(indices.min(axis=1) + 0.5), 0, geometry.shape)
    last = np.clip(np.ceil(indices.max(axis=1) + 0.5), 0, geometry.shape)
    if np.any(first >= last):
        raise ImageError(_("The region lies outside the volume."), _("Move it over what is to be segmented."))
    z, y, x = (slice(int(start), int(stop)) for start, stop in zip(first, last, strict=True))
    return z, y, x


def keepOutside(segmentation: Segmentation, segmentationNode: Any, region: Region) -> Segmentation:
    """Return a result that has, outside the region, the voxels that the segments have now.

    Parameters
    ----------
    segmentation : Segmentation
        On the world grid of the volume, with masks inside the region only.
    segmentationNode : vtkMRMLSegmentationNode
        What it will be written into.
    region : tuple of float
        LPS millimetres.

    Raises
    ------
    SegmentationError
        When a segment reaches beyond the volume, where it cannot be kept.
    """
    box = boxOfRegion(region, segmentation.geometry)
    masks = dict(segmentation.masks)
    for key in segmentation.keys:
        segmentID = findSegment(segmentationNode, key)
        if segmentID is None:
            continue
        before = maskOnVolume(segmentationNode, segmentID, segmentation.geometry)
        masks[key] = _joined(masks[key], _emptied(before, box))
    return Segmentation(segmentation.geometry, segmentation.structures, masks, segmentation.algorithm)


def _emptied(mask: PackedMask, box: Box) -> PackedMask:
    """Return a mask without its voxels in a box of the grid."""
    array = mask.unpack()
    part = tuple(
        slice(max(0, side.start - at), max(0, side.stop - at)) for side, at in zip(box, mask.start, strict=True)
    )
    array[part] = False
    return PackedMask.from_array(array, mask.start)


def _joined(first: PackedMask, second: PackedMask) -> PackedMask:
    """Return the voxels of either mask."""
    if not first.bits.size or not second.bits.size:
        return first if first.bits.size else second
    low = np.minimum(first.start, second.start)
    high = np.maximum(np.add(first.start, first.shape), np.add(second.start, second.shape))
    whole = np.zeros(tuple(int(size) for size in high - low), bool)
    for mask in (first, second):
        place = tuple(
            slice(int(at), int(at) + n) for at, n in zip(np.subtract(mask.start, low), mask.shape, strict=True)
        )
        whole[place] |= mask.unpack()
    z, y, x = (int(value) for value in low)
    return PackedMask.from_array(whole, (z, y, x))
