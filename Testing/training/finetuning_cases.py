"""Case folders for the tests of fine-tuning: bright balls in a soft box, in a second."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from partial_cases import ball

from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.structures import catalogue

SHAPE = (32, 48, 48)
GEOMETRY = Geometry(SHAPE, (2.0, 2.0, 2.0), (10.0, -20.0, 5.0))
#: Center (z, y, x), radius and intensity of each structure that these cases know.
BALLS: Mapping[str, tuple[tuple[float, float, float], float, float]] = {
    "liver": ((18, 20, 16), 9, 120),
    "liver_tumor": ((18, 20, 14), 4, 20),
    "spleen": ((18, 22, 38), 6, 180),
    "gallbladder": ((18, 38, 24), 5, 330),
    "kidneys": ((8, 36, 40), 5, 240),
    "kidney_tumor": ((8, 36, 41), 2, 60),
    "kidney_cyst": ((9, 34, 40), 2, 5),
}


def write_case(folder: Path, keys: Sequence[str], seed: int = 0, *, empty: bool = False, listed: bool = False) -> Path:
    """Write a case folder that shows every ball and annotates some of them.

    Parameters
    ----------
    folder : Path
        Of the case.
    keys : sequence of str
        What is annotated.
    seed : int
        Decides the noise. The balls stay where they are: networks with random weights, which these tests
        teach, see little else than where things lie.
    empty : bool
        Write masks without a voxel.
    listed : bool
        Write ``case.json`` too, as Slicer's side does.
    """
    rng = np.random.default_rng(seed)
    voxels = rng.normal(-60, 8, SHAPE)
    (folder / "segmentations").mkdir(parents=True)
    for key, (center, radius, intensity) in BALLS.items():
        mask = ball(SHAPE, center, radius)
        voxels[mask] = intensity + rng.normal(0, 8, int(mask.sum()))
        if key in keys:
            drawn = np.zeros(SHAPE, np.uint8) if empty else mask.astype(np.uint8)
            write_image(Image(drawn, GEOMETRY), folder / "segmentations" / f"{key}.nii.gz")
    write_image(Image(voxels.astype(np.int16), GEOMETRY), folder / "image.nii.gz")
    if listed:
        document = {
            "version": 1,
            "name": folder.name,
            "annotated": list(keys),
            "masks": {key: {"file": f"segmentations/{key}.nii.gz"} for key in keys},
            "structures": [catalogue()[key].to_json() for key in keys],
        }
        (folder / "case.json").write_text(json.dumps(document), encoding="utf-8")
    return folder
