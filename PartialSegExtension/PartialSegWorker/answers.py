"""What the worker tells of a segmentation: files with voxels beside the output, and messages that name them."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from PartialSegWorker.parameters import SegmentParameters
from PartialSegWorker.protocol import Message

if TYPE_CHECKING:
    from PartialSegLib.inference import Result
    from PartialSegLib.segmentation import Segmentation
    from PartialSegLib.structures import Task


def write(result: Result, wanted: SegmentParameters) -> None:
    """Write the files of a complete result."""
    from PartialSegLib.images import write_image
    from PartialSegLib.segmentationfiles import write_segmentation

    if wanted.uncertainty is not None and result.uncertainty is not None:
        write_image(result.uncertainty, wanted.uncertainty)
    # Last, so that whoever sees the masks sees a complete result.
    write_segmentation(result.segmentation, wanted.output)


def parts(wanted: SegmentParameters, emit: Callable[[str, Message], object]) -> Callable[[Task, Segmentation], object]:
    """Return what writes the structures of a finished task to a file of its own, and tells it."""
    from PartialSegLib.segmentationfiles import write_segmentation

    stem = wanted.output[: -len(".seg.nrrd")]

    def tell(task: Task, segmentation: Segmentation) -> None:
        output = f"{stem}.{task.key}.seg.nrrd"
        write_segmentation(segmentation, output)
        emit("partial", {"task": task.key, "output": output, "structures": found(segmentation)})

    return tell


def preview(wanted: SegmentParameters, emit: Callable[[str, Message], object]) -> Callable[[Segmentation], object]:
    """Return what gathers the voxels of finished slabs, and tells them now and then."""
    from PartialSegLib.errors import SegmentationError
    from PartialSegLib.postprocessing import join
    from PartialSegLib.segmentation import PackedMask, Segmentation
    from PartialSegLib.segmentationfiles import write_segmentation

    stem = wanted.output[: -len(".seg.nrrd")]
    seconds = wanted.preview or 0.0
    masks: dict[str, PackedMask] = {}
    numbers = count(1)
    told = time.monotonic()

    def gather(slab: Segmentation) -> None:
        nonlocal told
        for key, mask in slab.masks.items():
            if mask.bits.size:
                masks[key] = join(masks[key], mask) if key in masks else mask
        if not masks or time.monotonic() < told + seconds:
            return
        shown = tuple(structure for structure in slab.structures if structure.key in masks)
        output = f"{stem}.preview{next(numbers)}.seg.nrrd"
        told = time.monotonic()
        try:
            write_segmentation(Segmentation(slab.geometry, shown, dict(masks), slab.algorithm), output)
        except SegmentationError:
            # Kept for the next look; whether the result has room on the disk, it finds out itself.
            return
        emit("preview", {"output": output})
        masks.clear()

    return gather


def found(segmentation: Segmentation) -> list[dict[str, Any]]:
    """Return what was found of each structure, as JSON."""
    return [
        {
            "key": structure.key,
            "name": structure.name,
            "voxels": segmentation.masks[structure.key].count,
            "volume_ml": round(segmentation.volume_ml(structure.key), 3),
        }
        for structure in segmentation.structures
    ]
