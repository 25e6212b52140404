"""What each loss on exclusive classes is made of, worked out by hand on few voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_examples import VARIANTS, batch, random_outputs
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses import UNKNOWN, make_loss
from PartialSegTraining.losses.exclusive import LEFT_OUT, ClassLayout, grouped_log_probability
from PartialSegTraining.losses.lovaszfocal import lovasz_extension

MOTS, KITS = LabelSpace.named("mots"), LabelSpace.named("kits21")


def row(*values: float) -> Tensor:
    """A channel of as many voxels, all in a line."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1)


def columns(*probabilities: tuple[float, ...]) -> Tensor:
    """Logits (1, K, 1, 1, V) whose softmax is what is given for each voxel."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T.reshape(1, -1, 1, 1, len(probabilities))


def task(space: LabelSpace, name: str) -> Tensor:
    return torch.tensor([space.task_index(name)])


def test_the_class_of_a_voxel_is_its_innermost_annotated_structure() -> None:
    layout = ClassLayout(KITS, "task")
    masks = torch.stack([row(0, 1, 1, 1), row(0, 0, 1, 0), row(0, 0, 0, 1)])
    for known, classes in (
        ((True, True, True), [0, 1, 2, 3]),
        ((True, False, True), [0, 1, 1, 3]),
        ((False, True, True), [0, 0, 2, 3]),
    ):
        annotated = layout.annotated(0, known)
        assert layout.target(masks, 0, annotated).flatten().tolist() == classes


def test_the_order_of_channels_does_not_decide_what_lies_inside() -> None:
    """An organ that comes after its tumor is still the outer one."""
    document = {"name": "turned", "tasks": [{"key": "t", "name": "T", "channels": ["kidney_tumor", "kidneys"]}]}
    layout = ClassLayout(LabelSpace.from_json(document), "task")
    annotated = layout.annotated(0, (True, True))
    assert layout.target(torch.stack([row(0, 0, 1), row(0, 1, 1)]), 0, annotated).flatten().tolist() == [0, 2, 1]


def test_an_unannotated_class_is_merged_into_what_its_voxels_were_annotated_as() -> None:
    layout = ClassLayout(MOTS, "space")
    keys = MOTS.select()
    liver = MOTS.task_index("liver")
    groups = dict(zip(keys, layout.groups(liver, layout.annotated(liver, (True, False)), merge=True)[1:], strict=True))
    inside = keys.index("liver") + 1
    assert {key for key, group in groups.items() if group == inside} == {
        "liver",
        "liver_tumor",
        "hepatic_vessel_tumor",
    }
    assert {group for key, group in groups.items() if groups[key] != inside} == {0}


def test_an_unannotated_class_is_left_out_but_a_channel_without_a_structure_is_background() -> None:
    layout = ClassLayout(MOTS, "task")
    for name, known, groups in (
        ("liver", (True, False), (0, 1, LEFT_OUT)),
        ("colon", (False, True), (0, 0, 2)),
        ("spleen", (True, False), (0, 1, 0)),
    ):
        index = MOTS.task_index(name)
        assert layout.groups(index, layout.annotated(index, known), merge=False) == groups


def test_merged_probabilities_are_sums_and_left_out_ones_are_divided_away() -> None:
    logits = columns((0.1, 0.2, 0.3, 0.4))
    merged = grouped_log_probability(logits, [(0, 1, 0, 0)]).exp().flatten()
    torch.testing.assert_close(merged, torch.tensor([0.8, 0.2, 0.0, 0.0], dtype=torch.float64))
    without = grouped_log_probability(logits, [(0, 1, LEFT_OUT, 3)]).exp().flatten()
    torch.testing.assert_close(without, torch.tensor([1 / 7, 2 / 7, 0.0, 4 / 7], dtype=torch.float64))


def test_dice_and_cross_entropy_are_those_of_the_merged_background() -> None:
    """Of kidneys and tumor, the tumor alone is annotated: in the classes of one task the kidneys are background."""
    logits = columns((0.5, 0.2, 0.3), (0.1, 0.1, 0.8))
    target = torch.stack([torch.full_like(row(0, 0), UNKNOWN), row(0, 1)])[None]
    loss = make_loss("dice-ce", {"unannotated": "merge"}, MOTS)
    terms = loss([logits], target, task(MOTS, "kidney")).terms
    assert terms["ce"].item() == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2)
    assert terms["dice"].item() == pytest.approx(1 - 2 * 0.8 / (1.1 + 1.0), abs=1e-5)


def test_evaluation_classes_add_their_weighted_cross_entropies() -> None:
    """Background, kidney, tumor, cyst; one voxel of kidney and one of cyst."""
    logits = columns((0.1, 0.4, 0.2, 0.3), (0.2, 0.1, 0.3, 0.4))
    target = torch.stack([row(1, 1), row(0, 0), row(0, 1)])[None]
    terms = make_loss("hierarchical", {}, KITS)([logits], target, task(KITS, "kits21")).terms
    kidney_and_masses = -(math.log(0.9) + math.log(0.8)) / 2
    masses = -(math.log(0.5) + math.log(0.7)) / 2
    assert terms["hec"].item() == pytest.approx(0.1 * kidney_and_masses + 0.3 * masses)
    assert terms["ce"].item() == pytest.approx(-(math.log(0.4) + math.log(0.4)) / 2)


def test_an_evaluation_class_that_annotations_do_not_settle_is_not_judged() -> None:
    """Without the cysts nothing is known of masses, but kidneys with their masses are."""
    logits = columns((0.2, 0.4, 0.2, 0.2), (0.2, 0.1, 0.3, 0.4))
    target = torch.stack([row(1, 0), row(0, 0), torch.full_like(row(0, 0), UNKNOWN)])[None]
    terms = make_loss("hierarchical", {}, KITS)([logits], target, task(KITS, "kits21")).terms
    # The class of cysts is left out of the softmax.
    assert terms["hec"].item() == pytest.approx(-0.1 * (math.log(0.6 / 0.8) + math.log(0.2 / 0.6)) / 2)


def jaccard_loss(wrong: np.ndarray, truth: np.ndarray) -> float:
    """Of a prediction that is wrong in some voxels."""
    predicted = np.logical_xor(truth, wrong)
    union = np.logical_or(predicted, truth).sum()
    return 1.0 - np.logical_and(predicted, truth).sum() / union if union else 0.0


def test_the_lovasz_extension_is_the_jaccard_loss_of_hard_predictions() -> None:
    rng = np.random.default_rng(0)
    for truth in (rng.random(20) < 0.4, np.zeros(20, bool), np.ones(20, bool)):
        for share in (0.0, 0.3, 1.0):
            wrong = rng.random(20) < share
            value = lovasz_extension(torch.from_numpy(wrong * 1.0), torch.from_numpy(truth * 1.0)).item()
            assert value == pytest.approx(jaccard_loss(wrong, truth), abs=1e-12)


def test_the_lovasz_extension_is_exact_in_single_precision_over_many_voxels() -> None:
    rng = np.random.default_rng(0)
    truth, errors = rng.random(2_000_000) < 0.999, rng.random(2_000_000)
    single = lovasz_extension(torch.from_numpy(errors).float(), torch.from_numpy(truth).float()).item()
    double = lovasz_extension(torch.from_numpy(errors), torch.from_numpy(truth * 1.0)).item()
    assert single == pytest.approx(double, rel=1e-5)


def test_focal_loss_with_exponent_zero_is_the_cross_entropy() -> None:
    target, index = batch("mots")
    loss = VARIANTS["lovasz-focal"].build(gamma=0.0)
    logits = random_outputs(loss, target)
    focal = loss([logits], target, index).terms["focal"].item()
    assert focal == pytest.approx(VARIANTS["dice-ce"].build()([logits], target, index).terms["ce"].item(), rel=1e-6)


def test_an_unannotated_structure_is_excluded_from_annotated_ones() -> None:
    """Voxel 0 is spleen, voxel 1 is not; of all classes only background, spleen and pancreas are likely."""
    keys, tiny = MOTS.select(), 1e-12
    probability = torch.full((2, 12), tiny, dtype=torch.float64)
    spleen, pancreas = keys.index("spleen") + 1, keys.index("pancreas") + 1
    probability[:, 0], probability[:, spleen], probability[:, pancreas] = 0.2, 0.5, 0.3
    logits = columns(*map(tuple, probability.tolist()))
    target = torch.stack([row(1, 0), torch.full_like(row(0, 0), UNKNOWN)])[None]
    terms = make_loss("marginal-exclusion", {}, MOTS)([logits], target, task(MOTS, "spleen")).terms
    others = len(keys) - 1
    assert terms["ce"].item() == pytest.approx(-(math.log(0.5) + math.log(0.5)) / 2)
    assert terms["exclusion_dice"].item() == pytest.approx(2 * 0.3 / (1.0 + 0.6) / others, rel=1e-9)
    assert terms["exclusion_ce"].item() == pytest.approx(math.log(1.3) / 2 / others, rel=1e-9)


def test_a_structure_is_not_excluded_from_the_one_that_contains_it() -> None:
    """Liver annotated, its tumor not: predicting tumor in the liver costs nothing."""
    keys, tiny = MOTS.select(), 1e-12
    probability = torch.full((2, 12), tiny, dtype=torch.float64)
    probability[0, keys.index("liver_tumor") + 1] = probability[1, 0] = 1.0
    logits = columns(*map(tuple, probability.tolist()))
    target = torch.stack([row(1, 0), torch.full_like(row(0, 0), UNKNOWN)])[None]
    loss = make_loss("marginal-exclusion", {}, MOTS)([logits], target, task(MOTS, "liver"))
    assert loss.total.item() == pytest.approx(0.0, abs=1e-9)


def test_where_nothing_is_annotated_nothing_is_excluded() -> None:
    target, index = batch("mots")
    loss = VARIANTS["marginal-exclusion"].build()
    empty = torch.where(target == UNKNOWN, target, 0.0)
    terms = loss([random_outputs(loss, target)], empty, index).terms
    assert terms["exclusion_dice"].item() == 0.0
    assert terms["exclusion_ce"].item() == 0.0
