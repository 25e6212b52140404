"""Tiny partially labelled cases for the tests of the training: balls in a box, in seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cache import CachedCase, Level
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.recipefiles import load_recipe

SPACE = LabelSpace.named("mots")
GEOMETRY = Geometry((20, 24, 28), (2.0, 2.0, 2.5), (10.0, -20.0, 5.0))


def ball(shape: tuple[int, int, int], center: tuple[float, float, float], radius: float) -> np.ndarray:
    """Boolean (z, y, x), true within `radius` voxels of `center`."""
    grid = np.indices(shape).transpose(1, 2, 3, 0)
    return ((grid - np.array(center)) ** 2).sum(-1) <= radius**2


def cached_case(
    name: str, keys: tuple[str, ...], seed: int = 0, shape: tuple[int, int, int] = (40, 44, 48)
) -> CachedCase:
    """A case in memory: a bright ball for the first structure, a smaller one inside for the second."""
    rng = np.random.default_rng(seed)
    levels = []
    for stride in (1, 2):
        size = tuple(n // stride for n in shape)
        center = tuple(float(n) / 2 + rng.uniform(-2, 2) for n in size)
        masks = [ball(size, center, 10 / stride / (index + 1)) for index in range(len(keys))]
        volume = torch.full(size, -0.5) + 0.02 * torch.from_numpy(rng.standard_normal(size)).float()
        bits = np.zeros(size, np.uint8)
        for index, mask in enumerate(masks):
            volume[torch.from_numpy(mask)] += 0.5
            bits |= mask.astype(np.uint8) << np.uint8(index)
        centers = tuple(np.argwhere(mask).astype(np.int32) for mask in masks)
        levels.append(Level(volume.half(), torch.from_numpy(bits), centers))
    return CachedCase(name, tuple(sorted(keys)), tuple(levels))


def cached_cases() -> list[CachedCase]:
    """Two cases of each MOTS task, each annotated for that task alone."""
    return [
        cached_case(f"{task.key}{number}", task.structures, seed=10 * index + number)
        for index, task in enumerate(SPACE.tasks)
        for number in range(2)
    ]


def tiny_recipe(**sampling: object) -> Recipe:
    """The recipe `phantom-tiny` with 16-voxel windows."""
    recipe = load_recipe("phantom-tiny")
    return replace(recipe, sampling=replace(recipe.sampling, window=(16, 16, 16), **sampling))


def short_recipe(steps: int = 6, **options: object) -> Recipe:
    """A few steps of the recipe `phantom-tiny`; `options` replace those of its ``[optimization]``."""
    recipe = tiny_recipe(batch=2).with_steps(steps)
    return replace(recipe, optimization=replace(recipe.optimization, **options))


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two networks are the same to the bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def write_decathlon(folder: Path, cases: int = 1, geometry: Geometry = GEOMETRY) -> Path:
    """Write a dataset of livers (label 1) with a tumor (label 2) in the layout of the Decathlon."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    pairs = []
    for number in range(cases):
        rng = np.random.default_rng(number)
        organ = ball(geometry.shape, (10, 12, 14), 7)
        tumor = ball(geometry.shape, (10, 12, 16), 3)
        voxels = np.where(organ, 100, -60) + rng.normal(0, 10, geometry.shape)
        name = f"liver_{number:03d}.nii.gz"
        write_image(Image(voxels.astype(np.int16), geometry), folder / "imagesTr" / name)
        write_image(Image((organ + tumor.astype(np.uint8)).astype(np.uint8), geometry), folder / "labelsTr" / name)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (folder / "dataset.json").write_text(json.dumps({"training": pairs}))
    return folder


def write_collection(root: Path, cases: int = 2) -> Path:
    """Write a collection with one dataset, of livers and their tumors."""
    write_decathlon(root / "Task03_Liver", cases)
    labels = {"1": ["liver"], "2": ["liver", "liver_tumor"]}
    entry = {"folder": "Task03_Liver", "task": "liver", "labels": labels, "annotated": ["liver", "liver_tumor"]}
    (root / "collection.json").write_text(json.dumps({"datasets": [entry]}))
    return root
