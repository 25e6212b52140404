"""The preview of a run: what has been found so far, in a segmentation of its own that goes with the run.

The segmentation that the run writes into is not touched by it: nothing has to be taken back, and nothing
that somebody edits meanwhile can be lost.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import slicer  # type: ignore[import-untyped]

from PartialSegLib.images import Geometry
from PartialSegLib.postprocessing import join
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegLib.structures import Structure
from PartialSegSlicer.nodes import adoptSegmentationNode
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.undo import RunUndo
from PartialSegSlicer.writing import writeSegmentation

_logger = logging.getLogger(__name__)

#: After drawing, so many times as long nothing is drawn: the rest is the user's.
_REST = 9.0


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
        self._undo: RunUndo | None = None
        self._files: list[Path] = []
        self._next = 0.0
        self._over = False
        #: The node, while there is something to see.
        self.node: Any = None

    def add(self, file: Path) -> None:
        """Take a file with more voxels; :meth:`draw` shows and deletes it."""
        self._files.append(file)
        if self._over:
            self._forget()

    def draw(self, geometry: Geometry) -> None:
        """Show what came since the last time, unless that was just now: drawing takes a small part of the time.

        Where it cannot be shown (the volume was moved, the preview was deleted) there is no preview any
        more; whether the result can be written, the run finds out at its end.

        Parameters
        ----------
        geometry : Geometry
            World grid of the volume.
        """
        started = time.monotonic()
        if self._over or not self._files or started < self._next:
            return
        try:
            self._show(geometry)
        except Exception:
            # Whatever goes wrong with a preview costs no result.
            _logger.warning("The preview was given up", exc_info=True)
            self.remove()
        self._next = time.monotonic() + _REST * (time.monotonic() - started)

    def _show(self, geometry: Geometry) -> None:
        found: dict[str, Structure] = {}
        for file in self._files:
            segmentation = read_segmentation(file, geometry=geometry)
            for structure in segmentation.structures:
                found[structure.key] = structure
                before = self._masks.get(structure.key, PackedMask.empty())
                self._masks[structure.key] = join(before, segmentation.masks[structure.key])
        self._forget()
        whole = Segmentation(geometry, tuple(found.values()), {key: self._masks[key] for key in found})
        if self.node is None:
            self._make()
            self._undo = RunUndo(self.node)
        writeSegmentation(whole, self.node, volumeNode=self._volumeNode, undo=self._undo)

    def _forget(self) -> None:
        """Delete the files that were shown, or are not wanted any more."""
        for file in self._files:
            # One that a virus scanner holds goes with the private folder.
            with suppress(OSError):
                file.unlink(missing_ok=True)
        self._files.clear()

    def remove(self) -> None:
        """End the preview; call it any number of times."""
        self._over = True
        node, self.node, self._undo = self.node, None, None
        self._masks.clear()
        self._forget()
        if node is not None and node.GetScene() is not None:
            node.GetScene().RemoveNode(node)

    def _make(self) -> None:
        """Add the node: one that is drawn in the views, but not listed, edited or saved."""
        scene = self._volumeNode.GetScene()
        node = slicer.vtkMRMLSegmentationNode()
        name = _("{volume} (being segmented)").format(volume=self._volumeNode.GetName())
        node.SetName(scene.GenerateUniqueName(name))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        self.node = node = scene.AddNode(node)
        # With its place in the subject hierarchy: Slicer looks for that of every segment, hidden or not.
        adoptSegmentationNode(node, self._volumeNode)
        node.GetDisplayNode().SetSaveWithScene(False)
