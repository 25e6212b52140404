"""The preview of a run: what has been found so far, in a segmentation of its own that goes with the run.

The segmentation that the run writes into is not touched before the result is complete; so nothing has
to be taken back, and nothing that somebody edits meanwhile can be lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegLib.images import Geometry
from PartialSegLib.postprocessing import join
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegSlicer.writing import writeSegmentation


class RunPreview:
    """Shows the voxels of one run while it goes on.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
        What is segmented.
    """

    def __init__(self, volumeNode: Any) -> None:
        self._volumeNode = volumeNode
        self._masks: dict[str, PackedMask] = {}
        self._over = False
        #: The node, while there is something to see.
        self.node: Any = None

    def add(self, file: Path, geometry: Geometry) -> None:
        """Show more voxels: those of a file on the grid of the volume.

        Where they cannot be shown (the volume was moved, the preview was deleted) there is none any more;
        whether the result can be written, the run finds out at its end.
        """
        if self._over:
            return
        try:
            found = read_segmentation(file, geometry=geometry)
            for key, mask in found.masks.items():
                self._masks[key] = join(self._masks.get(key, PackedMask.empty()), mask)
            whole = Segmentation(
                found.geometry, found.structures, {key: self._masks[key] for key in found.keys}, found.algorithm
            )
            self.node = self.node or self._made()
            writeSegmentation(whole, self.node, volumeNode=self._volumeNode)
        except PartialSegError:
            self.remove()

    def remove(self) -> None:
        """End the preview; call it any number of times."""
        self._over = True
        node, self.node = self.node, None
        self._masks.clear()
        if node is not None and node.GetScene() is not None:
            node.GetScene().RemoveNode(node)

    def _made(self) -> Any:
        """Add the node: one that is drawn in the views, but not listed, edited or saved."""
        scene = self._volumeNode.GetScene()
        node = slicer.vtkMRMLSegmentationNode()
        node.SetName(scene.GenerateUniqueName(f"{self._volumeNode.GetName()} (being segmented)"))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node = scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSaveWithScene(False)
        node.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(self._volumeNode)
        return node
