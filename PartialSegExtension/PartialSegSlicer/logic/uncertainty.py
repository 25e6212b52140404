"""The uncertainty of a run as a volume node beside its segmentation: one a segmentation, filled anew by each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import vtk
from slicer import util  # type: ignore[import-untyped]

from PartialSegLib.images import Image
from PartialSegSlicer.geometry import ijkToRasFromGeometry, matrixFromArray
from PartialSegSlicer.nodes import placeInStudy
from PartialSegSlicer.translation import tr as _

#: Role under which a segmentation node refers to its uncertainty.
ROLE = "PartialSegUncertainty"
_COLORS = "vtkMRMLPETProceduralColorNodePET-Heat"


@dataclass(frozen=True)
class UncertaintyBefore:
    """What an uncertainty node showed before a run filled it anew, for an undo.

    Parameters
    ----------
    imageData : vtkImageData
        The very voxels, which nobody writes into any more.
    ijkToRas : vtkMatrix4x4
    transformID : str or None
        Of its parent transform.
    """

    imageData: Any
    ijkToRas: Any
    transformID: str | None


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
        before = UncertaintyBefore(node.GetImageData(), vtk.vtkMatrix4x4(), node.GetTransformNodeID())
        node.GetIJKToRASMatrix(before.ijkToRas)
        # Voxels are written in place otherwise.
        node.SetAndObserveImageData(None)
    else:
        scene = segmentationNode.GetScene()
        name = scene.GenerateUniqueName(_("{volume} uncertainty").format(volume=volumeNode.GetName()))
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        segmentationNode.SetNodeReferenceID(ROLE, node.GetID())
        placeInStudy(node, volumeNode)
        _makeVisible(node)
    util.updateVolumeFromArray(node, uncertainty.voxels)
    node.SetIJKToRASMatrix(matrixFromArray(ijkToRasFromGeometry(uncertainty.geometry)))
    node.SetAndObserveTransformNodeID(None)
    return node, before


def _makeVisible(node: Any) -> None:
    """Let a view that shows the node draw it from 0 bits (sure) to 1 (tossed), in colors, over the scan."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if node.GetScene().GetNodeByID(_COLORS) is not None:
        display.SetAndObserveColorNodeID(_COLORS)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 1.0)
    # What is sure hides nothing.
    display.SetLowerThreshold(0.05)
    display.SetUpperThreshold(1.0)
    display.ApplyThresholdOn()


def takeBackUncertainty(segmentationNode: Any, node: Any, before: UncertaintyBefore | None) -> None:
    """Let an uncertainty node show what it showed before a run, or remove one that the run made."""
    scene = node.GetScene()
    if scene is None:
        return
    if before is not None:
        node.SetAndObserveImageData(before.imageData)
        node.SetIJKToRASMatrix(before.ijkToRas)
        node.SetAndObserveTransformNodeID(before.transformID)
        return
    segmentationNode.RemoveNodeReferenceIDs(ROLE)
    scene.RemoveNode(node)
