"""A model grows by a structure, and every old answer keeps every bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_columns import random_case
from torch import Tensor

from bundles import random_dodnet, random_network
from PartialSegLib.errors import CollectionError, LabelSpaceError
from PartialSegLib.inference.heads import logit_source, select_channels
from PartialSegLib.networks import DoDNet, PartialLabelNetwork
from PartialSegLib.networks.blocks import fold_weight_standardization
from PartialSegLib.structures import LabelSpace, catalogue
from PartialSegTraining.finetuning.columns import columns_at
from PartialSegTraining.finetuning.growth import describe, grow, grown_space, is_one_piece
from PartialSegTraining.finetuning.heads import TaskHead, head_weights
from PartialSegTraining.finetuning.quick import HeadPlan, learn_head

MOTS = LabelSpace.named("mots")
NEW = (catalogue()["gallbladder"],)
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "DoDNet": {"channels": (8, 8, 16, 16, 16), "blocks": (1,) * 5, "groups": 4},
    "KiTS21Pretraining": {"stem": 4, "widths": (4, 4, 4, 4), "blocks": (1, 1, 1, 1)},
    "MultiTalentUNet": {
        "features": (4, 8, 8),
        "kernels": ((3, 3, 3),) * 3,
        "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    },
    "U2Net": {"channels": 4, "halvings": (3, 3, 3)},
}


def network_of(name: str) -> PartialLabelNetwork:
    return random_dodnet() if name == "DoDNet" else random_network(name, FAMILIES[name])


def answers(network: PartialLabelNetwork, image: Tensor, task: int) -> Tensor:
    with torch.inference_mode():
        return network(image, torch.full((len(image),), task))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_old_task_keeps_every_bit_when_a_structure_is_added_and_learned(name: str) -> None:
    parent = network_of(name).eval()
    space = grown_space(MOTS, NEW)
    child = grow(parent, space)
    head = TaskHead(child, len(MOTS.tasks))
    before = {key: weight.clone() for key, weight in child.state_dict().items()}
    learn_head(head, [random_case(head, ("gallbladder",))], HeadPlan(steps=3, learning_rate=0.1), new=True)
    assert any(not torch.equal(weight, before[key]) for key, weight in child.state_dict().items())
    image = torch.randn(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(1))
    for task in range(len(MOTS.tasks)):
        assert torch.equal(answers(parent, image, task), answers(child, image, task)), MOTS.tasks[task].key


@pytest.mark.parametrize("name", FAMILIES)
def test_learning_a_known_task_changes_no_bit_of_the_others(name: str) -> None:
    parent = network_of(name).eval()
    child = network_of(name).eval()
    head = TaskHead(child, 0)
    learn_head(head, [random_case(head, ("liver", "liver_tumor"))], HeadPlan(steps=3, learning_rate=0.1))
    image = torch.randn(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(answers(parent, image, 0), answers(child, image, 0))
    for task in range(1, len(MOTS.tasks)):
        assert torch.equal(answers(parent, image, task), answers(child, image, task)), MOTS.tasks[task].key


def test_the_engine_gives_old_tasks_the_same_bits_from_a_grown_network() -> None:
    parent = random_dodnet()
    child = grow(parent, grown_space(MOTS, NEW))
    image = torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(2))
    keys = MOTS.select()
    logits = []
    with torch.inference_mode():
        for network in (parent, child):
            source = logit_source(network, network.features(image), select_channels(network.label_space, keys))
            logits.append(torch.empty(len(keys), image[0].numel()))
            source.fill(0, image[0].numel(), logits[-1])
    assert torch.equal(*logits)


def test_old_and_added_tasks_are_answered_together_as_alone() -> None:
    network = grow(random_dodnet(), grown_space(MOTS, NEW))
    keys = network.label_space.select()
    image = torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(2))
    together = torch.empty(len(keys), image[0].numel())
    with torch.inference_mode():
        features = network.features(image)
        source = logit_source(network, features, select_channels(network.label_space, keys))
        source.fill(0, image[0].numel(), together)
        for index, task in enumerate(network.label_space.tasks):
            alone = network.logits(features, torch.tensor([index]))[0].flatten(1)
            for channel, key in enumerate(task.channels):
                if key is not None:
                    torch.testing.assert_close(together[keys.index(key)], alone[channel], rtol=1e-4, atol=1e-4)


def test_a_batch_may_ask_old_and_added_tasks() -> None:
    network = grow(random_dodnet(), grown_space(MOTS, NEW))
    image = torch.randn(2, 1, 16, 16, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        mixed = network(image, torch.tensor([0, 7]))
        for row, task in enumerate((0, 7)):
            torch.testing.assert_close(mixed[row], network(image, torch.tensor([task, task]))[row])


def test_a_head_answers_sampled_voxels_as_the_network_answers_the_window() -> None:
    network = grow(random_dodnet(), grown_space(MOTS, NEW))
    assert isinstance(network, DoDNet)
    head = TaskHead(network, 7)
    window = torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(4))
    voxels = torch.arange(0, window[0].numel(), 97)
    maps, pooled = head.encoder((16, 32, 32))(window)
    with torch.inference_mode():
        sampled = head.logits(columns_at(maps, voxels, (16, 32, 32)), pooled[0])
        whole = fold_weight_standardization(network)(window, torch.tensor([7]))[0, 0].flatten()
    torch.testing.assert_close(sampled[:, 0], whole[voxels], rtol=1e-3, atol=1e-3)


def test_added_structures_come_after_all_others_as_tasks_of_their_own() -> None:
    space = grown_space(MOTS, describe(("gallbladder", "aorta"), {}), one_piece=("aorta",))
    assert space.tasks[:-2] == MOTS.tasks
    assert [task.channels for task in space.tasks[-2:]] == [("gallbladder",), ("aorta",)]
    assert [rule.op for rule in space.task("aorta").rules] == ["keep_largest"]
    assert space.task("gallbladder").rules == ()


def test_what_cannot_be_added_is_refused_in_words() -> None:
    with pytest.raises(LabelSpaceError, match="knows 'liver' already"):
        grown_space(MOTS, describe(("liver",), {}))
    with pytest.raises(LabelSpaceError, match="Nothing describes the structure 'flux_capacitor'"):
        describe(("flux_capacitor",), {})
    with pytest.raises(LabelSpaceError, match="CondNO cannot learn a new structure"):
        grow(random_network("CondNO", {**FAMILIES["DoDNet"]}), grown_space(MOTS, NEW))


def test_a_network_whose_tasks_share_their_head_has_nothing_for_the_quick_mode() -> None:
    network = random_network("TGNet", {**FAMILIES["DoDNet"]})
    with pytest.raises(CollectionError, match="'quick' has nothing to learn"):
        TaskHead(network, 0)
    assert {weight.shape for weight in head_weights(network)} == {torch.Size([2, 8, 1, 1, 1]), torch.Size([2])}


def test_pieces_are_told_from_crumbs() -> None:
    mask = np.zeros((10, 10, 10), bool)
    assert not is_one_piece(mask)
    mask[1:6, 1:6, 1:6] = True
    mask[8, 8, 8] = True
    assert is_one_piece(mask)
    mask[7:9, 7:9, 1:9] = True
    assert not is_one_piece(mask)


def test_a_loss_that_is_no_number_ends_in_words() -> None:
    head = TaskHead(random_dodnet(), 0)
    case = random_case(head, ("liver",))
    for window in case.windows:
        window.values[0, 0] = torch.nan
    with pytest.raises(CollectionError, match="training of 'liver' diverged after 1 steps"):
        learn_head(head, [case], HeadPlan(steps=3))
