"""What is mended in a mask after the network: connected components, containment and small gaps.

Which rule applies to which structure is data: :attr:`Task.rules` of the label space. This module
carries the rules out on packed masks, each inside its own bounding box. The predictor calls it
once, at the end of a run; it imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from PartialSegLib.segmentation import Box, PackedMask, Segmentation
from PartialSegLib.structures import LabelSpace, Rule

#: Neighbors of a voxel: across faces; across edges too; across corners too.
Connectivity = Literal[6, 18, 26]

#: Relative slack of ``drop_small``, so that 50 voxels of 0.96 mm3 count as 48 mm3 in floating point.
_ROUNDING = 1e-6


def apply_rules(
    segmentation: Segmentation, label_space: LabelSpace, chosen: Iterable[str] | None = None
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

    Returns
    -------
    Segmentation
        Same grid and structures, mended masks. A mask that no rule touches is the very same object.

    Raises
    ------
    LabelSpaceError
        When `chosen` names no task or structure of the label space.
    """
    present = set(segmentation.keys)
    if chosen is not None:
        present &= set(label_space.select(chosen))
    masks = dict(segmentation.masks)
    for task in label_space.tasks:
        for rule in task.rules:
            if {rule.structure, rule.other or rule.structure} <= present:
                masks[rule.structure] = _apply(rule, masks, segmentation.geometry.voxel_volume)
    return replace(segmentation, masks=masks)


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
    start = np.minimum(mask.start, other.start)
    union = np.zeros(np.maximum(_stop(mask), _stop(other)) - start, bool)
    for part in (mask, other):
        union[_slices(part.start - start, _stop(part) - start)] |= part.unpack()
    return PackedMask.from_array(union, _point(start))


def clip(mask: PackedMask, other: PackedMask) -> PackedMask:
    """Return the intersection of two masks of one grid (rule ``inside``)."""
    start, stop = np.maximum(mask.start, other.start), np.minimum(_stop(mask), _stop(other))
    if not np.all(start < stop):
        return PackedMask.empty()
    one, two = (part.unpack()[_slices(start - part.start, stop - part.start)] for part in (mask, other))
    return PackedMask.from_array(one & two, _point(start))


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
    labels, sizes = label_components(mask.unpack(), connectivity)
    order = np.argsort(-sizes, kind="stable")[:count]
    kept = order[sizes[order] > min_share * sizes.max(initial=0)]
    return mask if len(kept) == len(sizes) else _only(mask, labels, kept + 1, len(sizes))


def close(mask: PackedMask) -> PackedMask:
    """Return the mask with gaps one voxel wide filled (binary closing; 18 neighbors, as 3D U2-Net).

    Nothing is removed, also not at the border of the image, where the closing of SciPy with its
    defaults removes what touches the border.
    """
    from scipy import ndimage

    if not mask.bits.size:
        return mask
    near = ndimage.generate_binary_structure(3, 2)
    grown = ndimage.binary_dilation(np.pad(mask.unpack(), 2), near)
    # A closed mask never leaves the bounding box.
    closed = ndimage.binary_erosion(grown, near)[2:-2, 2:-2, 2:-2]
    return PackedMask.from_array(closed, mask.start)


def drop_small(mask: PackedMask, max_voxels: int) -> PackedMask:
    """Return the mask without components of at most `max_voxels`; a mask of one component is left alone."""
    labels, sizes = label_components(mask.unpack())
    if len(sizes) <= 1 or sizes.min() > max_voxels:
        return mask
    return _only(mask, labels, np.flatnonzero(sizes > max_voxels) + 1, len(sizes))


def label_components(mask: np.ndarray, connectivity: Connectivity = 6) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected components of a mask.

    Face connectivity (6 neighbors) is that of DoDNet's released post-processing. Components are
    numbered by their first voxel in (z, y, x) order, whichever package found them.

    Parameters
    ----------
    mask : numpy.ndarray
        bool (z, y, x).
    connectivity : int
        6, 18 or 26 neighbors.

    Returns
    -------
    labels : numpy.ndarray
        Unsigned integers (z, y, x); 0 outside, components from 1.
    sizes : numpy.ndarray
        int64 (components,), voxels of components 1, 2, ...
    """
    if not mask.any():
        return np.zeros(mask.shape, np.uint32), np.zeros(0, np.int64)
    found = _find_components(mask, connectivity)
    inside = found[mask]
    first = np.empty(int(inside.max()) + 1, np.int64)
    # Where an index is repeated NumPy keeps the last value, so going backwards leaves the first voxel.
    first[inside[::-1]] = np.arange(len(inside))[::-1]
    order = np.argsort(first[1:])
    rank = np.zeros(len(first), found.dtype)
    rank[order + 1] = np.arange(1, len(first))
    sizes = np.bincount(inside, minlength=len(first))[1:][order]
    return rank[found], sizes


def _find_components(mask: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    """Number the components of a non-empty mask from 1, in any order."""
    try:
        import cc3d
    except ImportError:
        return _find_components_sitk(mask) if connectivity == 6 else _find_components_scipy(mask, connectivity)
    return np.asarray(cc3d.connected_components(mask, connectivity=connectivity))


def _find_components_sitk(mask: np.ndarray) -> np.ndarray:
    """Do the same with SimpleITK, where there is no wheel of connected-components-3d."""
    import SimpleITK as sitk  # noqa: N813

    labels = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), False)
    return sitk.GetArrayFromImage(labels)


def _find_components_scipy(mask: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    """Do the same with SciPy, which also knows the 18 neighbors that SimpleITK does not."""
    from scipy import ndimage

    near = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    return np.asarray(ndimage.label(mask, near)[0], np.uint32)


def _only(mask: PackedMask, labels: np.ndarray, kept: np.ndarray, count: int) -> PackedMask:
    chosen = np.zeros(count + 1, bool)
    chosen[kept] = True
    return PackedMask.from_array(chosen[labels], mask.start)


def _stop(mask: PackedMask) -> np.ndarray:
    """Return the voxel after the last one of the box, (z, y, x)."""
    return np.add(mask.start, mask.shape)


def _slices(start: np.ndarray, stop: np.ndarray) -> Box:
    z, y, x = (slice(int(low), int(high)) for low, high in zip(start, stop, strict=True))
    return z, y, x


def _point(start: np.ndarray) -> tuple[int, int, int]:
    z, y, x = (int(value) for value in start)
    return z, y, x
