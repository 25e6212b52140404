"""The loss ignores what was not annotated, and is otherwise DoDNet's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from PartialSegLib.networks import build_network
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses import UNKNOWN, dodnet_loss, make_loss

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())
SHAPE = (3, 2, 8, 12, 10)


def published_example() -> tuple[Tensor, Tensor]:
    """The logits and target of the reference vector; sample 0 lacks channel 1, sample 2 channel 0."""
    logits = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32) * 2
    target = (np.random.default_rng(6).random(SHAPE) < 0.2).astype(np.float32)
    target[0, 1] = UNKNOWN
    target[2, 0] = UNKNOWN
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)


def test_loss_equals_the_published_one() -> None:
    logits, target = published_example()
    loss = dodnet_loss(logits, target)
    loss.total.backward()
    assert loss.dice.item() == pytest.approx(VECTORS["dodnet"]["dice"], rel=1e-5)
    assert loss.bce.item() == pytest.approx(VECTORS["dodnet"]["bce"], rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.abs().sum().item() == pytest.approx(VECTORS["dodnet"]["grad_l1"], rel=1e-5)


def test_loss_equals_the_published_one_when_no_sample_annotates_a_channel() -> None:
    logits, target = published_example()
    target[0, 1] = target[1, 1]
    target[:, 0] = UNKNOWN
    loss = dodnet_loss(logits, target)
    expected = VECTORS["dodnet_channel0_never_labelled"]
    assert loss.dice.item() == pytest.approx(expected["dice"], rel=1e-5)
    assert loss.bce.item() == pytest.approx(expected["bce"], rel=1e-5)


def test_unannotated_structure_gives_no_gradient() -> None:
    logits, target = published_example()
    dodnet_loss(logits, target).total.backward()
    assert logits.grad is not None
    assert VECTORS["dodnet"]["grad_l1_ignored"] == 0.0
    assert torch.count_nonzero(logits.grad[0, 1]) == 0
    assert torch.count_nonzero(logits.grad[2, 0]) == 0
    assert torch.count_nonzero(logits.grad[1]) == logits.grad[1].numel()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e30])
def test_no_value_of_an_unannotated_channel_reaches_the_loss(value: float) -> None:
    logits, target = published_example()
    expected = dodnet_loss(logits, target).total.item()
    wild = logits.detach().clone()
    wild[0, 1] = value
    wild.requires_grad_()
    loss = dodnet_loss(wild, target).total
    loss.backward()
    assert loss.item() == expected
    assert wild.grad is not None
    assert torch.count_nonzero(wild.grad[0, 1]) == 0
    assert bool(wild.grad.isfinite().all())


def test_a_batch_without_any_annotation_costs_nothing() -> None:
    logits, target = published_example()
    loss = dodnet_loss(logits, torch.full_like(target, UNKNOWN)).total
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_half_precision_logits_are_judged_in_single_precision() -> None:
    logits, target = published_example()
    half = logits.detach().to(torch.bfloat16)
    loss = dodnet_loss(half, target)
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(dodnet_loss(half.float(), target).total.item(), abs=1e-7)


@pytest.mark.parametrize(("task", "known"), [("spleen", 0), ("colon", 1), ("lung", 1)])
def test_a_task_without_organ_or_tumor_never_trains_that_output_of_the_network(task: str, known: int) -> None:
    torch.manual_seed(0)
    space = LabelSpace.named("mots")
    sizes = {"channels": (8, 8, 8, 8, 8), "blocks": (1, 1, 1, 1, 1), "groups": 4}
    network = build_network("DoDNet", sizes, space)
    image, index = torch.randn(1, 1, 16, 16, 16), torch.tensor([space.task_index(task)])
    target = (torch.rand(1, 2, 16, 16, 16) < 0.2).float()
    target[:, 1 - known] = UNKNOWN
    dodnet_loss(network(image, index), target).total.backward()
    # The controller generates 8x8, 8x8 and 2x8 weights, then 8, 8 and 2 biases: the rows of each output channel.
    gradient = network.get_parameter("controller.weight").grad
    assert gradient is not None
    rows = {channel: [*range(128 + 8 * channel, 136 + 8 * channel), 160 + channel] for channel in (0, 1)}
    assert torch.count_nonzero(gradient[rows[1 - known]]) == 0
    assert torch.count_nonzero(gradient[rows[known]]) > 0


def test_a_heavier_cross_entropy_tells_what_is_found_where_nothing_is() -> None:
    logits = torch.full((1, 2, 8, 12, 10), -4.0)
    logits[0, 0, :4] = 4.0
    target, task = torch.zeros_like(logits), torch.tensor([0])

    def gradient(weight: float) -> float:
        answer = logits.clone().requires_grad_()
        make_loss("dodnet", {"bce_weight": weight}, LabelSpace.named("mots"))([answer], target, task).total.backward()
        assert answer.grad is not None
        return answer.grad[0, 0, :4].mean().item()

    assert gradient(25.0) > 10 * gradient(1.0) > 0
