"""The uncertainty of a run as a volume node beside its segmentation: one a segmentation, filled anew by each run."""

from __future__ import annotations

from typing import Any

from slicer import util  # type: ignore[import-untyped]

from PartialSegLib.images import Image
from PartialSegSlicer.geometry import ijkToRasFromGeometry, matrixFromArray
from PartialSegSlicer.nodes import placeInStudy

#: Role under which a segmentation node refers to its uncertainty.
ROLE = "PartialSegUncertainty"


def showUncertainty(segmentationNode: Any, volumeNode: Any, uncertainty: Image) -> Any:
    """Put a map of uncertainty into the scene, in place of that of an earlier run.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
    volumeNode : vtkMRMLScalarVolumeNode
        What was segmented.
    uncertainty : Image
        float32 bits on the world grid of the volume.

    Returns
    -------
    vtkMRMLScalarVolumeNode
        In the world, under no transform; beside the volume in its study.
    """
    node = segmentationNode.GetNodeReference(ROLE)
    if node is None:
        scene = segmentationNode.GetScene()
        name = scene.GenerateUniqueName(f"{volumeNode.GetName()} uncertainty")
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        segmentationNode.SetNodeReferenceID(ROLE, node.GetID())
        placeInStudy(node, volumeNode)
    util.updateVolumeFromArray(node, uncertainty.voxels)
    node.SetIJKToRASMatrix(matrixFromArray(ijkToRasFromGeometry(uncertainty.geometry)))
    node.SetAndObserveTransformNodeID(None)
    return node
