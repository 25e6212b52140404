"""A result as segments: which are replaced, which stay, and what happens where masks meet.

Segments of the structures in the result are replaced in place: the same segment with its ID, name,
color and display gets new voxels. Every other segment, and every segment that a person marked
"Completed", keeps each voxel, unless the caller chooses :attr:`Overlap.REPLACE`. The logic calls
:func:`writeSegmentation` for each partial result of a run, and once more at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import PackedMask, Segmentation, lattice_offset
from PartialSegSlicer.geometry import ijkToRasFromGeometry, matrixToWorld, transformed
from PartialSegSlicer.labelmaps import Labelmap, maskOnGrid, readLabelmap, referenceGrid, setReferenceGrid, writeMask
from PartialSegSlicer.nodes import requireWritable
from PartialSegSlicer.segments import (
    addSegment,
    completedSegments,
    findSegment,
    isCompleted,
    segmentIDs,
    segmentOf,
    setOriginTags,
)
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.undo import RunUndo
from PartialSegSlicer.volumes import geometryFromVolumeNode


class Overlap(Enum):
    """What happens where a new mask meets a segment that is not part of the run."""

    #: Both keep the voxels.
    KEEP = "keep"
    #: The other segment loses them, unless it is marked "Completed".
    REPLACE = "replace others"
    #: The new mask loses those that lie in a segment marked "Completed".
    UNLOCKED = "only unlocked"


@dataclass(frozen=True)
class WriteReport:
    """What a write did.

    Parameters
    ----------
    written : dict of str to str
        Segment ID of each structure that was written.
    completed : dict of str to str
        Segment ID of each structure that was left alone, because it is marked "Completed".
    empty : tuple of str
        Structures that were written and have no voxel.
    taken : dict of str to int
        Voxels that other segments lost, by segment ID.
    withheld : dict of str to int
        Voxels that new masks lost to completed segments, by structure.
    undo : RunUndo
        The way back.
    """

    written: dict[str, str]
    completed: dict[str, str]
    empty: tuple[str, ...]
    taken: dict[str, int]
    withheld: dict[str, int]
    undo: RunUndo


@dataclass
class _Plan:
    """Everything that a write will do, in indices of the node's grid."""

    grid: Geometry
    targets: dict[str, str | None] = field(default_factory=dict)
    completed: dict[str, str] = field(default_factory=dict)
    masks: dict[str, PackedMask] = field(default_factory=dict)
    others: dict[str, PackedMask] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    withheld: dict[str, int] = field(default_factory=dict)


def writeSegmentation(
    segmentation: Segmentation,
    segmentationNode: Any,
    *,
    volumeNode: Any = None,
    overlap: Overlap = Overlap.KEEP,
    undo: RunUndo | None = None,
) -> WriteReport:
    """Write the structures of a result into a segmentation node.

    Parameters
    ----------
    segmentation : Segmentation
        In world space, on the grid that :func:`~PartialSegSlicer.volumes.imageFromVolumeNode` gave.
    segmentationNode : vtkMRMLSegmentationNode
        New or with segments; any parent transform that is linear.
    volumeNode : vtkMRMLScalarVolumeNode, optional
        What was segmented; leave it out when it was removed meanwhile. A node without a reference
        geometry gets that of the volume.
    overlap : Overlap
        What happens where masks meet; structures of one run always keep their overlap.
    undo : RunUndo, optional
        That of the run, when it writes in several parts.

    Returns
    -------
    WriteReport

    Raises
    ------
    SegmentationError
        When the node was removed, stores no voxels, lies under a transform that is not linear or
        on another grid; or the volume was moved since it was read. Nothing has changed then; when
        Slicer refuses a segment midway, the whole run is undone.
    """
    requireWritable(segmentationNode)
    if undo is None:
        undo = RunUndo(segmentationNode)
    elif undo.segmentationNode is not segmentationNode:
        raise SegmentationError(
            _("The run began in '{first}', not in '{second}'.").format(
                first=undo.segmentationNode.GetName(), second=segmentationNode.GetName()
            ),
            _("Write all parts of a run into one segmentation."),
        )
    if volumeNode is not None:
        _requireUnmoved(segmentation, volumeNode)
    plan = _planned(segmentation, segmentationNode, volumeNode, overlap, undo)
    modified = segmentationNode.StartModify()
    try:
        written = _execute(plan, segmentation, segmentationNode, undo)
    except BaseException:
        undo.restore()
        raise
    finally:
        segmentationNode.EndModify(modified)
    empty = tuple(key for key in written if not plan.masks[key].bits.size)
    return WriteReport(written, plan.completed, empty, plan.taken, plan.withheld, undo)


def requireSameGrid(geometry: Geometry, segmentationNode: Any) -> None:
    """Refuse, before a run, a segmentation into which its result could not be written.

    Parameters
    ----------
    geometry : Geometry
        World grid of the volume that will be segmented.
    segmentationNode : vtkMRMLSegmentationNode

    Raises
    ------
    SegmentationError
        When the node was removed, stores no voxels, lies under a transform that is not linear or on
        another grid.
    """
    requireWritable(segmentationNode)
    local, grid = _local(geometry, segmentationNode), referenceGrid(segmentationNode)
    if grid is not None:
        _offset(local, grid, segmentationNode)


def _requireUnmoved(segmentation: Segmentation, volumeNode: Any) -> None:
    if not segmentation.geometry.matches(geometryFromVolumeNode(volumeNode)):
        raise SegmentationError(
            _(
                "The volume '{volume}' was moved or changed since it was read: "
                "the result does not lie on its voxels any more."
            ).format(volume=volumeNode.GetName()),
            _("Move it back, or run again."),
        )


def _planned(
    segmentation: Segmentation, segmentationNode: Any, volumeNode: Any, overlap: Overlap, undo: RunUndo
) -> _Plan:
    """Decide everything before anything changes."""
    grid, offset = _grid(segmentation, segmentationNode, volumeNode)
    plan = _Plan(grid)
    for key in segmentation.keys:
        segmentID = findSegment(segmentationNode, key)
        if segmentID is not None and isCompleted(segmentOf(segmentationNode, segmentID)):
            plan.completed[key] = segmentID
        else:
            plan.targets[key] = segmentID
            plan.masks[key] = segmentation.masks[key].moved(offset)
    if overlap is Overlap.UNLOCKED:
        _withhold(plan, segmentationNode)
    if overlap is Overlap.REPLACE:
        _takeFromOthers(plan, segmentationNode, undo)
    return plan


def _grid(segmentation: Segmentation, segmentationNode: Any, volumeNode: Any) -> tuple[Geometry, tuple[int, int, int]]:
    """Return the grid of the node, and where the first voxel of the result lies in it, (z, y, x)."""
    local = _local(segmentation.geometry, segmentationNode)
    grid = referenceGrid(segmentationNode)
    if grid is None:
        if volumeNode is not None:
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        else:
            setReferenceGrid(segmentationNode.GetSegmentation(), local)
        grid = local
    return grid, _offset(local, grid, segmentationNode)


def _local(geometry: Geometry, segmentationNode: Any) -> Geometry:
    """Return a world grid in the coordinates of the node."""
    toWorld = matrixToWorld(segmentationNode, segmentationNode.GetParentTransformNode(), SegmentationError)
    return transformed(geometry, np.linalg.inv(toWorld))


def _offset(local: Geometry, grid: Geometry, segmentationNode: Any) -> tuple[int, int, int]:
    """Return where the first voxel of one grid lies in another, (z, y, x)."""
    offset = lattice_offset(local, grid)
    if offset is None:
        (size, spacing), (otherSize, otherSpacing) = _words(grid), _words(local)
        raise SegmentationError(
            _(
                "The voxels of '{node}' do not coincide with those of the result: "
                "{size} voxels of {spacing} mm, not {othersize} voxels of {otherspacing} mm."
            ).format(
                node=segmentationNode.GetName(),
                size=size,
                spacing=spacing,
                othersize=otherSize,
                otherspacing=otherSpacing,
            ),
            _("Choose a new segmentation, or the one that was made on this volume."),
        )
    return offset


def _withhold(plan: _Plan, segmentationNode: Any) -> None:
    """Take from the new masks what lies in a completed segment."""
    for segmentID in completedSegments(segmentationNode):
        locked = _onGrid(segmentationNode, segmentID, plan.grid)
        for key, mask in plan.masks.items():
            plan.masks[key] = mask.without(locked)
            if lost := mask.count - plan.masks[key].count:
                plan.withheld[key] = plan.withheld.get(key, 0) + lost


def _takeFromOthers(plan: _Plan, segmentationNode: Any, undo: RunUndo) -> None:
    """Take from the segments that are not part of the run what lies in a new mask."""
    own = {*plan.targets.values(), *undo.writtenIDs}
    for segmentID in segmentIDs(segmentationNode):
        if segmentID in own or isCompleted(segmentOf(segmentationNode, segmentID)):
            continue
        before = after = _onGrid(segmentationNode, segmentID, plan.grid)
        for mask in plan.masks.values():
            after = after.without(mask)
        if lost := before.count - after.count:
            plan.others[segmentID], plan.taken[segmentID] = after, lost


def _execute(plan: _Plan, segmentation: Segmentation, segmentationNode: Any, undo: RunUndo) -> dict[str, str]:
    """Carry a plan out, saving each segment before it changes."""
    ijkToNode = ijkToRasFromGeometry(plan.grid)
    for segmentID, mask in plan.others.items():
        undo.save([segmentID])
        writeMask(segmentationNode, segmentID, mask, ijkToNode)
        undo.changed(segmentID, Labelmap(mask, ijkToNode))
    structures = {structure.key: structure for structure in segmentation.structures}
    written: dict[str, str] = {}
    for key, found in plan.targets.items():
        if found is None:
            segmentID = addSegment(segmentationNode, structures[key])
            undo.added(segmentID)
        else:
            segmentID = found
            undo.save([segmentID])
        mask = plan.masks[key]
        writeMask(segmentationNode, segmentID, mask, ijkToNode)
        segment = segmentOf(segmentationNode, segmentID)
        setOriginTags(segment, structures[key], algorithm=segmentation.algorithm, empty=not mask.bits.size)
        undo.written(segmentID, Labelmap(mask, ijkToNode))
        written[key] = segmentID
    return written


def _onGrid(segmentationNode: Any, segmentID: str, grid: Geometry) -> PackedMask:
    mask = maskOnGrid(readLabelmap(segmentationNode, segmentID), grid)
    if mask is None:
        name = segmentOf(segmentationNode, segmentID).GetName()
        raise SegmentationError(
            _(
                "The voxels of segment '{segment}' do not coincide with those of '{node}': "
                "where it meets a new mask cannot be said exactly."
            ).format(segment=name, node=segmentationNode.GetName()),
            _("Choose to keep overlap, or move the segment into another segmentation."),
        )
    return mask


def _words(geometry: Geometry) -> tuple[str, str]:
    """Return number and size of the voxels, along x, y and z."""
    z, y, x = geometry.shape
    return f"{x} x {y} x {z}", " x ".join(f"{value:g}" for value in geometry.spacing)


__all__ = ["Overlap", "WriteReport", "requireSameGrid", "writeSegmentation"]
