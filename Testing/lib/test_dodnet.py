"""DoDNet is the published one: same weights by the same names, same numbers, one encoding for all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import vectors
from bundles import TINY, random_dodnet
from PartialSegLib.networks import DoDNet, DoDNetParameters
from PartialSegLib.networks.blocks import WeightStandardizedConv3d, fold_weight_standardization
from PartialSegLib.networks.contract import Features, weight_count
from PartialSegLib.structures import LabelSpace

MOTS = LabelSpace.named("mots")
IMAGE = vectors.seeded(0, (1, 1, 32, 64, 64))


def published(parameters: DoDNetParameters | None = None) -> DoDNet:
    """Return the published network with the weights of the vectors, in eval mode."""
    network = DoDNet(parameters or DoDNetParameters(), MOTS)
    vectors.fill(network)
    return network.eval()


@pytest.fixture(scope="module")
def expected() -> Mapping[str, np.ndarray]:
    return vectors.arrays("dodnet")


@pytest.fixture(scope="module")
def network() -> DoDNet:
    return published()


@pytest.fixture(scope="module")
def features(network: DoDNet) -> Features:
    with torch.inference_mode():
        return network.features(IMAGE)


def tasks(*indices: int) -> torch.Tensor:
    return torch.tensor(indices)


def close(found: torch.Tensor, wanted: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=tolerance, atol=tolerance)


# ---- the published network


def test_weights_have_the_published_names_and_shapes(network: DoDNet) -> None:
    shapes = {name: list(weight.shape) for name, weight in network.state_dict().items()}
    assert shapes == vectors.facts("dodnet_unet3D_DynConv882")


def test_the_published_network_has_its_published_size(network: DoDNet) -> None:
    state = vectors.facts("dodnet")["state"]
    assert weight_count(network) == state["n_unique_params"] == 17_329_528
    assert len(network.state_dict()) == state["n_keys"] == 111
    assert len(network.head_parameters(torch.zeros(1, 256), tasks(0))[0]) == 162


def test_the_weights_of_the_vectors_are_filled_by_their_rule(network: DoDNet) -> None:
    for name, (total, magnitude) in vectors.facts("dodnet")["checksum"].items():
        weight = network.state_dict()[name].double()
        assert float(weight.sum()) == pytest.approx(total, rel=1e-9)
        assert float(weight.abs().sum()) == pytest.approx(magnitude, rel=1e-9)


@pytest.mark.parametrize("task", [0, 3, 6])
def test_logits_and_head_parameters_are_the_published_ones(
    network: DoDNet, features: Features, expected: Mapping[str, np.ndarray], task: int
) -> None:
    with torch.inference_mode():
        close(network.head_parameters(features.pooled, tasks(task))[0], expected[f"params_task{task}"], 2e-4)
        close(network.logits(features, tasks(task)), expected[f"logits_task{task}"], 2e-4)


def test_maps_on_the_way_are_the_published_ones(network: DoDNet, expected: Mapping[str, np.ndarray]) -> None:
    seen: dict[str, torch.Tensor] = {}
    parts = {"skip0": network.layer0, "fusion": network.fusionConv, "x8": network.x8_resb}
    hooks = [
        part.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
        for name, part in parts.items()
    ]
    with torch.inference_mode():
        features = network.features(IMAGE)
    for hook in hooks:
        hook.remove()
    found = {
        "skip0_s8": seen["skip0"][..., ::8, ::8, ::8],
        "fusion": seen["fusion"],
        "x8": seen["x8"][:, ::4],
        "precls_s4": features.map[..., ::4, ::4, ::4],
        "gap": features.pooled[0],
    }
    for name, part in found.items():
        # These maps reach 190 where the logits reach 4: single precision is relative to that.
        scale = np.abs(expected[name]).max()
        close(part / scale, expected[name] / scale, 2e-5)


def test_a_batch_of_mixed_tasks_gives_the_published_logits(network: DoDNet, expected: Mapping[str, np.ndarray]) -> None:
    with torch.inference_mode():
        logits = network(vectors.seeded(1, (2, 1, 16, 32, 48)), tasks(1, 5))
    close(logits, expected["batch2_logits_tasks_1_5"], 2e-4)


def test_double_precision_agrees_to_nine_digits(expected: Mapping[str, np.ndarray]) -> None:
    network = published().double()
    with torch.inference_mode():
        features = network.features(IMAGE.double())
        logits = torch.cat([network.logits(features, tasks(task)) for task in (0, 3, 6)])
    close(logits[..., ::4, ::4, ::4], expected["logits64_s4"], 1e-9)


def test_without_weight_standardization_it_is_the_published_variant() -> None:
    network = published(DoDNetParameters(weight_standardization=False))
    with torch.inference_mode():
        logits = network(IMAGE, tasks(2))
    close(logits[..., ::2, ::2, ::2], vectors.arrays("dodnet_no_ws")["logits_task2_s2"], 2e-4)


# ---- what the engine and the trainer rely on


def test_features_do_not_depend_on_the_task() -> None:
    network, image = random_dodnet(), torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = network.features(image)
        for task in range(len(MOTS.tasks)):
            asked = network.features(image, tasks(task))
            assert torch.equal(plain.map, asked.map)
            assert torch.equal(plain.pooled, asked.pooled)


def test_each_sample_of_a_mixed_batch_gets_the_head_of_its_own_task() -> None:
    network = random_dodnet().double()
    image = torch.randn(3, 1, 16, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        mixed = network(image, tasks(4, 0, 6))
        single = torch.cat([network(image[index : index + 1], tasks(task)) for index, task in enumerate((4, 0, 6))])
    torch.testing.assert_close(mixed, single, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(mixed[0], network(image[:1], tasks(0))[0], atol=0.1)


def test_the_mixed_heads_equal_a_grouped_convolution() -> None:
    network = random_dodnet()
    generator = torch.Generator().manual_seed(2)
    features = Features(torch.randn(3, 8, 4, 5, 6, generator=generator), torch.randn(3, 16, generator=generator))
    with torch.inference_mode():
        hidden = features.map.flatten(0, 1)[None]
        layers = network.head_layers(network.head_parameters(features.pooled, tasks(2, 5, 1)))
        for index, (weight, bias) in enumerate(layers):
            kernels = weight.flatten(0, 1)[..., None, None, None]
            hidden = functional.conv3d(hidden, kernels, bias.flatten(), groups=3)
            hidden = hidden.relu() if index < len(layers) - 1 else hidden
        wanted = hidden[0].unflatten(0, (3, -1))
        torch.testing.assert_close(network.logits(features, tasks(2, 5, 1)), wanted, rtol=1e-5, atol=1e-5)


def test_folding_weight_standardization_changes_nothing_but_the_cost() -> None:
    image = torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(3))
    network = random_dodnet()
    with torch.inference_mode():
        before = network(image, tasks(0))
        folded = fold_weight_standardization(network)
        torch.testing.assert_close(folded(image, tasks(0)), before, rtol=1e-5, atol=1e-5)
    kernels = [module for module in folded.modules() if isinstance(module, WeightStandardizedConv3d)]
    assert not any(module.standardize for module in kernels)
    for module in kernels:
        torch.testing.assert_close(module.weight.mean((1, 2, 3, 4)), torch.zeros(len(module.weight)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("switches", "by_image", "by_task"),
    [
        ({}, True, True),
        ({"image_condition": False}, False, True),
        ({"task_condition": False}, True, False),
    ],
    ids=["both", "task only", "image only"],
)
def test_the_conditions_of_table_5_can_be_switched_off(
    switches: dict[str, bool], by_image: bool, by_task: bool
) -> None:
    network = random_dodnet(replace(TINY, **switches))
    pooled = torch.randn(2, 16, generator=torch.Generator().manual_seed(4))
    heads = [network.head_parameters(pooled[:1], tasks(0))]
    other_image = network.head_parameters(pooled[1:], tasks(0))
    other_task = network.head_parameters(pooled[:1], tasks(1))
    assert (not torch.equal(heads[0], other_image)) == by_image
    assert (not torch.equal(heads[0], other_task)) == by_task


@pytest.mark.parametrize(
    ("ablation", "inputs", "outputs"),
    [
        ({"head_depth": 2}, 263, 90),
        ({"head_depth": 3}, 263, 162),
        ({"head_depth": 4}, 263, 234),
        ({"head_width": 4}, 263, 50),
        ({"head_width": 16}, 263, 578),
        ({"task_condition": False}, 256, 162),
        ({"image_condition": False}, 7, 162),
    ],
    ids=str,
)
def test_the_controllers_of_tables_3_to_5_have_their_size(
    ablation: dict[str, object], inputs: int, outputs: int
) -> None:
    with torch.device("meta"):
        controller = DoDNet(replace(DoDNetParameters(), **ablation), MOTS).controller
    assert weight_count(controller) == inputs * outputs + outputs


def test_without_the_image_condition_nothing_is_pooled_and_nothing_left_untrained() -> None:
    network = random_dodnet(replace(TINY, image_condition=False)).train()
    assert network.features(torch.zeros(1, 1, 16, 16, 16)).pooled.shape == (1, 0)
    image = torch.randn(7, 1, 16, 16, 16, generator=torch.Generator().manual_seed(5))
    network(image, torch.arange(7)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


@pytest.mark.parametrize(("depth", "width"), [(1, 8), (2, 8), (4, 8), (3, 4), (3, 16)])
def test_depth_and_width_of_the_head_are_configurable(depth: int, width: int) -> None:
    network = random_dodnet(replace(TINY, head_depth=depth, head_width=width))
    hidden = (depth - 1) * (width * width + width)
    assert len(network.head_parameters(torch.zeros(1, 16), tasks(0))[0]) == hidden + 2 * width + 2
    assert network(torch.zeros(1, 1, 16, 16, 16), tasks(0)).shape == (1, 2, 16, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (8, 16)}, "five stages"),
        ({"blocks": (1, 1, 1, 1, 0)}, "five stages"),
        ({"groups": 3}, "3 groups do not divide"),
        ({"head_depth": 0}, "depth 0"),
        ({"image_condition": False, "task_condition": False}, "the controller needs"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)
