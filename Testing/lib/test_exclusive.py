"""Exclusive classes become overlapping structures."""

from __future__ import annotations

import torch

from PartialSegLib.networks.exclusive import union_logits, unions, unions_over_space
from PartialSegLib.structures import LabelSpace


def test_an_organ_is_the_union_of_itself_and_its_tumor() -> None:
    space = LabelSpace.named("mots")
    assert unions(space, space.task_index("liver")) == ((1, 2), (2,))


def test_organs_side_by_side_share_no_class() -> None:
    space = LabelSpace.named("btcv")
    assert unions(space, 0) == tuple((k + 1,) for k in range(len(space.tasks[0].channels)))


def test_a_channel_without_a_structure_is_its_own_class() -> None:
    space = LabelSpace.named("mots")
    task = space.task_index("colon")
    assert unions(space, task) == ((1,), (2,))


def test_containment_holds_across_the_tasks_of_one_softmax() -> None:
    members = unions_over_space(LabelSpace.named("mots"))
    assert members["liver"] == (1, 2, 6)  # itself, its tumor, and the tumor of the hepatic vessel task
    assert members["hepatic_vessel_tumor"] == (6,)
    assert list(members) == list(LabelSpace.named("mots").select())


def test_the_sigmoid_of_a_union_is_the_sum_of_its_softmax_probabilities() -> None:
    classes = 5.0 * torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    probability = classes.softmax(1)
    answer = union_logits(classes, ((1, 2, 3), (2, 3), (3,))).sigmoid()
    torch.testing.assert_close(answer[:, 0], probability[:, 1:].sum(1))
    torch.testing.assert_close(answer[:, 1], probability[:, 2:].sum(1))
    torch.testing.assert_close(answer[:, 2], probability[:, 3])


def test_a_class_that_is_padded_away_changes_no_probability() -> None:
    classes = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([classes, torch.full_like(classes[:, :1], -torch.inf)], 1)
    torch.testing.assert_close(padded.softmax(1)[:, :3], classes.softmax(1))
