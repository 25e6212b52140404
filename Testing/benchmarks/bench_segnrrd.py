"""47 overlapping structures of 512x512x400 saved to one .seg.nrrd, read by real MRML, every voxel compared.

In one run: our file against Slicer's own writing of the same segmentation node, and against one
NIfTI file per structure. Then Slicer's storage node reads our file, and each of the 47 masks is
compared bit by bit with the one that was written; and we read Slicer's file the same way.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness import Row, in_child, interleaved, seconds
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.segmentationfiles import read_segmentation, write_segmentation
from PartialSegLib.structures import LabelSpace

sys.path.insert(0, str(Path(__file__).parents[1]))

STRUCTURES = 47
SHAPE = (400, 512, 512)
#: Tilted, as a scan of a rotated patient.
GEOMETRY = Geometry(
    SHAPE, (0.75, 0.75, 1.25), (-190.0, -180.0, 55.5), (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
)


def body(count: int = STRUCTURES) -> Segmentation:
    """Return smooth ragged ellipsoids of organ size, of which every fifth lies in the one before."""
    rng = np.random.default_rng(11)
    base = LabelSpace.named("mots").structures
    axes = [np.arange(size, dtype=np.float32) for size in SHAPE]
    structures, masks = [], {}
    center = radius = np.zeros(3)
    for index in range(count):
        inner = index % 5 == 4
        radius = radius * 0.4 if inner else rng.uniform(15, 110, 3)
        center = center if inner else rng.uniform(0.2, 0.8, 3) * SHAPE
        low = np.maximum(center - radius * 1.1, 0).astype(int)
        high = np.minimum(center + radius * 1.1 + 1, SHAPE).astype(int)
        parts = [((axis[a:b] - c) / r) ** 2 for axis, a, b, c, r in zip(axes, low, high, center, radius, strict=True)]
        waves = 0.1 * np.sin(axes[1][low[1] : high[1]] / 5)[:, None] * np.sin(axes[2][low[2] : high[2]] / 7)
        inside = parts[0][:, None, None] + parts[1][:, None] + parts[2] + waves <= 1
        key = f"structure_{index}"
        structures.append(replace(base[index % len(base)], key=key, name=f"Structure {index}"))
        masks[key] = PackedMask.from_array(inside, offset=(int(low[0]), int(low[1]), int(low[2])))
    return Segmentation(GEOMETRY, tuple(structures), masks, "Benchmark")


def differing(masks: dict[str, PackedMask], others: dict[str, PackedMask]) -> int:
    """Return how many voxels of all masks differ."""
    wrong = 0
    for key, mask in masks.items():
        other = others[key]
        same = (mask.start, mask.shape) == (other.start, other.shape)
        wrong += int(np.bitwise_count(mask.bits ^ other.bits).sum()) if same else mask.count + other.count
    return wrong


def peak_of_writing(mark: Callable[[], None], path: str) -> None:
    """Write in a fresh process; called by the harness."""
    drawn = body()
    mark()
    write_segmentation(drawn, path)


def run() -> list[Row]:
    """Write, let Slicer read and write, and compare."""
    from slicer_scene import LPS_RAS, start

    scene, drawn = start(), body()
    with tempfile.TemporaryDirectory() as folder:
        ours, slicers, masks = (Path(folder) / name for name in ("ours.seg.nrrd", "slicers.seg.nrrd", "masks"))
        write_segmentation(drawn, ours)
        node = scene.load_segmentation(ours)
        found, off = {}, 0.0
        for key in drawn.keys:
            voxels, first, ijk_to_ras = scene.labelmap(node, key)
            found[key] = PackedMask.from_array(voxels, offset=first)
            off = max(off, float(np.abs(ijk_to_ras - LPS_RAS @ GEOMETRY.affine).max()))
        wrong = differing(drawn.masks, found)
        writing, their_writing = interleaved(
            lambda: write_segmentation(drawn, ours), lambda: scene.save_segmentation(node, slicers, cropped=True), 2
        )
        nifti = seconds(lambda: write_segmentation(drawn, masks), 2)
        reading, nifti_reading = interleaved(lambda: read_segmentation(ours), lambda: read_segmentation(masks), 1)
        wrong_back = differing(drawn.masks, read_segmentation(slicers).masks)
        sizes = [path.stat().st_size / 1e6 for path in (ours, slicers)]
        _, memory = in_child(peak_of_writing, str(Path(folder) / "child.seg.nrrd"))
    layers = node.GetSegmentation().GetNumberOfLayers()
    name = f"{STRUCTURES} structures 512x512x400"
    voxels_wrong = f"{wrong} of {sum(mask.count for mask in drawn.masks.values())} voxels differ"
    dense = layers * int(np.prod(SHAPE))
    return [
        Row(
            f"{name}: Slicer reads our .seg.nrrd", voxels_wrong, f"{off:.0e} off in position", wrong, "= 0", wrong == 0
        ),
        Row(
            f"{name}: we read Slicer's .seg.nrrd", f"{wrong_back} voxels differ", "", wrong_back, "= 0", wrong_back == 0
        ),
        Row.at_most(
            f"{name}: write .seg.nrrd ({layers} layers), Slicer the same",
            f"{writing:.2f} s, {sizes[0]:.1f} MB",
            f"{their_writing:.2f} s, {sizes[1]:.1f} MB",
            writing / their_writing,
            0.5,
        ),
        Row.at_most(
            f"{name}: write .seg.nrrd, one NIfTI each", f"{writing:.2f} s", f"{nifti:.2f} s", writing / nifti, 0.5
        ),
        Row.at_most(
            f"{name}: read .seg.nrrd, one NIfTI each",
            f"{reading:.2f} s",
            f"{nifti_reading:.2f} s",
            reading / nifti_reading,
            0.2,
        ),
        Row.at_most(
            f"{name}: memory to write, label maps in full",
            f"{memory / 1e6:.0f} MB",
            f"{dense / 1e6:.0f} MB",
            memory / dense,
            0.2,
        ),
    ]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
