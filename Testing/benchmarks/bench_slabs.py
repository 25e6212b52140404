"""The slab ring against a dense computation: the same bits, for any overlap and grouping of the structures.

A random DoDNet on a scan of another orientation and spacing than its own. The dense computation holds
the probabilities of all structures on the whole grid and resamples each of them in full.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from bundles import random_bundle
from dense import dense_masks
from harness import Row
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import Predictor, planner, predictor

OVERLAPS = (0.25, 0.5, 0.6)
GROUPS = (1, 3, 7)


def scan() -> Image:
    """Return a smooth random image in HU, flipped and finer than the network's grid."""
    values = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((40, 62, 72)), 2) * 2000
    direction = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    geometry = Geometry(values.shape, (1.5, 1.7, 2.3), (10.0, -20.0, 30.0), direction)
    return Image(values.astype(np.int16), geometry)


def run() -> list[Row]:
    """Compare every overlap, and every grouping with each, voxel by voxel."""
    image, cpu, rows = scan(), torch.device("cpu"), []
    # Rules mend masks after either computation.
    predictor.apply_rules = lambda segmentation, *arguments, **names: segmentation
    preset, plans = predictor.preset_named("standard"), predictor.ladder
    with tempfile.TemporaryDirectory() as folder:
        bundle = random_bundle(Path(folder) / "random")
        for overlap in OVERLAPS:
            predictor.preset_named = lambda name, overlap=overlap: replace(preset, overlap=overlap)
            reference = dense_masks(bundle, image, overlap)
            differing = {}
            for groups in GROUPS:
                predictor.ladder = lambda *arguments, groups=groups: iter([planner.Plan(cpu, cpu, groups=groups)])
                found = Predictor(bundle, "cpu").segment(image).segmentation
                differing[groups] = sum(int((found.array(key) != mask).sum()) for key, mask in reference.items())
            predictor.ladder = plans
            worst, voxels = max(differing.values()), sum(int(mask.sum()) for mask in reference.values())
            name = f"slab ring to dense, overlap {overlap:g}, structures in 1, 3 or 7 groups"
            text = f"{worst} of {voxels} voxels differ"
            rows.append(Row(name, text, "0", float(worst), "= 0", worst == 0 and voxels > 0))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
