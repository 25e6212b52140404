"""Boxes of an image that a run is limited to. Called by the predictor."""

from __future__ import annotations

from collections.abc import Sequence

from PartialSegLib.preprocessing import NetworkGrid, intersect
from PartialSegLib.segmentation import Box, PackedMask


def clip_masks(masks: dict[str, PackedMask], grid: NetworkGrid, region: Box) -> dict[str, PackedMask]:
    """Remove everything outside a region of the oriented image."""
    box = grid.image_box(region)
    clipped = {}
    for key, mask in masks.items():
        shared = intersect(mask.box, box)
        inner = tuple(slice(part.start - at, part.stop - at) for part, at in zip(shared, mask.start, strict=True))
        clipped[key] = PackedMask.from_array(mask.unpack()[inner], tuple(part.start for part in shared))
    return clipped


def hull(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that holds all of `boxes`."""
    z, y, x = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return z, y, x
