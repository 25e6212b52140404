"""The contract of the networks: every one of them passes the same tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from PartialSegLib.errors import BundleError
from PartialSegLib.networks import NETWORKS, PartialLabelNetwork, build_network
from PartialSegLib.networks.contract import Features, task_tensor
from PartialSegLib.structures import LabelSpace

#: Stages of a small U-Net.
STAGES: dict[str, Any] = {
    "features": [4, 6, 8],
    "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}
#: DoDNet's encoder-decoder, small.
SMALLEST: dict[str, Any] = {"channels": [4, 8, 8, 8, 8], "blocks": [1, 1, 1, 1, 1], "groups": 4}
#: A small residual U-Net of KiTS21.
BOTTLENECKS: dict[str, Any] = {
    "stem": 4,
    "widths": [2, 3, 4, 4],
    "blocks": [1, 2, 1, 1],
    "rates": [1, 2],
    "map_channels": 4,
}
#: The stages as plans of nnU-Net name them.
NNUNET: dict[str, Any] = {
    "features_per_stage": STAGES["features"],
    "kernel_sizes": STAGES["kernels"],
    "strides": STAGES["strides"],
    "encoder": [1, 2, 1],
    "decoder": [2, 1],
}
#: A small version of each network. A network without one fails the first test.
SMALL: dict[str, dict[str, Any]] = {
    "DoDNet": {**SMALLEST, "head_width": 4},
    "TGNet": {**SMALLEST, "blocks": [1, 1, 2, 1, 1]},
    "MultiNets": SMALLEST,
    "MultiHead": {**SMALLEST, "channels": [8, 8, 8, 8, 8]},
    "TAL": SMALLEST,
    "CondNO": SMALLEST,
    "CondInput": SMALLEST,
    "CondDec": SMALLEST,
    "MultiTalentUNet": STAGES,
    "MultiTalentResEncUNet": {**STAGES, "blocks": [1, 2, 1]},
    "MultiTalentSwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 2},
    "U2Net": {"channels": 4, "halvings": [3, 3, 3]},
    "IndependentU2Net": {"channels": 4, "halvings": [3, 3, 3]},
    "KiTS21Pretraining": BOTTLENECKS,
    "KiTS21": BOTTLENECKS,
    "NnUNetLabels": {**NNUNET, "architecture": "PlainConvUNet"},
    "NnUNetRegions": {**NNUNET, "architecture": "ResidualEncoderUNet"},
}
SPACES = ("mots", "btcv", "kits21")
#: Networks that answer every task alike, which is what they are compared for.
BLIND = ("CondNO",)

pytestmark = pytest.mark.parametrize("name", NETWORKS)


def build(name: str, space: str = "mots") -> PartialLabelNetwork:
    """Return a small network with weights that are neither zero nor equal."""
    torch.manual_seed(0)
    network = build_network(name, SMALL[name], LabelSpace.named(space)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


def window(network: PartialLabelNetwork, samples: int = 1) -> torch.Tensor:
    """Return the smallest window that is not a cube."""
    depth, height, width = network.divisor
    return torch.randn(samples, 1, depth, 2 * height, 2 * width, generator=torch.Generator().manual_seed(1))


def test_every_network_has_a_small_version_to_test(name: str) -> None:
    assert name in SMALL


@pytest.mark.parametrize("space", SPACES)
def test_logits_have_a_channel_for_each_of_every_task(name: str, space: str) -> None:
    network = build(name, space)
    image = window(network, 2)
    for index, task in enumerate(network.label_space.tasks):
        with torch.inference_mode():
            logits = network(image, task_tensor(index).expand(2))
        assert logits.shape[0] == 2
        assert logits.shape[1] >= len(task.channels)
        assert logits.shape[2:] == image.shape[2:]
        assert torch.isfinite(logits).all()


def test_the_feature_map_has_the_resolution_of_the_window(name: str) -> None:
    network = build(name)
    image = window(network)
    condition = task_tensor(0) if network.features_depend_on_task else None
    features = network.features(image, condition)
    assert features.map.shape[2:] == image.shape[2:]
    assert features.pooled.shape[0] == 1


def test_logits_of_features_are_the_forward_pass(name: str) -> None:
    network = build(name)
    image = window(network)
    condition = task_tensor(2) if network.features_depend_on_task else None
    with torch.inference_mode():
        logits = network.logits(network.features(image, condition), task_tensor(2))
        torch.testing.assert_close(logits, network(image, task_tensor(2)), rtol=0, atol=0)


@pytest.mark.parametrize("space", SPACES)
def test_a_pointwise_head_gives_the_logits_of_its_task(name: str, space: str) -> None:
    network = build(name, space)
    image = window(network)
    for index, task in enumerate(network.label_space.tasks):
        condition = task_tensor(index) if network.features_depend_on_task else None
        with torch.inference_mode():
            features = network.features(image, condition)
            head = network.pointwise_head(features, index)
            wanted = network.logits(features, task_tensor(index))[0, : len(task.channels)]
        if head is None:
            pytest.skip("this network's head is not pointwise")
        hidden = features.map[0].flatten(1)
        for number, layer in enumerate(head):
            hidden = layer.weight @ hidden + layer.bias[:, None]
            hidden = hidden.relu() if number < len(head) - 1 else hidden
        torch.testing.assert_close(hidden.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)


def test_features_are_task_free_unless_the_network_says_otherwise(name: str) -> None:
    network = build(name)
    image = window(network)
    with torch.inference_mode():
        first, second = (network.features(image, task_tensor(task)) for task in (0, 5))
    same = torch.equal(first.map, second.map) and torch.equal(first.pooled, second.pooled)
    assert same is not network.features_depend_on_task


def test_samples_of_a_batch_do_not_influence_each_other(name: str) -> None:
    network = build(name)
    image = window(network, 2)
    task = torch.tensor([0, 1])
    with torch.inference_mode():
        together = network(image, task)
        alone = torch.cat([network(image[index : index + 1], task[index : index + 1]) for index in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_every_weight_takes_part_in_training(name: str) -> None:
    network = build(name).train()
    count = len(network.label_space.tasks)
    outputs = network.training_outputs(window(network, count), torch.arange(count))
    # A softmax network pads tasks of fewer classes with -inf.
    torch.stack([output[output.isfinite()].square().mean() for output in outputs]).sum().backward()
    without = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_a_task_gets_other_logits_than_the_next(name: str) -> None:
    network = build(name)
    image = window(network)
    with torch.inference_mode():
        alike = torch.allclose(network(image, task_tensor(0)), network(image, task_tensor(1)), atol=1e-3)
    assert alike is (name in BLIND)


def test_weights_travel_by_name(name: str) -> None:
    first, second = build(name), build_network(name, SMALL[name], LabelSpace.named("mots")).eval()
    second.load_state_dict(first.state_dict())
    image = window(first)
    with torch.inference_mode():
        torch.testing.assert_close(second(image, task_tensor(0)), first(image, task_tensor(0)), rtol=0, atol=0)


def test_features_may_be_kept_and_asked_again(name: str) -> None:
    network = build(name)
    with torch.inference_mode():
        features = network.features(window(network), task_tensor(0))
        kept = Features(features.map.clone(), features.pooled.clone())
        network.logits(features, task_tensor(0))
    assert torch.equal(features.map, kept.map)
    assert torch.equal(features.pooled, kept.pooled)


def test_an_unknown_parameter_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(BundleError, match="no_such_parameter"):
        build_network(name, {"no_such_parameter": 1}, LabelSpace.named("mots"))


def test_an_unknown_network_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BundleError, match=f"Unknown network 'NoNet'. Known: .*{name}"):
        build_network("NoNet", {}, LabelSpace.named("mots"))
