"""The methods of DoDNet's Table 6: the same encoder-decoder, told the task in different places or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bundles import random_network
from PartialSegLib.errors import BundleError
from PartialSegLib.networks import (
    NETWORKS,
    TAL,
    CondDec,
    CondInput,
    DoDNet,
    DoDNetParameters,
    EncoderDecoderParameters,
    MultiHead,
    MultiNets,
    PartialLabelNetwork,
    build_network,
)
from PartialSegLib.networks.contract import weight_count
from PartialSegLib.structures import LabelSpace

MOTS = LabelSpace.named("mots")
SMALL: dict[str, Any] = {"channels": (8, 8, 16, 16, 16), "blocks": (1, 1, 1, 1, 1), "groups": 4}


def published_size(name: str, **parameters: Any) -> int:
    """Return the weights of a network at its default size, which is the published one."""
    with torch.device("meta"):
        return weight_count(build_network(name, parameters, MOTS))


def image(samples: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, 1, 16, 32, 16, generator=torch.Generator().manual_seed(seed))


def tasks(*indices: int) -> torch.Tensor:
    return torch.tensor(indices)


def trained_weights(network: PartialLabelNetwork, task: int) -> set[str]:
    """Return the names of the weights that a sample of a task gives a gradient."""
    network.train().zero_grad()
    network(image(), tasks(task)).square().mean().backward()
    return {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}


# ---- the same encoder-decoder, at its published size


@pytest.mark.parametrize(
    ("name", "millions", "weights"),
    [
        ("CondNO", 17.3, 17_286_050),
        ("CondInput", 17.3, 17_292_098),
        ("CondDec", 17.3, 17_334_434),
        ("TAL", 17.3, 17_286_380),
        ("MultiHead", 18.9, 18_883_790),
        ("MultiNets", 121.0, 121_002_350),
    ],
)
def test_sizes_are_those_of_the_paper(name: str, millions: float, weights: int) -> None:
    assert published_size(name) == weights
    assert round(weights / 1e6, 1) == millions


def test_multi_nets_have_seven_times_the_weights_of_one_network() -> None:
    assert published_size("MultiNets") == 7 * published_size("CondNO")


@pytest.mark.parametrize("name", ["CondNO", "CondInput", "CondDec", "TAL"])
def test_the_encoder_decoder_is_that_of_dodnet(name: str) -> None:
    with torch.device("meta"):
        own = build_network(name, {}, MOTS).state_dict()
        published = DoDNet(DoDNetParameters(), MOTS).state_dict()
    heads = ("precls_conv", "GAP", "controller")
    # Where the task code enters, a kernel sees more channels; nothing else differs.
    told = {"CondInput": ["conv1.weight"], "CondDec": [f"x{k}_resb.0.conv1.weight" for k in (1, 2, 4, 8)]}.get(name, [])
    for key, weight in published.items():
        if not key.startswith(heads):
            assert own[key].shape[1:2] == (weight.shape[1] + 7,) if key in told else own[key].shape == weight.shape
    assert {key for key in own if key not in published} == {
        "head_norm.weight",
        "head_norm.bias",
        "head.weight",
        "head.bias",
    }


# ---- where the task enters


def test_without_a_condition_every_task_gets_the_same_answer() -> None:
    network = random_network("CondNO", SMALL)
    with torch.inference_mode():
        answers = [network(image(), tasks(task)) for task in range(7)]
    assert all(torch.equal(answers[0], answer) for answer in answers[1:])


def test_the_input_condition_is_one_constant_channel_for_each_task() -> None:
    network = random_network("CondInput", SMALL)
    assert isinstance(network, CondInput)
    seen: list[torch.Tensor] = []
    network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = image(2)
    with torch.inference_mode():
        network.features(batch, tasks(4, 0))
    code = torch.zeros(2, 7, *batch.shape[2:])
    code[0, 4] = code[1, 0] = 1
    torch.testing.assert_close(seen[0], torch.cat([batch, code], 1))


def test_the_decoder_condition_leaves_the_encoder_alone() -> None:
    network = random_network("CondDec", SMALL)
    assert isinstance(network, CondDec)
    seen: list[torch.Tensor] = []
    for stage in (network.layer0, network.layer4, network.x8_resb, network.x1_resb):
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        network.features(image(), tasks(0))
        network.features(image(), tasks(1))
    same = [torch.equal(first, second) for first, second in zip(seen[:4], seen[4:], strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("name", ["CondInput", "CondDec", "MultiNets", "MultiHead"])
def test_features_without_a_task_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="depend on the task"):
        random_network(name, SMALL | ({"groups": 2} if name == "MultiHead" else {})).features(image())


# ---- networks and decoders for each task


def test_a_case_of_one_task_trains_its_own_network_only() -> None:
    network = random_network("MultiNets", SMALL)
    assert isinstance(network, MultiNets)
    assert {name.split(".")[1] for name in trained_weights(network, 3)} == {"3"}


def test_a_case_of_one_task_trains_the_encoder_and_its_own_decoder() -> None:
    network = random_network("MultiHead", {**SMALL, "groups": 2})
    assert isinstance(network, MultiHead)
    trained = trained_weights(network, 3)
    assert {name.split(".")[1] for name in trained if name.startswith("decoders.")} == {"3"}
    shared = {name for name, _ in network.named_parameters() if not name.startswith("decoders.")}
    assert shared <= trained


def test_decoders_of_full_width_need_no_projection() -> None:
    full = published_size("MultiHead", decoder_divisor=1)
    network, encoder = published_size("CondNO"), 15_377_376
    assert full == encoder + 7 * (network - encoder)


@pytest.mark.parametrize("divisor", [0, 4])
def test_a_divisor_that_leaves_no_groups_is_refused(divisor: int) -> None:
    with pytest.raises(BundleError, match=f"{divisor} times 4 groups do not divide"):
        build_network("MultiHead", {**SMALL, "decoder_divisor": divisor}, MOTS)


@pytest.mark.parametrize("name", ["MultiNets", "MultiHead"])
def test_a_task_of_one_channel_is_padded_beside_one_of_two(name: str) -> None:
    space = LabelSpace.from_json(
        {
            "name": "uneven",
            "tasks": [
                {"key": "spleen", "name": "Spleen", "channels": ["spleen"]},
                {"key": "liver", "name": "Liver", "channels": ["liver", "liver_tumor"]},
            ],
        }
    )
    network = random_network(name, {**SMALL, "groups": 2}, space)
    with torch.inference_mode():
        logits = network(image(2), tasks(1, 0))
        alone = network(image(2)[1:], tasks(0))
    assert logits.shape[:2] == (2, 2)
    assert not logits[1, 1].any()
    torch.testing.assert_close(logits[1:], alone, rtol=1e-4, atol=1e-4)


# ---- one softmax for all tasks


def test_a_structure_is_the_union_of_all_that_lies_in_it_also_of_other_tasks() -> None:
    network = random_network("TAL", SMALL)
    assert isinstance(network, TAL)
    keys = ["background", *MOTS.select()]
    with torch.inference_mode():
        features = network.features(image(2))
        probability = network.class_logits(features, tasks(0, 0)).softmax(1)
        answer = network.logits(features, tasks(0, 4)).sigmoid()
    parts = [keys.index(key) for key in ("liver", "liver_tumor", "hepatic_vessel_tumor")]
    torch.testing.assert_close(answer[0, 0], probability[0, parts].sum(0))
    torch.testing.assert_close(answer[0, 1], probability[0, keys.index("liver_tumor")])
    torch.testing.assert_close(answer[1, 1], probability[1, keys.index("colon_tumor")])


def test_a_loss_sees_the_background_and_every_structure_once() -> None:
    network = random_network("TAL", SMALL)
    outputs = network.training_outputs(image(), tasks(2))
    assert [tuple(output.shape) for output in outputs] == [(1, 12, 16, 32, 16)]


def test_every_name_of_the_table_is_registered() -> None:
    names = {"MultiNets", "MultiHead", "TAL", "CondNO", "CondInput", "CondDec"}
    assert names <= set(NETWORKS)
    assert all(issubclass(NETWORKS[name][1], EncoderDecoderParameters) for name in names)
