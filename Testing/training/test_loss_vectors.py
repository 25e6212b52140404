"""The losses of MultiTalent and 3D U2-Net equal those of the published code, and of the papers where they differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses import LossTerms, deep_supervision_weights, make_loss
from vectors import seeded

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())

#: Spatial shapes of MultiTalent's five outputs, in the units of the vector.
LEVELS = [(8, 16, 16), (4, 8, 8), (2, 4, 4), (1, 2, 2), (1, 1, 1)]
#: Labels of the published label map that make up each channel of a task.
LABELS = {"msd03": ((1, 2), (2,)), "kits19": ((42, 43), (43,))}


def multitalent(tasks: list[str], labels: list[list[np.ndarray]], pooling: str) -> LossTerms:
    """The loss of the vector's outputs: `labels` holds a label map for each sample of each level."""
    space = LabelSpace.named("multitalent")
    row = {key: index for index, key in enumerate(space.select())}
    rows = [[row[key] for key in space.task(name).structures] for name in tasks]
    outputs, targets = [], []
    for level, shape in enumerate(LEVELS):
        every_output = seeded(10 + level, (2, 47, *shape))
        outputs.append(torch.stack([sample[own] for sample, own in zip(every_output, rows, strict=True)]))
        masks = [[np.isin(labels[level][sample], union) for union in LABELS[name]] for sample, name in enumerate(tasks)]
        targets.append(torch.from_numpy(np.array(masks, np.float32)))
    task = torch.tensor([space.task_index(name) for name in tasks])
    return make_loss("multitalent", {"pooling": pooling}, space)(outputs, targets, task)


def terms_equal(terms: LossTerms, expected: dict[str, float]) -> None:
    assert terms.terms["bce"].item() == pytest.approx(expected["ce"], rel=1e-5)
    assert terms.terms["dice"].item() == pytest.approx(-expected["dc"], rel=1e-5)
    assert terms.total.item() == pytest.approx(expected["total"], rel=1e-5)


@pytest.mark.parametrize("pooling", ["batch", "sample"])
def test_samples_of_two_datasets_cost_what_the_published_loss_says(pooling: str) -> None:
    """No class is in both samples, so that it does not matter how Dice is pooled."""
    labels = []
    for level, shape in enumerate(LEVELS):
        rng = np.random.default_rng(20 + level)
        first = rng.integers(0, 3, (1, *shape))
        labels.append([first[0], rng.choice([0, 42, 43], size=(1, *shape))[0]])
    terms_equal(multitalent(["msd03", "kits19"], labels, pooling), VECTORS["multitalent"])


@pytest.mark.parametrize(
    ("pooling", "name"), [("batch", "pooled_batch_as_in_paper"), ("sample", "released_code_stack")]
)
def test_samples_of_one_dataset_are_pooled_as_in_the_paper_or_as_released(pooling: str, name: str) -> None:
    labels = [
        list(np.random.default_rng(50 + level).integers(0, 3, (2, 1, *shape))[:, 0])
        for level, shape in enumerate(LEVELS)
    ]
    terms_equal(multitalent(["msd03", "msd03"], labels, pooling), VECTORS["multitalent_same_dataset"][name])


def test_the_outputs_are_weighted_as_published() -> None:
    assert deep_supervision_weights(5) == pytest.approx(VECTORS["multitalent"]["ds_weights"])


def lovasz_focal(classes: np.ndarray) -> LossTerms:
    """The loss of the vector's logits, in a task of two structures side by side."""
    space = LabelSpace.named("mots")
    task = torch.full((2,), space.task_index("hepatic_vessel"))
    target: Tensor = torch.from_numpy(np.stack([classes == 1, classes == 2], 1).astype(np.float32))
    return make_loss("lovasz-focal", {}, space)([seeded(30, (2, 3, 6, 8, 10))], target, task)


def test_lovasz_softmax_and_focal_loss_equal_the_published_ones() -> None:
    terms, expected = lovasz_focal(np.random.default_rng(31).integers(0, 3, (2, 6, 8, 10))), VECTORS["u2net"]
    assert terms.terms["lovasz"].item() == pytest.approx(expected["lovasz"], rel=1e-5)
    assert terms.terms["focal"].item() == pytest.approx(expected["focal"], rel=1e-5)
    assert terms.total.item() == pytest.approx(expected["total"], rel=1e-5)


def test_a_class_that_no_voxel_has_counts_in_lovasz_softmax_as_published() -> None:
    classes = np.random.default_rng(31).integers(0, 3, (2, 6, 8, 10))
    terms = lovasz_focal(np.where(classes == 2, 1, classes))
    assert terms.terms["lovasz"].item() == pytest.approx(VECTORS["u2net"]["lovasz_class2_absent"], rel=1e-5)
