"""Segmentation nodes: making one for a volume, its place in the subject hierarchy, and which are accepted.

The logic asks here for the node that a run writes into, and before it touches one.
"""

from __future__ import annotations

from typing import Any

import slicer  # type: ignore[import-untyped]

from PartialSegLib.errors import SegmentationError
from PartialSegSlicer.labelmaps import BINARY
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.volumes import geometryFromVolumeNode


def createSegmentationNode(volumeNode: Any, name: str = "") -> Any:
    """Add an empty segmentation node on the grid of a volume node, beside it in its study.

    It lies under the same parent transform as the volume, so that both move together.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
    name : str
        Name of the node; that of the volume and " segmentation" when empty. Made unique.

    Returns
    -------
    vtkMRMLSegmentationNode

    Raises
    ------
    ImageError
        When the volume node cannot be segmented.
    """
    geometryFromVolumeNode(volumeNode)
    scene = volumeNode.GetScene()
    unique = scene.GenerateUniqueName(name or _("{volume} segmentation").format(volume=volumeNode.GetName()))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", unique)
    adoptSegmentationNode(node, volumeNode)
    return node


def adoptSegmentationNode(segmentationNode: Any, volumeNode: Any) -> None:
    """Let views draw a segmentation node, and put a bare one on the grid of its volume and beside it in its study.

    A selector of Slicer adds bare ones. A node with segments, a transform or a grid of its own keeps its place.
    """
    if segmentationNode.GetDisplayNode() is None:
        segmentationNode.CreateDefaultDisplayNodes()
    if segmentationNode.GetSegmentation().GetNumberOfSegments() or segmentationNode.GetTransformNodeID():
        return
    reference = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    if not segmentationNode.GetSegmentation().GetConversionParameter(reference):
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        # After the transform: the grid is written in the coordinates of the node.
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        placeInStudy(segmentationNode, volumeNode)


def placeInStudy(segmentationNode: Any, volumeNode: Any) -> None:
    """Put a segmentation node beside its volume in the subject hierarchy, under the same study.

    A volume without a place there gives none: the node stays where it is.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    invalid = slicer.vtkMRMLSubjectHierarchyNode.GetInvalidItemID()
    if hierarchy is None:
        return
    volumeItem = hierarchy.GetItemByDataNode(volumeNode)
    parent = hierarchy.GetItemParent(volumeItem) if volumeItem != invalid else invalid
    if parent == invalid:
        return
    item = hierarchy.GetItemByDataNode(segmentationNode)
    if item == invalid:
        hierarchy.CreateItem(parent, segmentationNode)
    else:
        hierarchy.SetItemParent(item, parent)


def requireSegmentationNode(segmentationNode: Any) -> None:
    """Refuse a segmentation node that is gone or none.

    Raises
    ------
    SegmentationError
    """
    if segmentationNode is None:
        raise SegmentationError(_("There is no segmentation."), _("Choose one, or make a new one."))
    name = segmentationNode.GetName()
    if segmentationNode.GetScene() is None:
        raise SegmentationError(
            _("The segmentation '{name}' was removed from the scene.").format(name=name), _("Choose another one.")
        )
    if not segmentationNode.IsA("vtkMRMLSegmentationNode"):
        raise SegmentationError(_("'{name}' is no segmentation.").format(name=name), _("Choose a segmentation."))


def requireWritable(segmentationNode: Any) -> None:
    """Refuse a segmentation node whose segments are not stored as voxels; an empty one becomes so.

    Raises
    ------
    SegmentationError
        Writing voxels would turn the surfaces of the other segments into voxels.
    """
    requireSegmentationNode(segmentationNode)
    segmentation = segmentationNode.GetSegmentation()
    source = segmentation.GetSourceRepresentationName()
    if source == BINARY:
        return
    if segmentation.GetNumberOfSegments():
        raise SegmentationError(
            _("The segments of '{node}' are stored as '{representation}', not as voxels.").format(
                node=segmentationNode.GetName(), representation=source
            ),
            _("Make 'Binary labelmap' their source representation in Segmentations, or choose a new segmentation."),
        )
    segmentation.SetSourceRepresentationName(BINARY)
