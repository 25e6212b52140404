"""The slab ring: probabilities live only in the planes that windows still touch.

Windows are visited in order of z. Once a row of windows is done, the planes before the next row can
receive nothing more; the exporter takes them and the ring reuses their memory. The ring holds
``sum(weight * (probability - 0.5))``: its sign is already the answer, whatever the weights sum to.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from PartialSegLib.inference.heads import LogitSource
from PartialSegLib.inference.windows import Starts, WindowGrid

#: A structure is inside where its blended probability exceeds this.
THRESHOLD = 0.5

# ATen splits an elementwise call over threads in pieces of at least this many elements.
_GRAIN = 32768
# Lanes of the widest vector unit, twice over; a full multiple leaves no scalar remainder.
_LANES = 32


def block_voxels(channels: int, threads: int, device: torch.device) -> int:
    """Return how many voxels a block has.

    On the CPU a block of all channels fits the caches, and it is a multiple of the vector width for
    every thread, so that each element takes the vectorised path of the sigmoid: scalar remainders
    round differently, and results would depend on how classes are grouped.
    """
    if device.type != "cpu":
        return max(4096, 2**25 // channels // 4096 * 4096)
    unit = _LANES * threads
    wanted = max(4096, -(-_GRAIN * threads // channels))
    return -(-wanted // unit) * unit


# A Gaussian falls to 1e-11 in the corners of a window, where a float16 knows zero alone: voxels that no other
# window covers would be lost. Where another does, the floor weighs nothing against it.
_HALF_FLOOR, _HALF_GAIN = 4e-6, 1024.0


class SlabRing:
    """Accumulator of blended probabilities for a run of planes.

    Parameters
    ----------
    channels : int
        Structures.
    windows : WindowGrid
        All windows of the volume.
    device : torch.device
        Where the ring lives.
    dtype : torch.dtype
        float32, or float16 to save GPU memory.
    """

    def __init__(
        self, channels: int, windows: WindowGrid, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.windows = windows
        # One plane more than a window: interpolation looks back one plane across a slab's edge.
        self.depth = min(windows.window[0] + 1, windows.shape[0])
        self.values = torch.zeros(channels, self.depth, *windows.shape[1:], device=device, dtype=dtype)
        weight = torch.from_numpy(windows.weight_map).to(device).flatten()
        #: By how much the values are too large.
        self.gain = _HALF_GAIN if dtype == torch.float16 else 1.0
        if dtype == torch.float16:
            weight = weight.clamp(min=_HALF_FLOOR).mul_(self.gain)
        self._weight = weight
        self._block = block_voxels(channels, torch.get_num_threads(), device)
        self._buffer = torch.zeros(channels, self._block, device=device)

    @property
    def nbytes(self) -> int:
        """Memory of the ring and its buffers in bytes."""
        return sum(part.numel() * part.element_size() for part in (self.values, self._weight, self._buffer))

    def add(self, start: Starts, source: LogitSource, scale: float = 1.0) -> None:
        """Blend one window in.

        Parameters
        ----------
        start : tuple of int
            First voxel of the window, (z, y, x).
        source : LogitSource
            Its logits.
        scale : float
            Weight of this answer among several for the same window (mirrored copies).
        """
        _, height, width = self.windows.window
        plane = height * width
        scale *= self.windows.count(start)
        for first, last, at in self.segments(start[0], start[0] + self.windows.window[0]):
            offset = (first - start[0]) * plane
            target = self.values[:, at : at + last - first, start[1] : start[1] + height, start[2] : start[2] + width]
            for planes, rows in self._blocks(last - first):
                begin = offset + planes.start * plane + rows.start * width
                end = offset + (planes.stop - 1) * plane + rows.stop * width
                block = self._probabilities(source, begin, end, scale)
                part = target[:, planes, rows]
                part.add_(block.view(part.shape))

    def segments(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Split planes `first` to `last` where the ring wraps: (first, last, place in the ring)."""
        while first < last:
            at = first % self.depth
            stop = min(last, first + self.depth - at)
            yield first, stop, at
            first = stop

    def clear(self, first: int, last: int) -> None:
        """Make planes `first` to `last` ready for reuse."""
        for start, stop, at in self.segments(first, last):
            self.values[:, at : at + stop - start] = 0

    def _blocks(self, planes: int) -> Iterator[tuple[slice, slice]]:
        """Cut `planes` planes of a window into blocks: part of a plane, or several whole planes."""
        _, height, width = self.windows.window
        together = self._block // (height * width)
        if together:
            for plane in range(0, planes, together):
                yield slice(plane, min(plane + together, planes)), slice(0, height)
            return
        rows = max(1, self._block // width)
        for plane in range(planes):
            for row in range(0, height, rows):
                yield slice(plane, plane + 1), slice(row, min(row + rows, height))

    def _probabilities(self, source: LogitSource, begin: int, end: int, scale: float) -> Tensor:
        """Return (C, n) weighted probabilities, less the threshold, of a flattened stretch of the window."""
        buffer = self._buffer
        if end - begin > buffer.shape[1]:  # a single row longer than a block
            buffer = buffer.new_zeros(buffer.shape[0], -(-(end - begin) // _LANES) * _LANES)
        source.fill(begin, end, buffer)
        # The whole buffer, filled or not: see block_voxels.
        buffer.sigmoid_().sub_(THRESHOLD)
        weight = self._weight[begin:end]
        block = buffer[:, : end - begin]
        block.mul_(weight if scale == 1.0 else weight * scale)
        return block.to(self.values.dtype)
