"""Connected components of masks: numbered, measured and chosen, a few planes at a time.

Every component has a number, in the (z, y, x) order of their first voxels, whichever package found
them. :class:`Components` numbers those of a packed mask without ever unpacking the whole of it, so
that a structure as long as the scan takes no more memory than a short one. Called by
:mod:`PartialSegLib.postprocessing`, whose rules choose among components; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from PartialSegLib.segmentation import PackedMask

#: Neighbors of a voxel: across faces; across edges too; across corners too.
Connectivity = Literal[6, 18, 26]

#: Voxels that are numbered together: some tens of megabytes, numbers and their order included.
SLAB_VOXELS = 2**20


class Components:
    """The connected components of a packed mask.

    The mask is cut into slabs that share a plane. Numbers of two slabs that meet at a voxel of the
    shared plane are one component, whatever the connectivity.

    Parameters
    ----------
    mask : PackedMask
        Any size.
    connectivity : int
        6, 18 or 26 neighbors.
    slab_voxels : int
        How many voxels are unpacked together, about.

    Attributes
    ----------
    sizes : numpy.ndarray
        int64 (components,): voxels of each, in the order of their first voxels.
    """

    def __init__(self, mask: PackedMask, connectivity: Connectivity = 6, slab_voxels: int = SLAB_VOXELS) -> None:
        self._mask = mask
        self._connectivity: Connectivity = connectivity
        self._step = max(1, slab_voxels // max(1, mask.shape[1] * mask.shape[2]))
        pieces, pairs, edge = [np.zeros(0, np.int64)], [np.zeros((2, 0), np.int64)], None
        before = found = 0
        for shared, labels in self._slabs():
            sizes = np.bincount(labels[shared:].ravel())
            if edge is not None:
                met = labels[0] > 0
                numbers = np.stack([edge[met] + before, labels[0][met].astype(np.int64) + found])
                pairs.append(np.unique(numbers - 1, axis=1))
            count = int(labels.max(initial=0))
            pieces.append(np.pad(sizes, (0, count + 1 - len(sizes)))[1:])
            edge, before, found = labels[-1].astype(np.int64), found, found + count
        # Component of each piece: pieces are in the order of their first voxels, and so are components.
        self._component = _joined(np.concatenate(pairs, axis=1), found)
        self.sizes = np.zeros(int(self._component.max(initial=-1)) + 1, np.int64)
        np.add.at(self.sizes, self._component, np.concatenate(pieces))

    def only(self, kept: np.ndarray) -> PackedMask:
        """Return the mask of some components.

        Parameters
        ----------
        kept : numpy.ndarray
            Boolean (components,).
        """
        parts, found = [], 0
        for start, (shared, labels) in zip(range(0, self._mask.shape[0], self._step), self._slabs(), strict=True):
            count = int(labels.max(initial=0))
            chosen = np.concatenate([[False], kept[self._component[found : found + count]]])
            z, y, x = self._mask.start
            parts.append(PackedMask.from_array(chosen[labels[shared:]], (z + start, y, x)))
            found += count
        return PackedMask.stacked(parts)

    def _slabs(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each slab's numbers (planes, y, x), and how many of its planes it shares with the last one."""
        for start in range(0, self._mask.shape[0], self._step):
            shared = 1 if start else 0
            first = self._mask.start[0] + start
            slab = self._mask.planes(first - shared, first + self._step)
            yield shared, number_components(slab.unpack(), self._connectivity)


def number_components(mask: np.ndarray, connectivity: Connectivity = 6) -> np.ndarray:
    """Number the connected components of a mask in the (z, y, x) order of their first voxels.

    Parameters
    ----------
    mask : numpy.ndarray
        bool (z, y, x).
    connectivity : int
        6 (as DoDNet's released post-processing), 18 (as 3D U2-Net's) or 26 neighbors.

    Returns
    -------
    numpy.ndarray
        Unsigned integers (z, y, x); 0 outside, components from 1.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.uint32)
    found = _find(mask, connectivity)
    inside = found[mask]
    first = np.empty(int(inside.max()) + 1, np.int64)
    # Where an index is repeated NumPy keeps the last value, so going backwards leaves the first voxel.
    first[inside[::-1]] = np.arange(len(inside))[::-1]
    if np.all(first[1:-1] < first[2:]):
        return found
    rank = np.zeros(len(first), found.dtype)
    rank[np.argsort(first[1:]) + 1] = np.arange(1, len(first))
    return rank[found]


def _joined(pairs: np.ndarray, count: int) -> np.ndarray:
    """Return the component (from 0) of each of `count` pieces, when the (2, n) `pairs` of them are one."""
    if not pairs.size:
        return np.arange(count)
    from scipy import sparse

    links = sparse.coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(count, count))
    _, component = sparse.csgraph.connected_components(links, directed=False)
    # SciPy promises no order.
    _, first = np.unique(component, return_index=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[component]


def _find(mask: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    """Number the components of a non-empty mask from 1, in any order."""
    try:
        import cc3d
    except ImportError:
        return _find_with_sitk(mask) if connectivity == 6 else _find_with_scipy(mask, connectivity)
    return np.asarray(cc3d.connected_components(mask, connectivity=connectivity))


def _find_with_sitk(mask: np.ndarray) -> np.ndarray:
    """Do the same with SimpleITK, where there is no wheel of connected-components-3d."""
    import SimpleITK as sitk  # noqa: N813

    labels = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), False)
    return sitk.GetArrayFromImage(labels)


def _find_with_scipy(mask: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    """Do the same with SciPy, which also knows the 18 neighbors that SimpleITK does not."""
    from scipy import ndimage

    near = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    return np.asarray(ndimage.label(mask, near)[0], np.uint32)
