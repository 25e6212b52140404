"""What is mended in a mask after the network: connected components, containment and small gaps.

Which rule applies to which structure is data: :attr:`Task.rules` of the label space. This module
carries the rules out on packed masks, each inside its own bounding box and some planes at a time:
it takes no more memory for a structure as long as the scan. The predictor calls it once, at the end
of a run; it imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from PartialSegLib.components import SLAB_VOXELS, Components, Connectivity
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import Box, PackedMask, Segmentation
from PartialSegLib.structures import LabelSpace, Rule, Task

#: Relative slack of ``drop_small``, so that 50 voxels of 0.96 mm3 count as 48 mm3 in floating point.
_ROUNDING = 1e-6


def apply_rules(
    segmentation: Segmentation,
    label_space: LabelSpace,
    chosen: Iterable[str] | None = None,
    *,
    finished: Callable[[Task, Segmentation], object] | None = None,
    monitor: Monitor | None = None,
) -> Segmentation:
    """Carry out the rules of every task, in the order of the label space.

    A rule is carried out when its structure, and the other structure that it names, are both among
    the chosen ones and both in the segmentation. Otherwise it is skipped: whoever asks for the
    liver tumor alone gets it not clipped to a liver that nobody predicted. A structure that was
    predicted and came out empty is not skipped: it clips everything that lies inside it.

    Parameters
    ----------
    segmentation : Segmentation
        Overlapping masks; not changed.
    label_space : LabelSpace
        Where the rules are written.
    chosen : iterable of str, optional
        Task or structure keys whose rules apply; ``None`` for every structure of the segmentation.
    finished : callable, optional
        Called with each task of the segmentation and its mended structures, as soon as no rule is left
        that could change them.
    monitor : Monitor, optional
        Told about every task.

    Returns
    -------
    Segmentation
        Same grid and structures, mended masks. A mask that no rule touches is the very same object.

    Raises
    ------
    LabelSpaceError
        When `chosen` names no task or structure of the label space.
    CancelledError
        When the monitor was cancelled.
    """
    present = set(segmentation.keys)
    if chosen is not None:
        present &= set(label_space.select(chosen))
    masks = dict(segmentation.masks)
    for index, task in enumerate(label_space.tasks):
        for rule in task.rules:
            if monitor is not None:
                monitor.step("finish", index, len(label_space.tasks))
            if {rule.structure, rule.other or rule.structure} <= present:
                masks[rule.structure] = _apply(rule, masks, segmentation.geometry.voxel_volume)
        if finished is not None:
            for done in label_space.tasks[: index + 1]:
                if _last_change(done, label_space) == index:
                    _tell(finished, done, segmentation, masks)
    return replace(segmentation, masks=masks)


def _last_change(task: Task, label_space: LabelSpace) -> int:
    """Return the index of the last task whose rules may change a structure of `task`; its own, if no other does."""
    return max(
        index
        for index, other in enumerate(label_space.tasks)
        if other is task or any(rule.structure in task.structures for rule in other.rules)
    )


def _tell(
    finished: Callable[[Task, Segmentation], object],
    task: Task,
    segmentation: Segmentation,
    masks: Mapping[str, PackedMask],
) -> None:
    """Pass on the structures of a task, when the segmentation has any."""
    structures = tuple(item for item in segmentation.structures if item.key in task.structures)
    if structures:
        part = {item.key: masks[item.key] for item in structures}
        finished(task, replace(segmentation, structures=structures, masks=part))


def _apply(rule: Rule, masks: Mapping[str, PackedMask], voxel_volume: float) -> PackedMask:
    """Return the mask of `rule.structure` after one rule (`voxel_volume` in cubic millimetres)."""
    mask = masks[rule.structure]
    if rule.op == "keep_largest":
        return keep_largest(mask, rule.count, min_share=rule.min_share, connectivity=rule.connectivity)
    if rule.op == "close":
        return close(mask)
    if rule.op == "drop_small":
        return drop_small(mask, int(rule.max_mm3 / voxel_volume * (1 + _ROUNDING)))
    other = masks[rule.other or rule.structure]
    return join(mask, other) if rule.op == "add" else clip(mask, other)


def join(mask: PackedMask, other: PackedMask) -> PackedMask:
    """Return the union of two masks of one grid (rule ``add``)."""
    if not mask.bits.size or not other.bits.size:
        return mask if mask.bits.size else other
    start, stop = np.minimum(mask.start, other.start), np.maximum(_stop(mask), _stop(other))
    return _by_planes(start, stop, lambda low, high: _region(mask, low, high) | _region(other, low, high))


def clip(mask: PackedMask, other: PackedMask) -> PackedMask:
    """Return the intersection of two masks of one grid (rule ``inside``)."""
    start, stop = np.maximum(mask.start, other.start), np.minimum(_stop(mask), _stop(other))
    if not np.all(start < stop):
        return PackedMask.empty()
    return _by_planes(start, stop, lambda low, high: _region(mask, low, high) & _region(other, low, high))


def keep_largest(
    mask: PackedMask, count: int = 1, *, min_share: float = 0.0, connectivity: Connectivity = 6
) -> PackedMask:
    """Return the `count` largest components; of two equal ones, that which begins first in (z, y, x) order.

    Parameters
    ----------
    min_share : float
        Components of at most this share of the largest one are left out too. 3D U2-Net keeps the
        second largest when it is more than a tenth of the largest.
    connectivity : int
        6, 18 (as 3D U2-Net) or 26 neighbors.
    """
    components = Components(mask, connectivity)
    sizes = components.sizes
    kept = np.zeros(len(sizes), bool)
    kept[np.argsort(-sizes, kind="stable")[:count]] = True
    kept &= sizes > min_share * sizes.max(initial=0)
    return mask if kept.all() else components.only(kept)


def close(mask: PackedMask) -> PackedMask:
    """Return the mask with gaps one voxel wide filled (binary closing; 18 neighbors, as 3D U2-Net).

    Nothing is removed, also not at the border of the image, where the closing of SciPy with its
    defaults removes what touches the border.
    """
    from scipy import ndimage

    if not mask.bits.size:
        return mask
    near = ndimage.generate_binary_structure(3, 2)

    def closed(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        # What is filled depends on two voxels around, and beyond the box there is nothing.
        grown = ndimage.binary_dilation(_region(mask, low - 2, high + 2), near)
        return ndimage.binary_erosion(grown, near)[2:-2, 2:-2, 2:-2]

    # A closed mask never leaves the bounding box.
    return _by_planes(np.asarray(mask.start), _stop(mask), closed)


def drop_small(mask: PackedMask, max_voxels: int) -> PackedMask:
    """Return the mask without components of at most `max_voxels`; a mask of one component is left alone."""
    components = Components(mask)
    sizes = components.sizes
    if len(sizes) <= 1 or sizes.min() > max_voxels:
        return mask
    return components.only(sizes > max_voxels)


def _by_planes(
    start: np.ndarray, stop: np.ndarray, compute: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> PackedMask:
    """Pack the boolean voxels that `compute(low, high)` gives for the box `start` to `stop`, some planes at a time."""
    step = max(1, SLAB_VOXELS // max(1, int(stop[1] - start[1]) * int(stop[2] - start[2])))
    parts = []
    for first in range(int(start[0]), int(stop[0]), step):
        low = np.array([first, start[1], start[2]])
        high = np.array([min(first + step, stop[0]), stop[1], stop[2]])
        parts.append(PackedMask.from_array(compute(low, high), (first, int(start[1]), int(start[2]))))
    return PackedMask.stacked(parts)


def _region(mask: PackedMask, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the boolean voxels `low` to `high` of the grid; nothing is inside beyond the box of the mask."""
    region = np.zeros(high - low, bool)
    planes = mask.planes(int(low[0]), int(high[0]))
    first, last = np.maximum(low, planes.start), np.minimum(high, _stop(planes))
    if np.all(first < last):
        region[_slices(first - low, last - low)] = planes.unpack()[_slices(first - planes.start, last - planes.start)]
    return region


def _stop(mask: PackedMask) -> np.ndarray:
    """Return the voxel after the last one of the box, (z, y, x)."""
    return np.add(mask.start, mask.shape)


def _slices(start: np.ndarray, stop: np.ndarray) -> Box:
    z, y, x = (slice(int(low), int(high)) for low, high in zip(start, stop, strict=True))
    return z, y, x
