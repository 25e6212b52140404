"""The uncertainty of a run as a volume node beside its segmentation: one a segmentation, filled anew by each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import vtk
from slicer import util  # type: ignore[import-untyped]

from PartialSegLib.images import Image
from PartialSegSlicer.geometry import ijkToRasFromGeometry, matrixFromArray
from PartialSegSlicer.nodes import placeInStudy

#: Role under which a segmentation node refers to its uncertainty.
ROLE = "PartialSegUncertainty"


@dataclass(frozen=True)
class UncertaintyBefore:
    """What an uncertainty node showed before a run filled it anew, for an undo.

    Parameters
    ----------
    imageData : vtkImageData
        The very voxels, which nobody writes into any more.
    ijkToRas : vtkMatrix4x4
    """

    imageData: Any
    ijkToRas: Any


def showUncertainty(segmentationNode: Any, volumeNode: Any, uncertainty: Image) -> tuple[Any, UncertaintyBefore | None]:
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
    node : vtkMRMLScalarVolumeNode
        In the world, under no transform; beside the volume in its study.
    before : UncertaintyBefore or None
        What it showed; ``None`` for a new node.
    """
    node, before = segmentationNode.GetNodeReference(ROLE), None
    if node is not None:
        before = UncertaintyBefore(node.GetImageData(), vtk.vtkMatrix4x4())
        node.GetIJKToRASMatrix(before.ijkToRas)
        # Voxels are written in place otherwise.
        node.SetAndObserveImageData(None)
    else:
        scene = segmentationNode.GetScene()
        name = scene.GenerateUniqueName(f"{volumeNode.GetName()} uncertainty")
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        segmentationNode.SetNodeReferenceID(ROLE, node.GetID())
        placeInStudy(node, volumeNode)
    util.updateVolumeFromArray(node, uncertainty.voxels)
    node.SetIJKToRASMatrix(matrixFromArray(ijkToRasFromGeometry(uncertainty.geometry)))
    node.SetAndObserveTransformNodeID(None)
    return node, before


def takeBackUncertainty(segmentationNode: Any, node: Any, before: UncertaintyBefore | None) -> None:
    """Let an uncertainty node show what it showed before a run, or remove one that the run made."""
    scene = node.GetScene()
    if scene is None:
        return
    if before is not None:
        node.SetAndObserveImageData(before.imageData)
        node.SetIJKToRASMatrix(before.ijkToRas)
        return
    segmentationNode.RemoveNodeReferenceIDs(ROLE)
    scene.RemoveNode(node)
