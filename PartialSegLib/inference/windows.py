"""Where the sliding windows lie and how they are weighted.

Windows form a regular grid and their Gaussian weight is a product of three one-dimensional
Gaussians. The sum of all weights at a voxel is therefore a product of three one-dimensional sums:
blended probabilities are normalised without a count map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil

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
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    starts: tuple[list[int], list[int], list[int]]
    offset: Starts = (0, 0, 0)

    @classmethod
    def over(
        cls,
        shape: tuple[int, int, int],
        window: tuple[int, int, int],
        overlap: float,
        *,
        clamped: bool = False,
        centered: bool = False,
    ) -> WindowGrid:
        """Lay windows over an image of `shape`, padded along axes that are shorter than the window.

        Parameters
        ----------
        shape, window : tuple of int
            Voxels, (D, H, W).
        overlap : float
            Shared fraction of neighbouring windows, 0 to below 1.
        clamped : bool
            Place windows by :func:`clamped_starts`, not :func:`even_starts`.
        centered : bool
            Pad on both sides, with an odd voxel at the end, as nnU-Net does; else at the end alone.
        """
        place = clamped_starts if clamped else even_starts
        z, y, x = (place(length, size, overlap) for length, size in zip(shape, window, strict=True))
        padded = (max(shape[0], window[0]), max(shape[1], window[1]), max(shape[2], window[2]))
        before = [(size - length) // 2 if centered else 0 for size, length in zip(padded, shape, strict=True)]
        return cls(padded, window, (z, y, x), (before[0], before[1], before[2]))

    def __len__(self) -> int:
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    def rows(self) -> Iterator[tuple[int, list[Starts]]]:
        """Yield every z start, ascending, with the starts of its windows."""
        for z in self.starts[0]:
            yield z, [(z, y, x) for y in self.starts[1] for x in self.starts[2]]

    @cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight of one window along (z, y, x), float32."""
        return gaussian(self.window[0]), gaussian(self.window[1]), gaussian(self.window[2])

    @cached_property
    def weight_sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum of the weights of all windows along (z, y, x), float32; their product normalises a voxel."""
        sums = []
        for length, starts, weight in zip(self.shape, self.starts, self.weights, strict=True):
            total = np.zeros(length, np.float64)
            for start in starts:
                total[start : start + len(weight)] += weight
            sums.append(total.astype(np.float32))
        return sums[0], sums[1], sums[2]
