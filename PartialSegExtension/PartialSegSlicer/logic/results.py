"""What a run found, as the table of structures shows it: volume, uncertainty, and where to look first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from PartialSegLib.images import Geometry, Image
from PartialSegLib.segmentation import PackedMask
from PartialSegSlicer.geometry import ijkToRasFromGeometry
from PartialSegSlicer.logic.uncertainty import UncertaintyBefore
from PartialSegSlicer.segments import segmentIDs, segmentOf, structureOf
from PartialSegSlicer.writing import WriteReport

Point = tuple[float, float, float]


@dataclass(frozen=True)
class StructureRow:
    """One structure of a run.

    Parameters
    ----------
    segmentID : str
        Its segment.
    key, name : str
        Which structure it is.
    voxels : int
        How many the run found: in the segment too, unless the segment was left alone.
    volumeMl : float
        The same in millilitres.
    status : str
        ``new``, ``replaced``, ``empty`` (searched for and not found), ``completed`` or ``edited`` (the
        segment was left alone, because a person had finished it or edited it during the run), or
        ``present`` (it was there before any run: nothing was measured).
    center : tuple of float or None
        World RAS millimetres of a voxel in the middle of it.
    uncertainty : float or None
        Mean binary entropy of the network's answer in its voxels, in bits: 0 sure, 1 tossed.
    reviewPoint : tuple of float or None
        World RAS millimetres of its most uncertain voxel, in its most uncertain slice.
    """

    segmentID: str
    key: str
    name: str
    voxels: int
    volumeMl: float
    status: str
    center: Point | None = None
    uncertainty: float | None = None
    reviewPoint: Point | None = None


@dataclass(frozen=True)
class SegmentResult:
    """What a run left in the scene.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
        Where the segments are.
    structures : tuple of StructureRow
        In the order of the model.
    report : dict
        What the worker tells of the run: device, times, windows, steps taken when memory ran out.
    write : WriteReport
        What was written, left alone, taken and withheld, and the way back.
    uncertaintyNode : vtkMRMLScalarVolumeNode or None
        Binary entropy in bits, where it was asked for.
    notes : tuple of str
        Sentences that the user should read.
    created : bool
        Whether the run made the segmentation node.
    frame : str
        Index value of the frame of a sequence that the segmentation showed; empty when it shows none.
    uncertaintyBefore : UncertaintyBefore or None
        What the node showed before, from an earlier run.
    """

    segmentationNode: Any
    structures: tuple[StructureRow, ...]
    report: dict[str, Any]
    write: WriteReport
    uncertaintyNode: Any = None
    notes: tuple[str, ...] = ()
    created: bool = False
    frame: str = ""
    uncertaintyBefore: UncertaintyBefore | None = None

    def byUncertainty(self) -> tuple[StructureRow, ...]:
        """Return the rows that can be reviewed, the most uncertain first; without uncertainty, in order."""
        return inReviewOrder(self.structures)


def presentRows(segmentationNode: Any) -> tuple[StructureRow, ...]:
    """Return a row for every segment of a segmentation of which no run is known, as of a scene that was loaded."""
    rows = []
    for segmentID in segmentIDs(segmentationNode):
        structure = structureOf(segmentOf(segmentationNode, segmentID))
        rows.append(StructureRow(segmentID, structure.key, structure.name, 0, 0.0, "present"))
    return tuple(rows)


def inReviewOrder(rows: tuple[StructureRow, ...]) -> tuple[StructureRow, ...]:
    """Return the rows that can be reviewed, the most uncertain first; without uncertainty, in order."""
    shown = [row for row in rows if row.voxels and row.status in ("new", "replaced")]
    return tuple(sorted(shown, key=lambda row: -(row.uncertainty or 0.0)))


def centerOf(mask: PackedMask, geometry: Geometry) -> Point | None:
    """Return a voxel of the mask in the middle of its middle slice, world RAS millimetres."""
    if not mask.bits.size:
        return None
    array = mask.unpack()
    filled = np.flatnonzero(array.any(axis=(1, 2)))
    plane = int(filled[len(filled) // 2])
    inside = np.argwhere(array[plane])
    nearest = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    return _ras((plane, int(nearest[0]), int(nearest[1])), mask, geometry)


def uncertaintyOf(mask: PackedMask, uncertainty: Image) -> tuple[float, Point] | None:
    """Return the mean entropy of a mask in bits, and its most uncertain voxel (world RAS millimetres).

    The slice with the largest sum of entropy comes first; the voxel is the most uncertain one in it.
    """
    if not mask.bits.size:
        return None
    inside = mask.unpack()
    entropy = np.where(inside, uncertainty.voxels[mask.box], 0.0)
    plane = int(entropy.sum(axis=(1, 2)).argmax())
    ranked = np.where(inside[plane], entropy[plane], -1.0)
    row, column = (int(value) for value in np.unravel_index(ranked.argmax(), ranked.shape))
    mean = float(entropy.sum() / np.count_nonzero(inside))
    return mean, _ras((plane, row, column), mask, uncertainty.geometry)


def _ras(index: tuple[int, int, int], mask: PackedMask, geometry: Geometry) -> Point:
    """Return where a voxel (z, y, x) of the box of a mask lies."""
    position = (np.add(index, mask.start))[::-1]
    matrix = ijkToRasFromGeometry(geometry)
    right, anterior, superior = (float(value) for value in matrix[:3, :3] @ position + matrix[:3, 3])
    return right, anterior, superior
