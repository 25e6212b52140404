"""From finished slabs of the network's grid to packed masks on the image's own grid.

Linear interpolation is convex: a voxel can only exceed the threshold if one of its eight neighbours
does. So only the box of each structure's positive voxels is interpolated, slab by slab, thresholded
and packed to bits. The result is, bit for bit, that of interpolating everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from PartialSegLib.inference.slabs import THRESHOLD, SlabRing
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.preprocessing import NetworkGrid
from PartialSegLib.resampling import Taps
from PartialSegLib.segmentation import Box, PackedMask


@dataclass
class Confidence:
    """Entropy of the probabilities, gathered while slabs pass by.

    Parameters
    ----------
    values : numpy.ndarray
        float16 (z, y, x) of the crop: mean binary entropy of the structures, in bits (0 to 1).
    inside : numpy.ndarray
        float64 (C,): sum of each structure's own entropy over its voxels on the network's grid.
    voxels : numpy.ndarray
        int64 (C,): number of those voxels.
    """

    values: np.ndarray
    inside: np.ndarray
    voxels: np.ndarray


class _Shelf:
    """Keeps small arrays side by side in large blocks.

    The C library maps large blocks on their own. Small ones that last would lie scattered among
    what the network allocates and frees, which then finds no room to be used again.
    """

    _BLOCK = 2**22

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._used = 0

    def keep(self, mask: PackedMask) -> PackedMask:
        """Return the same mask with its bits on the shelf."""
        size = mask.bits.size
        if self._used + size > self._block.size:
            self._block, self._used = np.empty(max(size, self._BLOCK), np.uint8), 0
        place = self._block[self._used : self._used + size].reshape(mask.bits.shape)
        place[...] = mask.bits
        self._used += size
        return PackedMask(mask.start, mask.shape, place)


def voxels_together(device: torch.device) -> int:
    """Return how many voxels are interpolated together: on the CPU a few megabytes, not all planes of a slab."""
    return 2**20 if device.type == "cpu" else 2**24


class SlabExporter:
    """Turns finished planes of a :class:`SlabRing` into packed masks.

    Parameters
    ----------
    grid : NetworkGrid
        From :func:`PartialSegLib.preprocessing.prepare`.
    windows : WindowGrid
        All windows over the (padded) network grid.
    channels : int
        Structures.
    device : torch.device
        Where the ring lives.
    confidence : bool
        Gather the entropy map too.
    """

    def __init__(
        self, grid: NetworkGrid, windows: WindowGrid, channels: int, device: torch.device, *, confidence: bool = False
    ) -> None:
        self._grid = grid
        self._device = device
        self._taps = [grid.taps(axis) for axis in range(3)]
        self._windows = windows
        self._before = windows.offset
        self._pieces: list[list[PackedMask]] = [[] for _ in range(channels)]
        self._shelf = _Shelf()
        self._emitted = 0
        #: Pieces of each channel that :meth:`fresh` has returned.
        self._told = [0] * channels
        self.confidence: Confidence | None = None
        self._last_entropy: Tensor | None = None
        if confidence:
            blank = np.zeros(grid.crop_shape, np.float16)
            self.confidence = Confidence(blank, np.zeros(channels), np.zeros(channels, np.int64))

    def take(self, ring: SlabRing, first: int, last: int) -> None:
        """Export what planes `first` to `last` of the ring, just finished, make possible."""
        depth = self._grid.shape[0]
        first, last = max(first - self._before[0], 0), min(last - self._before[0], depth)
        if first >= last:
            return
        upper = self._taps[0].upper
        end = len(upper) if last == depth else int(np.searchsorted(upper, last))
        for channel in range(len(self._pieces)):
            box = self._positive_box(ring, channel, max(first - 1, 0), last)
            if box is not None:
                self._interpolate(ring, channel, box, self._emitted, end)
        if self.confidence is not None:
            self._measure(ring, self.confidence, first, last, end)
        self._emitted = end

    def fresh(self) -> list[PackedMask]:
        """Return what was found since the last call: one mask per channel on the image's own grid."""
        found = [_join(pieces[told:], self._grid) for pieces, told in zip(self._pieces, self._told, strict=True)]
        self._told = [len(pieces) for pieces in self._pieces]
        return found

    def masks(self) -> list[PackedMask]:
        """Return one mask per channel on the image's own grid; call it once, after the last slab."""
        # Pieces of a structure are let go as soon as they are joined.
        self._pieces.reverse()
        return [_join(self._pieces.pop(), self._grid) for _ in range(len(self._pieces))]

    def _positive_box(self, ring: SlabRing, channel: int, first: int, last: int) -> Box | None:
        """Return the box of voxels above the threshold, on the network's grid."""
        _, height, width = self._grid.shape
        above, left = self._before[1:]
        planes, shadow = [], None
        for start, stop, at in self._segments(ring, first, last):
            values = ring.values[channel, at : at + stop - start, above : above + height, left : left + width]
            positive = (values.amax(dim=2) > 0).cpu().numpy()
            planes.append(positive)
            columns = values.amax(dim=0).amax(dim=0)
            shadow = columns if shadow is None else torch.maximum(shadow, columns)
        rows = np.concatenate(planes)
        z, y = np.flatnonzero(rows.any(axis=1)), np.flatnonzero(rows.any(axis=0))
        if not z.size or shadow is None:
            return None
        x = np.flatnonzero((shadow > 0).cpu().numpy())
        return (
            slice(first + int(z[0]), first + int(z[-1]) + 1),
            slice(int(y[0]), int(y[-1]) + 1),
            slice(int(x[0]), int(x[-1]) + 1),
        )

    def _interpolate(self, ring: SlabRing, channel: int, box: Box, begin: int, end: int) -> None:
        """Interpolate one structure in the box, for the image's planes `begin` to `end`, and pack it."""
        z, y, x = (_reached(taps, part) for taps, part in zip(self._taps, box, strict=True))
        z = slice(max(z.start, begin), min(z.stop, end))
        if any(part.start >= part.stop for part in (z, y, x)):
            return
        plane = max(y.stop - y.start, box[1].stop - box[1].start) * max(x.stop - x.start, box[2].stop - box[2].start)
        step = max(1, voxels_together(self._device) // plane)
        for first in range(z.start, z.stop, step):
            self._pack(ring, channel, (slice(first, min(first + step, z.stop)), y, x))

    def _pack(self, ring: SlabRing, channel: int, out: Box) -> None:
        """Interpolate one structure at `out`, a box of the crop, and pack what is inside."""
        source = [
            slice(int(t.lower[part.start]), int(t.upper[part.stop - 1]) + 1)
            for t, part in zip(self._taps, out, strict=True)
        ]
        values = self._blended(ring, slice(channel, channel + 1), source)[0]
        for axis in range(3):
            values = _lerp(values, self._taps[axis], out[axis], source[axis].start, axis)
        mask = (values > 0).cpu().numpy()
        piece = PackedMask.from_array(mask, (out[0].start, out[1].start, out[2].start))
        if piece.bits.size:
            self._pieces[channel].append(self._shelf.keep(piece))

    def _segments(self, ring: SlabRing, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Find planes of the network's grid in the ring, which holds the padding before them too."""
        return ring.segments(first + self._before[0], last + self._before[0])

    def _blended(self, ring: SlabRing, channels: slice, source: Sequence[slice]) -> Tensor:
        """Return float32 (C, z, y, x) mean probabilities, less the threshold, of a box of the ring."""
        depth, rows, columns = (
            slice(part.start + before, part.stop + before) for part, before in zip(source, self._before, strict=True)
        )
        segments = ring.segments(depth.start, depth.stop)
        planes = torch.cat(
            [ring.values[channels, at : at + stop - start, rows, columns] for start, stop, at in segments], dim=1
        ).float()
        for factor in self._windows.sum_of_weights(depth, rows, columns):
            planes.div_(torch.from_numpy(factor).to(self._device))
        return planes.div_(ring.gain)

    def _measure(self, ring: SlabRing, confidence: Confidence, first: int, last: int, end: int) -> None:
        """Add the entropy of planes `first` to `last`, and interpolate it for image planes up to `end`."""
        _, height, width = self._grid.shape
        source = [slice(first, last), slice(0, height), slice(0, width)]
        total = torch.zeros(last - first, height, width, device=self._device)
        for channel in range(len(self._pieces)):
            probability = self._blended(ring, slice(channel, channel + 1), source)[0].add_(THRESHOLD)
            entropy = _binary_entropy(probability)
            inside = probability > THRESHOLD
            confidence.inside[channel] += float(entropy[inside].sum(dtype=torch.float64))
            confidence.voxels[channel] += int(inside.sum())
            total += entropy
        total /= len(self._pieces)
        begin = first
        if self._last_entropy is not None:
            total, begin = torch.cat([self._last_entropy, total]), first - 1
        out = slice(self._emitted, end)
        if out.start < out.stop:
            values = _lerp(total, self._taps[0], out, begin, 0)
            for axis in (1, 2):
                values = _lerp(values, self._taps[axis], slice(0, len(self._taps[axis].lower)), 0, axis)
            confidence.values[out] = values.cpu().numpy()
        self._last_entropy = total[-1:]


def _reached(taps: Taps, part: slice) -> slice:
    """Return the interpolated positions that use at least one sample of `part`."""
    begin = int(np.searchsorted(taps.upper, part.start))
    end = int(np.searchsorted(taps.lower, part.stop))
    return slice(begin, end)


def _lerp(values: Tensor, taps: Taps, out: slice, origin: int, axis: int) -> Tensor:
    """Interpolate `values`, whose first sample is `origin`, at positions `out` of one axis.

    Elementwise on purpose: each voxel is rounded alike, whatever box it is computed in.
    """
    lower = torch.from_numpy(taps.lower[out] - origin).to(values.device)
    upper = torch.from_numpy(taps.upper[out] - origin).to(values.device)
    fraction = torch.from_numpy(taps.fraction[out]).to(values.device)
    shape = [1, 1, 1]
    shape[axis] = -1
    fraction = fraction.view(shape)
    low = values.index_select(axis, lower).mul_(1 - fraction)
    return low.add_(values.index_select(axis, upper).mul_(fraction))


def _binary_entropy(probability: Tensor) -> Tensor:
    """Return the entropy in bits of each probability."""
    p = probability.clamp(1e-6, 1 - 1e-6)
    return -(p * torch.log2(p) + (1 - p) * torch.log2(1 - p))


def _join(pieces: list[PackedMask], grid: NetworkGrid) -> PackedMask:
    """Join the pieces of one structure, which follow each other in z, and move them to the image's axes.

    Pieces are unpacked one at a time, so that a long structure takes little memory.
    """
    if not pieces:
        return PackedMask.empty()
    low = [min(piece.start[axis] for piece in pieces) for axis in range(3)]
    high = [max(piece.start[axis] + piece.shape[axis] for piece in pieces) for axis in range(3)]
    z, y, x = (b - a for a, b in zip(low, high, strict=True))
    bits = np.zeros((z, y, -(-x // 8)), np.uint8)
    for piece in pieces:
        planes = np.zeros((piece.shape[0], y, x), bool)
        row, column = piece.start[1] - low[1], piece.start[2] - low[2]
        planes[:, row : row + piece.shape[1], column : column + piece.shape[2]] = piece.unpack()
        at = piece.start[0] - low[0]
        bits[at : at + piece.shape[0]] = np.packbits(planes, axis=-1)
    start = [at + part.start for at, part in zip(low, grid.crop, strict=True)]
    return grid.restore(PackedMask((start[0], start[1], start[2]), (z, y, x), bits))
