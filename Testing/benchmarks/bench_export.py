"""Export of 47 overlapping structures to a finer grid: ours against dense interpolation, in one run.

133x256x256 to 200x384x384, with about 0.2 % of all class voxels inside, as in a CT of many organs.
The dense way interpolates each whole structure with PyTorch, thresholds and packs it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from harness import Row, seconds
from PartialSegLib.images import Geometry
from PartialSegLib.inference.export import SlabExporter
from PartialSegLib.inference.slabs import SlabRing
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.preprocessing import NetworkGrid

STRUCTURES = 47
SOURCE = (133, 256, 256)
TARGET = (200, 384, 384)


def ring_of_ellipsoids(windows: WindowGrid) -> SlabRing:
    """Return a full ring with one smooth random ellipsoid a structure, weighted as windows weight it."""
    rng = np.random.default_rng(7)
    ring = SlabRing(STRUCTURES, windows, torch.device("cpu"))
    sums = [torch.from_numpy(values) for values in windows.weight_sums]
    axes = [torch.arange(size, dtype=torch.float32) for size in SOURCE]
    for values in ring.values:
        center = [rng.uniform(0.2, 0.8) * size for size in SOURCE]
        radius = rng.uniform(6, 26, 3)
        z, y, x = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, center, radius, strict=True))
        distance = (z[:, None, None] + y[:, None] + x).sqrt_()
        values.copy_(torch.sigmoid((1 - distance) * 8) - 0.5)
        values.mul_(sums[0][:, None, None]).mul_(sums[1][:, None] * sums[2])
    return ring


def run() -> list[Row]:
    """Time both ways and count differing voxels."""
    whole = tuple(slice(0, size) for size in TARGET)
    grid = NetworkGrid(Geometry(TARGET), (0, 1, 2), (False, False, False), whole, SOURCE)
    windows = WindowGrid(SOURCE, SOURCE, ([0], [0], [0]))
    ring = ring_of_ellipsoids(windows)
    sums = [torch.from_numpy(values) for values in windows.weight_sums]
    exported, reference = [], []

    def ours() -> None:
        exporter = SlabExporter(grid, windows, STRUCTURES, torch.device("cpu"))
        exporter.take(ring, 0, SOURCE[0])
        exported[:] = exporter.masks()

    def dense() -> None:
        reference.clear()
        for values in ring.values:
            mean = values / sums[0][:, None, None] / (sums[1][:, None] * sums[2])
            fine = functional.interpolate(mean[None, None], TARGET, mode="trilinear", align_corners=False)
            reference.append(np.packbits((fine[0, 0] > 0).numpy(), axis=-1))

    with torch.inference_mode():
        mine, theirs = seconds(ours, 2), seconds(dense, 1)
    different = inside = 0
    for mask, bits in zip(exported, reference, strict=True):
        full = np.zeros(TARGET, bool)
        full[mask.box] = mask.unpack()
        truth = np.unpackbits(bits, axis=-1).view(bool)
        different += int((full != truth).sum())
        inside += int(truth.sum())
    voxels = f"{different} of {inside} differ"
    return [
        Row.at_most("export of 47 structures, seconds", f"{mine:.2f} s", "bar 3 s", mine / 3, 1.0),
        Row.at_most("export of 47 structures, time to dense", f"{mine:.2f} s", f"{theirs:.2f} s", mine / theirs, 0.5),
        Row.at_most("export of 47 structures, voxels unlike dense", voxels, "0", different / inside, 1e-5),
    ]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
