"""What a run does to the scene: parts of its result become segments, or everything is as it was before.

Segments that somebody edits while the run goes on are left alone. A node is made with the first part,
not before, so that a run that fails leaves no empty segmentation behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PartialSegLib.images import Geometry, Image
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegSlicer.logic.regions import Region, keepOutside
from PartialSegSlicer.logic.results import StructureRow, centerOf, uncertaintyOf
from PartialSegSlicer.nodes import adoptSegmentationNode, createSegmentationNode, requireSegmentationNode
from PartialSegSlicer.segments import findSegment, segmentIDs, segmentOf
from PartialSegSlicer.undo import RunUndo
from PartialSegSlicer.writing import Overlap, WriteReport, requireSameGrid, writeSegmentation


class RunWriter:
    """Writes one run.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
    segmentationNode : vtkMRMLSegmentationNode or None
        Where to; a new node beside the volume without one.
    overlap : Overlap
    region : tuple of float, optional
        LPS millimetres; outside it segments keep their voxels.
    """

    def __init__(
        self,
        volumeNode: Any,
        segmentationNode: Any = None,
        overlap: Overlap = Overlap.KEEP,
        region: Region | None = None,
    ) -> None:
        self.volumeNode = volumeNode
        self.node = segmentationNode
        self.created = False
        self.rows: dict[str, StructureRow] = {}
        self._overlap, self._region = overlap, region
        self._undo: RunUndo | None = None
        self._reports: list[WriteReport] = []

    @property
    def inParts(self) -> bool:
        """Whether structures may be written one by one.

        Not where they take voxels from others: what is "other" is known only with the whole result.
        """
        return self._overlap is not Overlap.REPLACE

    def prepare(self, geometry: Geometry, keys: tuple[str, ...]) -> None:
        """Check the node, and remember the segments that will be replaced.

        Parameters
        ----------
        geometry : Geometry
            World grid of the volume.
        keys : tuple of str
            Structures of the run.

        Raises
        ------
        SegmentationError
            When the result could not be written.
        """
        if self.node is None:
            return
        requireSegmentationNode(self.node)
        requireSameGrid(geometry, self.node)
        self._undo = RunUndo(self.node)
        found = (findSegment(self.node, key) for key in keys)
        self._undo.watch([segmentID for segmentID in found if segmentID is not None])

    def write(self, segmentation: Segmentation) -> tuple[StructureRow, ...]:
        """Write the structures that were not written yet; return what became of each.

        Raises
        ------
        ImageError, SegmentationError
            As :func:`~PartialSegSlicer.writing.writeSegmentation`; nothing has changed then.
        """
        fresh = tuple(item for item in segmentation.structures if item.key not in self.rows)
        masks = {item.key: segmentation.masks[item.key] for item in fresh}
        part = Segmentation(segmentation.geometry, fresh, masks, segmentation.algorithm)
        undo = self._opened()
        edited = self._edited(part.keys, undo)
        kept = tuple(item for item in fresh if item.key not in edited)
        wanted = Segmentation(part.geometry, kept, {item.key: masks[item.key] for item in kept}, part.algorithm)
        if self._region is not None:
            wanted = keepOutside(wanted, self.node, self._region)
        before = set(segmentIDs(self.node))
        report = writeSegmentation(wanted, self.node, volumeNode=self.volumeNode, overlap=self._overlap, undo=undo)
        self._reports.append(report)
        rows = [
            self._row(
                item.key, item.name, wanted.masks.get(item.key, masks[item.key]), part.geometry, report, edited, before
            )
            for item in fresh
        ]
        self.rows |= {row.key: row for row in rows}
        return tuple(rows)

    def measure(self, segmentation: Segmentation, uncertainty: Image) -> None:
        """Add to the rows how uncertain each structure is, and where most."""
        for key, row in self.rows.items():
            measured = uncertaintyOf(segmentation.masks[key], uncertainty)
            if measured is not None:
                mean, point = measured
                self.rows[key] = replace(row, uncertainty=mean, reviewPoint=point)

    def report(self) -> WriteReport:
        """Return what all parts did together."""
        assert self._undo is not None
        together = WriteReport({}, {}, (), {}, {}, self._undo)
        for part in self._reports:
            together = WriteReport(
                together.written | part.written,
                together.completed | part.completed,
                together.empty + part.empty,
                together.taken | part.taken,
                together.withheld | part.withheld,
                self._undo,
            )
        return together

    def takeBack(self) -> None:
        """Make the scene what it was before the run, as far as it is still there.

        Raises
        ------
        SegmentationError
            When the segmentation stores no voxels any more.
        """
        if self.node is None or self.node.GetScene() is None or self._undo is None:
            return
        # What somebody has edited already is theirs, whatever became of the run.
        self._undo.restore(leave=self._undo.editedSegments())
        removeIfEmpty(self.node, created=self.created)

    def _opened(self) -> RunUndo:
        """Return the undo of the run, making the node when there is none."""
        if self.node is None:
            self.node = createSegmentationNode(self.volumeNode)
            self.created = True
        requireSegmentationNode(self.node)
        if not self.created:
            adoptSegmentationNode(self.node, self.volumeNode)
        if self._undo is None:
            self._undo = RunUndo(self.node)
        return self._undo

    def _edited(self, keys: tuple[str, ...], undo: RunUndo) -> dict[str, str]:
        """Return the segments of these structures that somebody edited since the run began, by key."""
        # One that was deleted is gone because somebody wanted it so; the run makes a new one.
        found = {key: segmentID for key in keys if (segmentID := findSegment(self.node, key)) is not None}
        changed = undo.editedSegments(set(found.values()))
        return {key: segmentID for key, segmentID in found.items() if segmentID in changed}

    def _row(
        self,
        key: str,
        name: str,
        mask: PackedMask,
        geometry: Geometry,
        report: WriteReport,
        edited: dict[str, str],
        before: set[str],
    ) -> StructureRow:
        segmentID = report.written.get(key) or report.completed.get(key) or edited[key]
        if key in edited:
            status = "edited"
        elif key in report.completed:
            status = "completed"
        elif not mask.bits.size:
            status = "empty"
        else:
            status = "replaced" if segmentID in before else "new"
        shown = segmentOf(self.node, segmentID).GetName() or name
        millilitres = mask.count * geometry.voxel_volume / 1000.0
        return StructureRow(segmentID, key, shown, mask.count, millilitres, status, centerOf(mask, geometry))


def removeIfEmpty(segmentationNode: Any, *, created: bool) -> None:
    """Remove a segmentation node that a run made, unless somebody has put a segment into it."""
    if created and not segmentIDs(segmentationNode) and segmentationNode.GetScene() is not None:
        segmentationNode.GetScene().RemoveNode(segmentationNode)


__all__ = ["RunWriter", "removeIfEmpty"]
