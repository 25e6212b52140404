"""Blending windows of 47 structures: ours against MONAI's sliding window, in one run.

Both get the same ready logits for every window of a 192x384x384 volume, so that only the blending,
the thresholding and (ours) the packing are timed. Ours applies the sigmoid as well.
"""

from __future__ import annotations

import time

import torch
from monai.inferers import sliding_window_inference

from harness import Row, in_child
from PartialSegLib.images import Geometry
from PartialSegLib.inference.export import SlabExporter
from PartialSegLib.inference.heads import DenseRows
from PartialSegLib.inference.slabs import SlabRing
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.preprocessing import NetworkGrid

STRUCTURES = 47
SHAPE = (192, 384, 384)
WINDOW = (64, 192, 192)
GIB = 2**30


def logits() -> torch.Tensor:
    """Return (47, 64, 192, 192) logits that are positive in a ball for each structure."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in WINDOW), indexing="ij")
    radius = torch.stack(axes).square().sum(0).sqrt()
    sizes = torch.linspace(0.05, 0.3, STRUCTURES)
    return (sizes[:, None, None, None] - radius) * 20


def ours(mark) -> float:
    """Return seconds a window of the slab ring and its export."""
    answer = DenseRows(logits().flatten(1), range(STRUCTURES))
    whole = tuple(slice(0, size) for size in SHAPE)
    grid = NetworkGrid(Geometry(SHAPE), (0, 1, 2), (False, False, False), whole, SHAPE)
    windows = WindowGrid.over(SHAPE, WINDOW, 0.5)
    mark()
    started = time.perf_counter()
    with torch.inference_mode():
        ring = SlabRing(STRUCTURES, windows, torch.device("cpu"))
        exporter = SlabExporter(grid, windows, STRUCTURES, torch.device("cpu"))
        ends = [*windows.starts[0][1:], windows.shape[0]]
        for (first, starts), last in zip(windows.rows(), ends, strict=True):
            for start in starts:
                ring.add(start, answer)
            exporter.take(ring, first, last)
            ring.clear(max(first - 1, 0), last - 1)
        masks = exporter.masks()
    elapsed = time.perf_counter() - started
    assert all(mask.count for mask in masks)
    return elapsed / len(windows)


def monai(mark) -> float:
    """Return seconds a window of MONAI's Gaussian sliding window and a threshold."""
    answer = logits()[None]
    image = torch.zeros(1, 1, *SHAPE)
    windows = 0

    def network(batch: torch.Tensor) -> torch.Tensor:
        nonlocal windows
        windows += 1
        return answer

    mark()
    started = time.perf_counter()
    with torch.inference_mode():
        masks = sliding_window_inference(image, WINDOW, 1, network, overlap=0.5, mode="gaussian") > 0
    elapsed = time.perf_counter() - started
    assert masks.any()
    return elapsed / windows


def run() -> list[Row]:
    """Measure both in fresh processes, twice, and keep the better time of each."""
    (mine, memory), (theirs, theirs_memory) = in_child(ours), in_child(monai)
    mine, theirs = min(mine, in_child(ours)[0]), min(theirs, in_child(monai)[0])
    return [
        Row.at_most("stitching 47 structures, seconds a window", f"{mine:.3f} s", "bar 0.2 s", mine / 0.2, 1.0),
        Row.at_most("stitching 47 structures, time to MONAI's", f"{mine:.3f} s", f"{theirs:.3f} s", mine / theirs, 1.0),
        Row.at_most(
            "stitching 47 structures, memory to MONAI's",
            f"{memory / GIB:.2f} GiB",
            f"{theirs_memory / GIB:.2f} GiB",
            memory / theirs_memory,
            0.5,
        ),
    ]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
