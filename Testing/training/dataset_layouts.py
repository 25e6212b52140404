"""Tiny datasets in every layout that is read, all with the same two cases, as real files.

Case ``one`` has a liver with a tumor and a spleen, case ``two`` a liver with a tumor and no spleen.
Each writer returns the options of the dataset in a manifest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from partial_cases import GEOMETRY, SPACE, ball

from PartialSegLib.images import Geometry, Image, read_image, write_image
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import write_segmentation
from PartialSegTraining import cli
from PartialSegTraining.phantoms import write_dicom_series

KEYS = ("liver", "liver_tumor", "spleen")
#: Half a voxel away: no voxel of it lies on one of the image's.
MOVED = replace(GEOMETRY, origin=(11.0, -20.0, 5.0))


def truth(name: str) -> dict[str, np.ndarray]:
    """Return the masks of a case by structure."""
    shift = 0 if name == "one" else 2
    spleen = ball(GEOMETRY.shape, (5, 4, 5), 3) & (name == "one")
    return {
        "liver": ball(GEOMETRY.shape, (10, 13, 14 + shift), 6),
        "liver_tumor": ball(GEOMETRY.shape, (10, 13, 16 + shift), 2),
        "spleen": spleen,
    }


def scan(name: str) -> Image:
    """Return the image of a case."""
    noise = np.random.default_rng(len(name) + ord(name[0])).normal(0, 10, GEOMETRY.shape)
    return Image((np.where(truth(name)["liver"], 100, -60) + noise).astype(np.int16), GEOMETRY)


def label_map(name: str) -> np.ndarray:
    """Return a case as labels: 1 liver, 2 tumor, 3 spleen."""
    masks = truth(name)
    return (masks["liver"] + masks["liver_tumor"].astype(np.uint8) + 3 * masks["spleen"]).astype(np.uint8)


def write_decathlon(folder: Path, grid: Geometry = GEOMETRY, names: tuple[str, ...] = ("one", "two")) -> dict[str, Any]:
    pairs = []
    for name in names:
        _write(scan(name).voxels, GEOMETRY, folder / "imagesTr" / f"{name}.nii.gz")
        _write(label_map(name), grid, folder / "labelsTr" / f"{name}.nii.gz")
        pairs.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    labels = {"0": "background", "1": "liver", "2": "cancer", "3": "spleen"}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": pairs}))
    return {"layout": "decathlon", "structures": {"liver": [1, 2], "liver_tumor": "cancer", "spleen": 3}}


def write_nnunet(folder: Path, grid: Geometry = GEOMETRY) -> dict[str, Any]:
    for name in ("one", "two"):
        _write(scan(name).voxels, GEOMETRY, folder / "imagesTr" / f"{name}_0000.nii.gz")
        _write(label_map(name), grid, folder / "labelsTr" / f"{name}.nii.gz")
    document = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "whole liver": [1, 2], "tumor": [2], "spleen": 3, "ignore": 4},
        "regions_class_order": [1, 2, 3],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return {"layout": "nnunet", "structures": {"liver": "whole liver", "liver_tumor": "tumor", "spleen": 3}}


def write_pairs(folder: Path, grid: Geometry = GEOMETRY) -> dict[str, Any]:
    for name in ("one", "two"):
        _write(scan(name).voxels, GEOMETRY, folder / name / f"{name}.mha")
        _write(label_map(name), grid, folder / name / "GT.nii.gz")
    return {
        "layout": "pairs",
        "image": "{case}/{case}.mha",
        "masks": "{case}/GT.nii.gz",
        "structures": {"SCT:10200004": [1, 2], "Liver tumor": 2, "spleen": 3},
    }


def write_mask_files(folder: Path, grid: Geometry = GEOMETRY) -> dict[str, Any]:
    for name in ("one", "two"):
        masks = truth(name)
        files = {"healthy_liver": masks["liver"] & ~masks["liver_tumor"], "lesion": masks["liver_tumor"]}
        _write(scan(name).voxels, GEOMETRY, folder / name / "ct.nii.gz")
        for label, mask in {**files, "spleen": masks["spleen"], "colon": masks["liver"]}.items():
            _write(mask, grid, folder / name / "segmentations" / f"{label}.nii.gz")
    structures = {"liver": ["healthy_liver", "lesion"], "liver_tumor": "lesion", "spleen": "spleen"}
    return {"layout": "mask-files", "structures": structures}


def write_seg_nrrd(folder: Path, grid: Geometry = GEOMETRY) -> dict[str, Any]:
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        write_image(scan(name), folder / f"{name}.nrrd")
        write_segmentation(segmentation(name, grid, renamed=True), folder / f"{name}.seg.nrrd")
    structures = {"liver": "Whole liver", "liver_tumor": "SCT:4147007@10200004", "spleen": "spleen"}
    return {"layout": "seg-nrrd", "structures": structures}


def write_dicom_seg(folder: Path, grid: Geometry = GEOMETRY) -> dict[str, Any]:
    for number, name in enumerate(("one", "two")):
        series = folder / name / "image"
        series.parent.mkdir(parents=True)
        write_dicom_series(scan(name), series, seed=number)
        drawn_on = series
        if grid != GEOMETRY:
            drawn_on = folder / f"drawn_{name}"
            write_dicom_series(replace(scan(name), geometry=grid), drawn_on, seed=10 + number)
        image = read_image(drawn_on)
        write_segmentation(segmentation(name, image.geometry), folder / name / "segmentation.dcm", image=image)
    return {"layout": "dicom-seg", "structures": list(KEYS), "missing": "absent"}


#: Writers by the name of their layout.
WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "decathlon": write_decathlon,
    "nnunet": write_nnunet,
    "pairs": write_pairs,
    "mask-files": write_mask_files,
    "seg-nrrd": write_seg_nrrd,
    "dicom-seg": write_dicom_seg,
}


def segmentation(name: str, grid: Geometry, renamed: bool = False) -> Segmentation:
    """Return a case as overlapping segments; `renamed` as a person would call them."""
    names = {"liver": "Whole liver", "liver_tumor": "Lesion 1", "spleen": "Spleen"}
    structures, masks = [], {}
    for number, key in enumerate(KEYS):
        structure = SPACE.structure(key)
        if renamed:
            structure = replace(structure, key=f"segment_{number}", name=names[key], contained_in=None)
        structures.append(structure)
        masks[structure.key] = truth(name)[key]
    return Segmentation.from_arrays(grid, structures, masks)


def write_manifest(path: Path, *datasets: dict[str, Any], **head: Any) -> Path:
    """Write a manifest of datasets; each needs a ``name`` and what its writer returned."""
    head = {"version": 1, "name": "Test", "label_space": "mots", **head}
    lines = [f"{key} = {_toml(value)}" for key, value in head.items()]
    for dataset in datasets:
        lines += ["", "[[dataset]]", *(f"{key} = {_toml(value)}" for key, value in dataset.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def one_dataset(folder: Path, **options: Any) -> Path:
    """Write a Decathlon dataset of two cases, and its manifest."""
    dataset = write_decathlon(folder / "liver")
    return write_manifest(folder / "m.toml", {"name": "liver", "folder": "liver", **dataset, **options})


def call(*words: str) -> int:
    """Run a command of the training library."""
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers())
    arguments = parser.parse_args(words)
    status: int = arguments.run(arguments)
    return status


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _write(voxels: np.ndarray, grid: Geometry, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(Image(voxels, grid), path)
