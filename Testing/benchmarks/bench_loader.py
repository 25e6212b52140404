"""Making batches: from disk and from memory, by our changes and by nnU-Net's list, and the wait for them.

A synthetic phantom stands in for a patient; one thread makes each batch.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from harness import Row, interleaved
from PartialSegLib.images import write_image
from PartialSegLib.segmentationfiles import write_segmentation
from PartialSegTraining.cache import prepare_cases
from PartialSegTraining.cases import read_mask_folders
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.loader import BatchLoader, BatchMaker
from PartialSegTraining.phantoms import generate_phantom
from PartialSegTraining.recipe import AugmentationRecipe, LoadingRecipe, Recipe
from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.trainer import Trainer

CPU = torch.device("cpu")
BATCHES = 4


def recipe(library: str) -> Recipe:
    """Return the recipe of the demo with windows of 32 x 64 x 64, and the changes of a library."""
    demo = load_recipe("phantom-dodnet")
    changes = replace(demo.augmentation) if library == "own" else AugmentationRecipe(library=library)
    return replace(
        demo,
        sampling=replace(demo.sampling, window=(32, 64, 64), batch=1, coarse=0.0, coarse_steps=0),
        preprocessing=replace(demo.preprocessing, coarse_spacing=None),
        augmentation=changes,
        loading=LoadingRecipe(keep="memory"),
    )


def stored_case(folder: Path, plan: Recipe) -> list[CachedCase]:
    """Write a phantom as a case and prepare it on disk."""
    phantom = generate_phantom(5, spacing=(2.0, 2.0, 3.0))
    (folder / "cases" / "one").mkdir(parents=True)
    write_image(phantom.image, folder / "cases" / "one" / "image.nii.gz")
    write_segmentation(phantom.segmentation(), folder / "cases" / "one" / "segmentations")
    cases = read_mask_folders(folder / "cases", plan.tasks)
    return prepare_cases(cases, plan.preprocessing, folder=folder / "cache")


def make_batches(maker: BatchMaker) -> None:
    """Make the first batches."""
    for step in range(BATCHES):
        maker.make(step, (0,))


def waiting(plan: Recipe, cases: list[CachedCase], library: str) -> tuple[float, float]:
    """Return the seconds of three steps of the demo's network, and those spent waiting for windows."""
    trainer = Trainer(replace(plan, augmentation=recipe(library).augmentation), cases, CPU)
    trainer.step()
    loader: BatchLoader = trainer.loader
    before = loader.waited

    def steps() -> None:
        for _ in range(3):
            trainer.step()

    spent, _ = interleaved(steps, lambda: None, 1)
    return spent, loader.waited - before


def run() -> list[Row]:
    """Compare the ways of making batches."""
    torch.set_num_threads(1)
    plan = recipe("own")
    with tempfile.TemporaryDirectory() as name:
        on_disk = stored_case(Path(name), plan)
        in_memory = [case.to(CPU) for case in on_disk]
        disk, memory = interleaved(
            lambda: make_batches(BatchMaker(plan, on_disk)), lambda: make_batches(BatchMaker(plan, in_memory))
        )
        own, library = interleaved(
            lambda: make_batches(BatchMaker(plan, in_memory)),
            lambda: make_batches(BatchMaker(recipe("nnunet"), in_memory)),
        )
        torch.set_num_threads(2)
        spent, waited = waiting(plan, in_memory, "own")
    shown = [f"{np.round(value / BATCHES * 1e3, 1)} ms" for value in (disk, memory, own, library)]
    return [
        Row.at_most("a batch of 32 x 64 x 64: from the compressed store, from memory", *shown[:2], disk / memory, 1.5),
        Row.at_most("a batch: our changes, nnU-Net's list", *shown[2:], own / library, 1.5),
        Row.at_most(
            "a small DoDNet on the CPU without workers: waiting for windows, whole step",
            f"{waited / 3:.2f} s",
            f"{spent / 3:.2f} s",
            waited / spent,
            0.3,
        ),
    ]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
