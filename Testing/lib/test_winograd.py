"""The CPU's own convolutions and norms: what PyTorch computes in float64, for every size, as a drop-in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from bundles import random_dodnet
from PartialSegLib.inference import extractors, winograd
from PartialSegLib.inference.extractors import TorchExtractor
from PartialSegLib.inference.rewriting import ChannelsLastNorm
from PartialSegLib.inference.winograd import WinogradConv3d, extra_weight_bytes, suits, use_winograd
from PartialSegLib.networks import NETWORKS
from PartialSegLib.networks.blocks import WeightStandardizedConv3d
from PartialSegLib.networks.multitalent import MultiTalentUNet, UNetParameters
from PartialSegLib.structures import LabelSpace

CPU = torch.device("cpu")
UNET = UNetParameters((16, 16, 16), ((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (1, 2, 2)))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolution(inside: int, outside: int, *, bias: bool) -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(inside, outside, 3, padding=1, bias=bias)


def off(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float((found.double() - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("depth", range(1, 14))
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_any_number_of_planes_is_convolved_as_in_float64(depth: int, bias: bool) -> None:
    layer, image = convolution(16, 24, bias=bias), random(2, 16, depth, 7, 9)
    found = WinogradConv3d(layer)(image)
    assert off(found, functional.conv3d(image.double(), *doubles(layer), padding=1)) < 1e-5


def doubles(layer: nn.Conv3d) -> tuple[torch.Tensor, torch.Tensor | None]:
    return layer.weight.double(), None if layer.bias is None else layer.bias.double()


@pytest.mark.parametrize("rows", [1, 2, 5, 12, 40])
@torch.inference_mode()
def test_rows_meet_without_a_seam(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, image = convolution(16, 16, bias=True), random(1, 16, 8, 12, 10)
    monkeypatch.setattr(winograd, "_ROWS_BYTES", -(-rows * 10 * 16 * 4 // torch.get_num_threads()))
    found = WinogradConv3d(layer)(image)
    assert off(found, functional.conv3d(image.double(), *doubles(layer), padding=1)) < 1e-5


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@torch.inference_mode()
def test_the_answer_is_channels_last_and_the_question_is_left_alone(memory: torch.memory_format) -> None:
    layer, image = convolution(16, 16, bias=False), random(1, 16, 8, 6, 10).contiguous(memory_format=memory)
    before = image.clone()
    found = WinogradConv3d(layer)(image)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(image, before)


def test_only_convolutions_that_gain_are_replaced() -> None:
    plain = nn.Conv3d(16, 16, 3, padding=1)
    others = [
        nn.Conv3d(16, 16, 3, padding=1, stride=2),
        nn.Conv3d(16, 16, 3),
        nn.Conv3d(16, 16, (1, 3, 3), padding=(0, 1, 1)),
        nn.Conv3d(16, 16, 3, padding=1, groups=2),
        nn.Conv3d(16, 16, 3, padding=2, dilation=2),
        nn.Conv3d(16, 16, 3, padding=1, padding_mode="replicate"),
        nn.Conv3d(1, 16, 3, padding=1),
        nn.ConvTranspose3d(16, 16, 3, padding=1),
    ]
    network = nn.Sequential(plain, *others)
    use_winograd(network)
    assert isinstance(network[0], WinogradConv3d)
    assert not any(suits(layer) for layer in others)
    assert not suits(WeightStandardizedConv3d(16, 16, 3)), "its weight is not the one that it uses"
    assert not suits(nn.Conv3d(16, 16, 3, padding=1).half())
    assert list(network)[1:] == others


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(4, 8), nn.GroupNorm(2, 8, affine=False), nn.InstanceNorm3d(8, affine=True), nn.InstanceNorm3d(8)],
    ids=["groups", "groups without weights", "instance", "instance without weights"],
)
@pytest.mark.parametrize("size", [(3, 5, 7), (20, 64, 64), (40, 120, 120)], ids=["small", "medium", "large"])
@pytest.mark.parametrize("offset", [0, 3, 30, 300])
@torch.inference_mode()
def test_norms_are_precise_on_maps_of_any_size_and_mean(
    norm: nn.GroupNorm | nn.InstanceNorm3d, size: tuple[int, ...], offset: int
) -> None:
    # PyTorch's own channels-last norm is off by 3e-4 on the large map, and by more far from zero.
    image = (random(2, 8, *size) + offset).contiguous(memory_format=torch.channels_last_3d)
    if norm.weight is not None:
        norm.weight.copy_(random(8, seed=1))
        norm.bias.copy_(random(8, seed=2))
    reference = norm.double()(image.double())
    found = ChannelsLastNorm(norm.float())(image)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    # What float32 leaves of the voxels themselves.
    assert off(found, reference) < 1e-5 + 3e-7 * offset


@pytest.mark.parametrize("name", ["DoDNet", "MultiTalentUNet"])
@torch.inference_mode()
def test_a_network_is_computed_as_in_float64_and_stays_as_it_was(name: str) -> None:
    torch.manual_seed(3)
    network = random_dodnet(seed=3) if name == "DoDNet" else MultiTalentUNet(UNET, LabelSpace.named("mots")).eval()
    window = random(1, 1, 32, 32, 48)
    names = [type(module).__name__ for module in network.modules()]
    found = TorchExtractor(network, CPU)(window)
    assert [type(module).__name__ for module in network.modules()] == names
    exact = network.double().features(window.double())
    assert off(found.map, exact.map) < 1e-4
    if found.pooled.numel():
        assert off(found.pooled, exact.pooled) < 1e-4


def test_a_convolution_that_two_places_share_is_replaced_in_both() -> None:
    shared = convolution(16, 16, bias=False)
    network = nn.ModuleDict({"first": shared, "second": shared})
    use_winograd(network)
    assert all(isinstance(layer, WinogradConv3d) for layer in network.values())


def test_the_forecast_knows_the_further_weights() -> None:
    network = nn.Sequential(convolution(16, 24, bias=False), nn.Conv3d(24, 8, 1))
    use_winograd(made := copy.deepcopy(network))
    made(random(1, 16, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d))
    assert extra_weight_bytes(network) == sum(weight.nbytes for weight in made[0]._weights)


@pytest.mark.parametrize(
    ("intel", "installed", "name", "used"),
    [
        (True, True, "DoDNet", True),
        (False, True, "DoDNet", False),
        (True, False, "DoDNet", False),
        (True, True, "TGNet", False),
    ],
)
def test_openvino_is_used_on_processors_of_intel_where_it_is_installed_and_can(
    intel: bool, installed: bool, name: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extractors, "made_by_intel", lambda: intel)
    monkeypatch.setattr(extractors, "openvino_installed", lambda: installed)
    network, parameters = NETWORKS[name]
    assert extractors.runs_on_openvino(network(parameters(), LabelSpace.named("mots"))) is used
