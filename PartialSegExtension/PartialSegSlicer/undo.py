"""Undo of one run: what the segments were before the run changed them, or what it made in a new sequence.

:func:`PartialSegSlicer.writing.writeSegmentation` saves each segment here before it touches it;
the logic keeps the last :class:`RunUndo`, or :class:`SequenceUndo`, for "Undo last run". Slicer's own
history belongs to the Segment Editor and does not see what a run writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import slicer  # type: ignore[import-untyped]

from PartialSegLib.segmentation import PackedMask
from PartialSegSlicer.geometry import geometryFromMatrix
from PartialSegSlicer.labelmaps import Labelmap, readLabelmap, writeMask
from PartialSegSlicer.nodes import requireWritable
from PartialSegSlicer.segments import completedSegments, isCompleted, segmentIDs, segmentOf
from PartialSegSlicer.sequences import proxiesOf, removeSequence

_DISPLAY = (
    "Visibility",
    "Visibility2DFill",
    "Visibility2DOutline",
    "Visibility3D",
    "Opacity2DFill",
    "Opacity2DOutline",
    "Opacity3D",
    "Pickable",
)


@dataclass(frozen=True)
class _Saved:
    """A segment as it was: its name, color and tags, its voxels, its display and its place in the order."""

    metadata: Any
    labelmap: Labelmap
    display: dict[str, Any]
    index: int


class RunUndo:
    """What a run changed in one segmentation node, and the way back.

    Masks are kept packed, one bit a voxel of their box.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
    """

    def __init__(self, segmentationNode: Any) -> None:
        self.segmentationNode = segmentationNode
        self._before: dict[str, _Saved | None] = {}
        self._after: dict[str, Labelmap] = {}
        self._written: set[str] = set()

    @property
    def segmentIDs(self) -> tuple[str, ...]:
        """IDs of the segments that were changed or added."""
        return tuple(self._before)

    @property
    def writtenIDs(self) -> frozenset[str]:
        """IDs of the segments that show structures of the run."""
        return frozenset(self._written)

    def save(self, ids: Iterable[str]) -> None:
        """Keep what these segments are now; one that is kept already stays as it was kept first."""
        for segmentID in ids:
            if segmentID not in self._before:
                self._before[segmentID] = _saved(self.segmentationNode, segmentID)

    def added(self, segmentID: str) -> None:
        """Remember that the segment was not there before."""
        self._before.setdefault(segmentID, None)

    def watch(self, ids: Iterable[str]) -> None:
        """Remember what these segments are, to know whether somebody edits them before they are written.

        Raises
        ------
        SegmentationError
            When there is no such segment.
        """
        for segmentID in ids:
            self._after[segmentID] = readLabelmap(self.segmentationNode, segmentID)

    def changed(self, segmentID: str, labelmap: Labelmap) -> None:
        """Remember what the run left in a segment, to know later whether it was edited."""
        self._after[segmentID] = labelmap

    def written(self, segmentID: str, labelmap: Labelmap) -> None:
        """Remember that the run wrote a structure into the segment, and what it left there."""
        self._written.add(segmentID)
        self.changed(segmentID, labelmap)

    def editedSegments(self, among: Collection[str] | None = None) -> tuple[str, ...]:
        """Return the IDs of the segments that somebody edited or deleted since the run wrote or watched them.

        Their edits go when the run is undone (and come back when the undo is undone): ask first.

        Parameters
        ----------
        among : collection of str, optional
            Only these are looked at: to compare voxels takes a moment.

        Raises
        ------
        SegmentationError
            When the segmentation was removed from the scene, or stores no voxels any more.
        """
        requireWritable(self.segmentationNode)
        present = segmentIDs(self.segmentationNode)
        return tuple(
            segmentID
            for segmentID, labelmap in self._after.items()
            if (among is None or segmentID in among)
            and (segmentID not in present or not _equal(labelmap, readLabelmap(self.segmentationNode, segmentID)))
        )

    def restore(self, leave: Collection[str] = ()) -> RunUndo:
        """Put back exactly what was there: voxels, names, colors, tags, IDs and order of the segments.

        Segments that the run added are removed. A segment that was marked "Completed" since is
        left alone, and so is every segment that the run did not change.

        Parameters
        ----------
        leave : collection of str
            IDs of segments that are left alone as well.

        Returns
        -------
        RunUndo
            The way back to what was there before this call.

        Raises
        ------
        SegmentationError
            When the segmentation was removed from the scene, or stores no voxels any more.
        """
        requireWritable(self.segmentationNode)
        node, redo = self.segmentationNode, RunUndo(self.segmentationNode)
        for segmentID, saved in self._before.items():
            segment = node.GetSegmentation().GetSegment(segmentID)
            if segmentID in leave or (segment is not None and isCompleted(segment)):
                continue
            if segment is not None:
                redo.save([segmentID])
            elif saved is not None:
                redo.added(segmentID)
            if saved is not None:
                _restore(node, segmentID, saved)
                redo.changed(segmentID, saved.labelmap)
            elif segment is not None:
                node.GetSegmentation().RemoveSegment(segmentID)
        return redo


class SequenceUndo:
    """What a run over a sequence left in the scene, and the way back.

    Masks are kept packed, as by :class:`RunUndo`.

    Parameters
    ----------
    sequenceNode : vtkMRMLSequenceNode
        Of segmentation nodes; the run made it.
    proxyNode : vtkMRMLSegmentationNode
        Shows its frames; the run made it too.
    """

    def __init__(self, sequenceNode: Any, proxyNode: Any) -> None:
        self._sequenceNode, self._proxyNode = sequenceNode, proxyNode
        self._after: dict[str, dict[str, Labelmap]] = {}

    @property
    def possible(self) -> bool:
        """Whether the sequence is still there."""
        return self._sequenceNode.GetScene() is not None

    def watch(self, value: str) -> None:
        """Remember what the run left in the frame with this index value, to know later whether it was edited."""
        node = self._sequenceNode.GetDataNodeAtValue(value)
        self._after[value] = {segmentID: readLabelmap(node, segmentID) for segmentID in segmentIDs(node)}

    def editedSegments(self) -> tuple[tuple[str, str], ...]:
        """Return index value and name of each segment that somebody edited or deleted; of deleted ones, the ID.

        A frame that was taken out of the sequence has nothing to lose.

        Raises
        ------
        SegmentationError
            When a frame stores no voxels any more.
        """
        found: dict[tuple[str, str], tuple[str, str]] = {}
        for value, node in self._frames():
            requireWritable(node)
            present = segmentIDs(node)
            for segmentID, labelmap in self._after.get(value, {}).items():
                if segmentID not in present:
                    found.setdefault((value, segmentID), (value, segmentID))
                elif not _equal(labelmap, readLabelmap(node, segmentID)):
                    found.setdefault((value, segmentID), (value, segmentOf(node, segmentID).GetName()))
        return tuple(found.values())

    def restore(self) -> None:
        """Remove what the run made: its segments, and the nodes unless somebody has put something into them.

        A segment that was marked "Completed" since is left alone, and so is every segment that the run
        did not make.

        Raises
        ------
        SegmentationError
            When a frame stores no voxels any more.
        """
        frames = list(self._frames())
        for _value, node in frames:
            requireWritable(node)
        completed = {(value, segmentID) for value, node in frames for segmentID in completedSegments(node)}
        going = [
            (node, [item for item in self._after.get(value, {}) if (value, item) not in completed])
            for value, node in frames
        ]
        if all(set(segmentIDs(node)) <= set(ids) for node, ids in going):
            removeSequence(self._sequenceNode, self._proxyNode)
            return
        for node, ids in going:
            # A frame and what shows it may share their segments.
            for segmentID in set(ids) & set(segmentIDs(node)):
                node.GetSegmentation().RemoveSegment(segmentID)

    def _frames(self) -> Iterator[tuple[str, Any]]:
        """Return index value and node of each frame, and those of what shows one: it may be ahead of its frame."""
        sequence = self._sequenceNode
        for number in range(sequence.GetNumberOfDataNodes()):
            yield sequence.GetNthIndexValue(number), sequence.GetNthDataNode(number)
        for proxy, value in proxiesOf(sequence):
            yield value, proxy


def _saved(segmentationNode: Any, segmentID: str) -> _Saved:
    segmentation = segmentationNode.GetSegmentation()
    metadata = slicer.vtkSegment()
    metadata.DeepCopyMetadata(segmentOf(segmentationNode, segmentID))
    return _Saved(
        metadata,
        readLabelmap(segmentationNode, segmentID),
        _display(segmentationNode, segmentID),
        segmentation.GetSegmentIndex(segmentID),
    )


def _restore(segmentationNode: Any, segmentID: str, saved: _Saved) -> None:
    """Give a segment its voxels and description back; add it when it was deleted."""
    segmentation = segmentationNode.GetSegmentation()
    deleted = segmentation.GetSegment(segmentID) is None
    if deleted:
        segmentation.AddEmptySegment(segmentID, saved.metadata.GetName(), saved.metadata.GetColor())
        segmentation.SetSegmentIndex(segmentID, min(saved.index, segmentation.GetNumberOfSegments() - 1))
    segment = segmentation.GetSegment(segmentID)
    # The label is the segment's number within its layer, which may be another by now.
    label = segment.GetLabelValue()
    segment.DeepCopyMetadata(saved.metadata)
    segment.SetLabelValue(label)
    writeMask(segmentationNode, segmentID, saved.labelmap.mask, saved.labelmap.ijkToNode)
    if deleted:
        for name, value in saved.display.items():
            getattr(segmentationNode.GetDisplayNode(), f"SetSegment{name}")(segmentID, value)


def _display(segmentationNode: Any, segmentID: str) -> dict[str, Any]:
    display = segmentationNode.GetDisplayNode()
    if display is None:
        return {}
    return {name: getattr(display, f"GetSegment{name}")(segmentID) for name in _DISPLAY}


def _equal(labelmap: Labelmap, other: Labelmap) -> bool:
    """Whether two label maps of one node have the same voxels, whatever their first index is."""
    if not labelmap.mask.bits.size or not other.mask.bits.size:
        return labelmap.mask.bits.size == other.mask.bits.size
    # The box of a mask need not be the smallest.
    mask, found = (PackedMask.from_array(item.mask.unpack(), item.mask.start) for item in (labelmap, other))
    place = geometryFromMatrix(labelmap.ijkToNode, mask.shape, mask.start)
    if not geometryFromMatrix(other.ijkToNode, found.shape, found.start).matches(place):
        return False
    return bool((mask.bits == found.bits).all())
