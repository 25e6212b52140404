"""Steps per second against nnU-Net v2's own trainer: same network, patch, batch, augmentation and machine.

nnU-Net's ``nnUNetTrainer`` makes its steps as its ``run_training`` does, with its own loader, from the
entries that its own preprocessing would have written; ours makes them from its own cache. Windows are
made in the training process in both, so that the work of one step is what is compared. Cases are
random numbers of a usual size.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import Row, interleaved
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.levels import CachedCase, Level
from PartialSegTraining.recipe import (
    AugmentationRecipe,
    LossRecipe,
    NetworkRecipe,
    OptimizationRecipe,
    Recipe,
    SamplingRecipe,
)
from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.trainer import Trainer, choose_device

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))
from nnunet_v2_files import architecture, dataset, full_resolution, plans

#: Voxels of a window and of a case, and windows of a step.
WINDOW, SHAPE, BATCH = (32, 64, 64), (64, 128, 128), 2
CASES = 4
#: Stages of the network.
FEATURES, STRIDES = (16, 32, 64, 128), ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
KERNELS, ENCODER, DECODER = ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)), (2, 2, 2, 2), (2, 2, 2)
#: Steps of one measurement, and how often it is made.
STEPS, REPEATS = 2, 3

SPACE = LabelSpace.named("kits21")


def case_arrays(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, float32 (z, y, x), and its labels 0 to 3: boxes in one another."""
    image = np.random.default_rng(seed).standard_normal(SHAPE, np.float32)
    labels = np.zeros(SHAPE, np.int8)
    for label, margin in enumerate((16, 24, 28), 1):
        labels[margin:-margin, margin:-margin, margin:-margin] = label
    return image, labels


def recipe(library: str) -> Recipe:
    """Return what nnU-Net trains, as a recipe; `library` augments."""
    tiny = load_recipe("phantom-tiny")
    network = {
        "architecture": "PlainConvUNet",
        "features_per_stage": FEATURES,
        "kernel_sizes": KERNELS,
        "strides": STRIDES,
        "encoder": ENCODER,
        "decoder": DECODER,
    }
    own = tiny.augmentation if library == "own" else AugmentationRecipe(library="nnunet", mirror=(0.5, 0.5, 0.5))
    return replace(
        tiny,
        label_space=SPACE.name,
        network=NetworkRecipe("NnUNetLabels", network),
        sampling=SamplingRecipe(window=WINDOW, batch=BATCH, foreground=0.33, foreground_rule="share"),
        augmentation=own,
        loss=LossRecipe("dice-ce", {"pooled": True}),
        optimization=OptimizationRecipe(
            1000, 0.01, optimizer="sgd", momentum=0.99, weight_decay=3e-5, precision="float16"
        ),
        loading=replace(tiny.loading, workers=0),
    )


def our_step(library: str, device: torch.device) -> Callable[[], object]:
    """Return what makes a step of ours."""
    keys = tuple(sorted(SPACE.select()))
    cases = []
    for seed in range(CASES):
        image, labels = case_arrays(seed)
        # Structures contain each other here: kidneys all labels, then tumor and cyst.
        masks = {key: labels >= number for number, key in enumerate(SPACE.tasks[0].structures, 1)}
        bits = np.zeros(SHAPE, np.uint8)
        for bit, key in enumerate(keys):
            bits |= masks[key].astype(np.uint8) << np.uint8(bit)
        centers = tuple(np.argwhere(masks[key])[::50].astype(np.int32) for key in keys)
        level = Level(torch.from_numpy(image).half(), torch.from_numpy(bits), centers)
        cases.append(CachedCase(f"case{seed}", keys, (level,)))
    return Trainer(recipe(library), cases, device).step


@contextmanager
def their_step(device: torch.device) -> Iterator[Callable[[], object]]:
    """Yield what makes a step of nnU-Net's trainer, in folders of its own."""
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        root = Path(name)
        # nnU-Net reads these when it is imported.
        os.environ.update(nnUNet_raw=name, nnUNet_preprocessed=name, nnUNet_results=name, nnUNet_n_proc_DA="0")
        os.environ.setdefault("nnUNet_compile", "f")
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        document, described = write_dataset(root)
        trainer = nnUNetTrainer(document, "3d_fullres", "all", described, device)
        trainer.initialize()
        loader, _ = trainer.get_dataloaders()
        trainer.set_deep_supervision_enabled(True)
        trainer.network.train()
        yield lambda: trainer.train_step(next(loader))


def write_dataset(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write preprocessed cases; return plans and ``dataset.json``."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    topology = architecture(
        "plain",
        n_stages=len(FEATURES),
        features_per_stage=list(FEATURES),
        kernel_sizes=[list(sizes) for sizes in KERNELS],
        strides=[list(sizes) for sizes in STRIDES],
        n_conv_per_stage=list(ENCODER),
        n_conv_per_stage_decoder=list(DECODER),
    )
    configuration = full_resolution({"architecture": topology}, patch_size=list(WINDOW), batch_size=BATCH)
    document = plans(configuration, continue_training=False)
    described = dataset({"background": 0, "kidney": 1, "tumor": 2, "cyst": 3})
    folder = root / document["dataset_name"] / configuration["data_identifier"]
    folder.mkdir(parents=True)
    for seed in range(CASES):
        image, labels = case_arrays(seed)
        places = {label: np.argwhere(labels[None] == label)[::50] for label in (1, 2, 3)}
        blocks, chunks = comp_blosc2_params((1, *SHAPE), WINDOW)
        nnUNetDatasetBlosc2.save_case(
            image[None], labels[None], {"class_locations": places}, str(folder / f"case{seed}"), chunks, blocks
        )
    return document, described


def steps(step: Callable[[], object], device: torch.device) -> None:
    """Make the steps of one measurement and wait for the device."""
    for _ in range(STEPS):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def run() -> list[Row]:
    """Time both trainers alternately, with the same list of augmentations and with ours on the device."""
    device, rows = choose_device("auto"), []
    with their_step(device) as other:
        names = {"nnunet": "the same augmentation", "own": "our own augmentation"}
        for library, words in names.items():
            mine = our_step(library, device)
            for step in (mine, other):
                steps(step, device)
            times = interleaved(lambda mine=mine: steps(mine, device), lambda: steps(other, device), REPEATS)
            ours, theirs = (STEPS / seconds for seconds in times)
            rows.append(
                Row.at_least(
                    f"training on the {device.type}, {words}: steps a second to nnU-Net v2",
                    f"{ours:.2f}",
                    f"{theirs:.2f}",
                    ours / theirs,
                    0.95,
                )
            )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
