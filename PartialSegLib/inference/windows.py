"""Where the sliding windows lie and how they are weighted.

Windows form a regular grid and their Gaussian weight is a product of three one-dimensional
Gaussians. The sum of all weights at a voxel is therefore a product of three one-dimensional sums:
blended probabilities are normalised without a count map. The weight of 3D U2-Net is no such product;
its sums are counted for the planes at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

import numpy as np

Starts = tuple[int, int, int]


def even_starts(length: int, window: int, overlap: float) -> list[int]:
    """Spread windows evenly over an axis so that neighbours share at least `overlap` (as nnU-Net does).

    Parameters
    ----------
    length, window : int
        Voxels of the axis and of a window; a shorter axis is padded to one window.
    overlap : float
        Shared fraction of neighbouring windows, 0 to below 1.
    """
    if length <= window:
        return [0]
    count = ceil((length - window) / (window * (1 - overlap))) + 1
    return [round(value) for value in np.linspace(0, length - window, count)]


def clamped_starts(length: int, window: int, overlap: float) -> list[int]:
    """Step by a constant stride and push the last window back to the border (as DoDNet does)."""
    if length <= window:
        return [0]
    stride = ceil(window * (1 - overlap))
    count = ceil((length - window) / stride) + 1
    return [min(index * stride, length - window) for index in range(count)]


def repeated_starts(length: int, window: int, overlap: float) -> list[int]:
    """Step by a constant stride to the end of the axis, each window moved back to the border (as 3D U2-Net does).

    With half overlap the last window comes twice or more, and counts so often.
    """
    stride = ceil(window * (1 - overlap))
    return [min(start, max(0, length - window)) for start in range(0, length, stride)]


#: How windows may be laid along an axis, by the names that cards use.
STEPS: Mapping[str, Callable[[int, int, float], list[int]]] = {
    "clamped": clamped_starts,
    "even": even_starts,
    "repeated": repeated_starts,
}


def radial(window: tuple[int, int, int]) -> np.ndarray:
    """Return the float32 (D, H, W) weight of a window of 3D U2-Net.

    It falls with the distance, in voxels, to voxel ``window // 2``, from 1 to almost 0 at the farthest corner.
    """
    axes = (np.arange(size) - size // 2 for size in window)
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance = np.sqrt(z**2 + y**2 + x**2)
    return (1 - distance / distance.max() + 1e-20).astype(np.float32)


def gaussian(window: int) -> np.ndarray:
    """Return the float32 (window,) weight of one axis: sigma is an eighth of the window, maximum 1.

    The product over three axes is the published map, a Gaussian-filtered impulse at voxel
    ``window // 2``, scaled to maximum 1.
    """
    distance = (np.arange(window) - window // 2) / (window / 8.0)
    return np.exp(-0.5 * distance**2).astype(np.float32)


@dataclass(frozen=True)
class WindowGrid:
    """All windows over a padded volume.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the volume, (D, H, W); at least a window along each axis.
    window : tuple of int
        Voxels of a window, (D, H, W).
    starts : tuple of list of int
        First voxels of the windows along each axis, ascending.
    offset : tuple of int
        Voxels of padding before the image along each axis.
    counts : tuple of tuple of int, optional
        How often each start counts, along each axis; once when not given. The windows are weighted by
        :func:`radial` then, as in 3D U2-Net.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    starts: tuple[list[int], list[int], list[int]]
    offset: Starts = (0, 0, 0)
    counts: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def over(
        cls,
        shape: tuple[int, int, int],
        window: tuple[int, int, int],
        overlap: float,
        *,
        steps: str = "even",
        centered: bool = False,
    ) -> WindowGrid:
        """Lay windows over an image of `shape`, padded along axes that are shorter than the window.

        Parameters
        ----------
        shape, window : tuple of int
            Voxels, (D, H, W).
        overlap : float
            Shared fraction of neighbouring windows, 0 to below 1.
        steps : str
            A key of :data:`STEPS`; ``repeated`` weights windows by :func:`radial` too.
        centered : bool
            Pad on both sides, with an odd voxel at the end, as nnU-Net does; else at the end alone.
        """
        placed = [STEPS[steps](length, size, overlap) for length, size in zip(shape, window, strict=True)]
        z, y, x = (sorted(set(starts)) for starts in placed)
        counts = tuple(tuple(starts.count(start) for start in sorted(set(starts))) for starts in placed)
        padded = (max(shape[0], window[0]), max(shape[1], window[1]), max(shape[2], window[2]))
        before = [(size - length) // 2 if centered else 0 for size, length in zip(padded, shape, strict=True)]
        offset = before[0], before[1], before[2]
        return cls(padded, window, (z, y, x), offset, counts if steps == "repeated" else None)

    def __len__(self) -> int:
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    def rows(self) -> Iterator[tuple[int, list[Starts]]]:
        """Yield every z start, ascending, with the starts of its windows."""
        for z in self.starts[0]:
            yield z, [(z, y, x) for y in self.starts[1] for x in self.starts[2]]

    def count(self, start: Starts) -> int:
        """Return how often the window that begins at a voxel counts."""
        if self.counts is None:
            return 1
        places = zip(start, self.starts, self.counts, strict=True)
        return prod(counts[starts.index(at)] for at, starts, counts in places)

    @cached_property
    def weight_map(self) -> np.ndarray:
        """Weight of the voxels of one window, float32 (D, H, W)."""
        if self.counts is not None:
            return radial(self.window)
        z, y, x = self.weights
        return z[:, None, None] * y[:, None] * x

    def sum_of_weights(self, z: slice, y: slice, x: slice) -> tuple[np.ndarray, ...]:
        """Return float32 factors that broadcast to a box; their product is the sum of all weights there."""
        if self.counts is None:
            sums = self.weight_sums
            return sums[0][z][:, None, None], sums[1][y][:, None] * sums[2][x]
        total = np.zeros((z.stop - z.start, *self.shape[1:]))
        for row, starts in self.rows():
            first, last = max(row, z.start), min(row + self.window[0], z.stop)
            if first < last:
                for start in starts:
                    _, height, width = (slice(at, at + size) for at, size in zip(start, self.window, strict=True))
                    planes = self.count(start) * self.weight_map[first - row : last - row]
                    total[first - z.start : last - z.start, height, width] += planes
        return (total[:, y, x].astype(np.float32),)

    @cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gaussian weight of one window along (z, y, x), float32."""
        return gaussian(self.window[0]), gaussian(self.window[1]), gaussian(self.window[2])

    @cached_property
    def weight_sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum of the Gaussian weights of all windows along (z, y, x), float32; their product normalises a voxel."""
        sums = []
        for length, starts, weight in zip(self.shape, self.starts, self.weights, strict=True):
            total = np.zeros(length, np.float64)
            for start in starts:
                total[start : start + len(weight)] += weight
            sums.append(total.astype(np.float32))
        return sums[0], sums[1], sums[2]
