"""KiTS21 transfer: what was pretrained arrives, the head is new, and the classes are those of the challenge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from PartialSegLib.networks import KiTS21, KiTS21Parameters, KiTS21Pretraining, KiTS21PretrainingParameters
from PartialSegLib.networks.bottleneck_unet import BasicBlock, BottleneckBlock
from PartialSegLib.networks.contract import task_tensor, weight_count
from PartialSegLib.networks.exclusive import unions
from PartialSegLib.networks.kits21 import transfer
from PartialSegLib.structures import LabelSpace

MOTS, KITS21 = LabelSpace.named("mots"), LabelSpace.named("kits21")
SMALL = KiTS21PretrainingParameters(stem=4, widths=(2, 3, 4, 5), blocks=(1, 2, 1, 1), rates=(1, 2), map_channels=4)


@pytest.fixture(scope="module")
def published() -> KiTS21Pretraining:
    """Return the network of the paper's size, without memory for its weights."""
    with torch.device("meta"):
        return KiTS21Pretraining(KiTS21PretrainingParameters(), MOTS)


def pretrained() -> KiTS21Pretraining:
    torch.manual_seed(0)
    network = KiTS21Pretraining(SMALL, MOTS)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network.eval()


def image(seed: int = 1) -> torch.Tensor:
    return torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(seed))


# ---- the network of the paper


def test_each_encoder_stage_has_one_block_that_halves_and_2_3_5_or_2_that_do_not(published: KiTS21Pretraining) -> None:
    for stage, repeated in zip(published.backbone.encoder.stages, (2, 3, 5, 2), strict=True):
        first, *others = stage.children()
        assert isinstance(first, BottleneckBlock)
        assert first.conv2.stride == (2, 2, 2)
        assert len(others) == repeated
        assert all(isinstance(block, BottleneckBlock) and block.conv2.stride == (1, 1, 1) for block in others)


def test_the_decoder_has_one_block_a_stage_and_learns_to_upsample(published: KiTS21Pretraining) -> None:
    modules = list(published.backbone.modules())
    assert sum(isinstance(module, BasicBlock) for module in modules) == 4
    ups = [module for module in modules if isinstance(module, torch.nn.ConvTranspose3d)]
    assert [up.stride for up in ups] == [(2, 2, 2)] * 4
    assert not any(isinstance(module, torch.nn.Upsample) for module in modules)


def test_the_networks_have_the_size_that_the_documentation_gives(published: KiTS21Pretraining) -> None:
    with torch.device("meta"):
        downstream = KiTS21(KiTS21Parameters(), KITS21)
    assert weight_count(published) == 42_656_064
    assert weight_count(published.controller) == (256 + 7 + 1) * 162
    assert weight_count(downstream) == weight_count(published.backbone) + 4 * (8 + 1) == 42_613_332


def test_a_voxel_sees_further_through_a_higher_atrous_rate() -> None:
    # The branches look at 2 rate + 1 voxels, and nowhere in between.
    network = KiTS21(replace_rates((3,)), KITS21)
    (branch,) = network.backbone.aspp.branches
    convolution = next(branch.children())
    impulse = torch.zeros(1, 4, 9, 9, 9)
    impulse[..., 4, 4, 4] = 1.0
    seen = convolution(impulse).abs().sum(1)[0].nonzero()
    assert {int(index) for index in seen.flatten()} == {1, 4, 7}


def replace_rates(rates: tuple[int, ...]) -> KiTS21Parameters:
    return KiTS21Parameters(SMALL.stem, SMALL.widths, SMALL.blocks, rates, SMALL.map_channels)


# ---- transfer


def test_every_weight_of_the_backbone_arrives() -> None:
    before = pretrained()
    after = transfer(before, KITS21)
    found, wanted = after.state_dict(), before.state_dict()
    backbone = [key for key in wanted if key.startswith("backbone.")]
    assert set(wanted) - set(backbone) == {"controller.weight", "controller.bias"}
    assert set(found) - set(backbone) == {"heads.0.weight", "heads.0.bias"}
    for key in backbone:
        assert torch.equal(found[key], wanted[key]), key


def test_the_transferred_network_sees_what_the_pretrained_one_saw() -> None:
    before = pretrained()
    after = transfer(before, KITS21).eval()
    with torch.inference_mode():
        assert torch.equal(after.features(image()).map, before.features(image()).map)


def test_training_the_transferred_network_leaves_the_pretrained_one_alone() -> None:
    before = pretrained()
    after = transfer(before, KITS21)
    with torch.no_grad():
        for weight in after.parameters():
            weight.zero_()
    assert all(weight.any() for weight in before.backbone.parameters())


def test_the_transferred_network_has_the_precision_of_the_pretrained_one() -> None:
    after = transfer(pretrained().double(), KITS21)
    assert {weight.dtype for weight in after.parameters()} == {torch.float64}


# ---- what the downstream network answers


def test_its_classes_are_background_kidney_tumor_and_cyst() -> None:
    network = transfer(pretrained(), KITS21).eval()
    with torch.inference_mode():
        (classes,) = network.training_outputs(image(), task_tensor(0))
    assert classes.shape == (1, 4, 16, 32, 32)
    assert unions(KITS21, 0) == ((1, 2, 3), (2,), (3,))


def test_the_kidney_is_what_is_not_background() -> None:
    network = transfer(pretrained(), KITS21).eval()
    with torch.inference_mode():
        (classes,) = network.training_outputs(image(), task_tensor(0))
        kidneys, tumor, cyst = network(image(), task_tensor(0)).sigmoid().unbind(1)
    probability = classes.softmax(1)
    torch.testing.assert_close(kidneys, 1.0 - probability[:, 0])
    torch.testing.assert_close(tumor, probability[:, 2])
    torch.testing.assert_close(cyst, probability[:, 3])


def test_the_dynamic_head_depends_on_the_image_and_on_the_task() -> None:
    network = pretrained()
    with torch.inference_mode():
        pooled = [network.features(image(seed)).pooled for seed in (1, 2)]
        heads = [network.head_parameters(vector, task_tensor(0)) for vector in pooled]
        other = network.head_parameters(pooled[0], task_tensor(1))
    assert not torch.allclose(heads[0], heads[1], atol=1e-4)
    assert not torch.allclose(heads[0], other, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8, 16)}, "four stages"),
        ({"blocks": (1, 1, 1, 1, 1)}, "four stages"),
        ({"rates": ()}, "at least one rate"),
        ({"map_channels": 0}, "at least 1"),
        ({"head_depth": 0}, "depth 0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
