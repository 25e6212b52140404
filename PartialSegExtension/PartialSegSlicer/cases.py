"""Corrected segments as a training case: the scan, one mask file a structure, and what was annotated.

The layout is the one that ``PartialSegTraining.cases.read_mask_folders`` reads::

    CASE/image.nii.gz                  the scan, in the voxels of the volume node
    CASE/segmentations/KEY.nii.gz      one mask for each annotated structure, 0 and 1
    CASE/case.json                     what was annotated, and what each mask shows

A mask without a voxel says "looked for and absent"; a structure without a mask was not annotated,
and a training on the case learns nothing about it. Masks overlap as the segments do: no label map
is ever merged. ``case.json`` names no patient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib import __version__
from PartialSegLib.atomic import replacing_folder
from PartialSegLib.errors import ImageError, SegmentationError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.segmentation import PackedMask
from PartialSegLib.segmentationfiles import slicertags
from PartialSegLib.structures import Structure
from PartialSegSlicer.geometry import matrixToWorld, transformed
from PartialSegSlicer.labelmaps import maskOnGrid, readLabelmap
from PartialSegSlicer.nodes import requireSegmentationNode
from PartialSegSlicer.segments import completedSegments, segmentIDs, segmentOf, structureOf
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.volumes import imageFromVolumeNode

#: Version of ``case.json``.
CASE_VERSION = 1


def exportCase(
    volumeNode: Any,
    segmentationNode: Any,
    folder: str | Path,
    *,
    annotated: Iterable[str] | None = None,
    replace: bool = False,
) -> tuple[str, ...]:
    """Save segments as a training case; every voxel comes out as it is in the segment.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
        The scan.
    segmentationNode : vtkMRMLSegmentationNode
        Neither node is changed. Segments stored as surfaces are converted on the grid of the volume.
    folder : str or Path
        Folder of the case; its name is the name of the case, and its parent exists.
    annotated : iterable of str, optional
        IDs of the segments whose structures were annotated; those marked "Completed" when left out.
    replace : bool
        Whether an older case of that folder is replaced.

    Returns
    -------
    tuple of str
        Keys of the annotated structures.

    Raises
    ------
    ImageError
        When the volume is no scan, or its grid is sheared, which NIfTI does not keep.
    SegmentationError
        When no segment is annotated, two show the same structure, a segment does not lie on the
        voxels of the volume or reaches outside it, or the folder exists or cannot be written.
    """
    requireSegmentationNode(segmentationNode)
    chosen = tuple(completedSegments(segmentationNode) if annotated is None else annotated)
    if not chosen:
        raise SegmentationError(
            _("No segment of '{node}' is marked as corrected.").format(node=segmentationNode.GetName()),
            _("Mark those that are right as 'Completed': only they are saved."),
        )
    structures = _structures(segmentationNode, chosen)
    folder = Path(folder)
    with _writing(folder):
        _requireFree(folder, replace)
    image = imageFromVolumeNode(volumeNode)
    if image.geometry.is_sheared:
        raise ImageError(
            _(
                "The grid of '{volume}' is sheared, by its transform or a gantry tilt: "
                "the files of a case keep no such grid."
            ).format(volume=volumeNode.GetName()),
            _("Take it out of the transform, or resample it to a regular grid and segment that."),
        )
    masks = {
        structure.key: maskOnVolume(segmentationNode, segmentID, image.geometry)
        for segmentID, structure in structures.items()
    }
    with _writing(folder), replacing_folder(folder) as unfinished:
        _write(unfinished, folder.name, image, tuple(structures.values()), masks)
    return tuple(masks)


def maskOnVolume(segmentationNode: Any, segmentID: str, geometry: Geometry) -> PackedMask:
    """Return the voxels of a segment on the world grid of its volume, exactly.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
        Any linear parent transform and any source representation.
    segmentID : str
    geometry : Geometry
        As :func:`~PartialSegSlicer.volumes.geometryFromVolumeNode` returns it.

    Raises
    ------
    SegmentationError
        When there is no such segment, its voxels do not coincide with those of the volume, it
        reaches outside, or its transform is not linear.
    """
    toWorld = matrixToWorld(segmentationNode, segmentationNode.GetParentTransformNode(), SegmentationError)
    local = transformed(geometry, np.linalg.inv(toWorld))
    name = segmentOf(segmentationNode, segmentID).GetName()
    mask = maskOnGrid(readLabelmap(segmentationNode, segmentID, local), local)
    if mask is None:
        raise SegmentationError(
            _("The voxels of segment '{segment}' do not coincide with those of the volume.").format(segment=name),
            _("Choose the volume on which it was drawn, or resample the segmentation to this one in Segmentations."),
        )
    outside = mask.count - _inside(mask, geometry.shape).count
    if outside:
        raise SegmentationError(
            _("Segment '{segment}' has {count} voxels outside the volume.").format(segment=name, count=outside),
            _("Erase them in the Segment Editor, or choose the volume on which it was drawn."),
        )
    return mask


def _inside(mask: PackedMask, shape: tuple[int, int, int]) -> PackedMask:
    """Return the part of a mask that lies in a grid of this shape."""
    ends = np.minimum(np.add(mask.start, mask.shape), shape)
    low = np.maximum(mask.start, 0)
    if np.any(low >= ends):
        return PackedMask.empty()
    part = tuple(slice(int(a - at), int(b - at)) for a, b, at in zip(low, ends, mask.start, strict=True))
    z, y, x = (int(value) for value in low)
    return PackedMask.from_array(mask.unpack()[part], (z, y, x))


def _structures(segmentationNode: Any, chosen: tuple[str, ...]) -> dict[str, Structure]:
    """Return what each segment shows; a structure has one mask in a case."""
    structures: dict[str, Structure] = {}
    keys: dict[str, str] = {}
    for segmentID in (item for item in dict.fromkeys((*segmentIDs(segmentationNode), *chosen)) if item in chosen):
        structure = structureOf(segmentOf(segmentationNode, segmentID))
        if structure.key != slicertags.slug(structure.key):
            raise SegmentationError(
                _("Segment '{segment}' names its structure '{key}', which is no key.").format(
                    segment=structure.name, key=structure.key
                ),
                _("Remove its tag PartialSeg.Key; the name of the segment is used then."),
            )
        if structure.key in keys:
            raise SegmentationError(
                _("The segments '{first}' and '{second}' both show '{structure}'.").format(
                    first=keys[structure.key], second=structure.name, structure=structure.key
                ),
                _("Take the mark from one of them."),
            )
        structures[segmentID], keys[structure.key] = structure, structure.name
    return structures


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in words of a case what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise SegmentationError(
            _("The case '{folder}' could not be written: {reason}.").format(
                folder=folder, reason=error.strerror or error
            ),
            _("Check that its parent folder exists, may be written and has space, and that the name is not too long."),
        ) from error


def _requireFree(folder: Path, replace: bool) -> None:
    """Refuse to put a case where something else is."""
    if not folder.name:
        raise SegmentationError(
            _("'{folder}' is no name of a case.").format(folder=folder), _("Give a folder of its own.")
        )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "case.json").is_file():
        raise SegmentationError(
            _("'{folder}' exists and is no training case.").format(folder=folder), _("Choose another name.")
        )
    if not replace:
        raise SegmentationError(
            _("There is a training case '{folder}' already.").format(folder=folder),
            _("Choose another name, or replace that case."),
        )


def _write(
    folder: Path, name: str, image: Image, structures: tuple[Structure, ...], masks: dict[str, PackedMask]
) -> None:
    """Fill the folder of a case."""
    write_image(image, folder / "image.nii.gz")
    (folder / "segmentations").mkdir()
    for key, mask in masks.items():
        voxels = np.zeros(image.geometry.shape, np.uint8)
        voxels[mask.box] = mask.unpack()
        write_image(Image(voxels, image.geometry), folder / "segmentations" / f"{key}.nii.gz")
    document = {
        "version": CASE_VERSION,
        "name": name,
        "image": "image.nii.gz",
        "annotated": list(masks),
        "masks": {key: {"file": f"segmentations/{key}.nii.gz", "voxels": mask.count} for key, mask in masks.items()},
        "structures": [structure.to_json() for structure in structures],
        "software": f"PartialSeg {__version__}",
    }
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    (folder / "case.json").write_text(text, encoding="utf-8")


__all__ = ["CASE_VERSION", "exportCase", "maskOnVolume"]
