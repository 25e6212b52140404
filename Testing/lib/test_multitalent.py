"""MultiTalent is the published one: same weights by the same names, same numbers; and any label space makes one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vectors
from bundles import TWO_MM
from PartialSegLib.bundle import Card, ModelBundle
from PartialSegLib.errors import BundleError, MissingExtraError
from PartialSegLib.inference import extractors
from PartialSegLib.inference.extractors import OpenVINOExtractor, TorchExtractor, make_extractor
from PartialSegLib.networks import MultiTalentResEncUNet, MultiTalentSwinUNETR, MultiTalentUNet, build_network
from PartialSegLib.networks.contract import task_tensor, weight_count
from PartialSegLib.networks.multitalent import (
    MultiTalentNetwork,
    ResEncUNetParameters,
    SwinUNETRParameters,
    UNetParameters,
    published_weights,
)
from PartialSegLib.structures import LabelSpace

SPACE = LabelSpace.named("multitalent")
MOTS = LabelSpace.named("mots")
IMAGE = vectors.seeded(0, (1, 1, 32, 64, 64))

SMALL_UNET = UNetParameters(
    features=(4, 6, 8), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))
)
SMALL_RESENC = ResEncUNetParameters(**vars(SMALL_UNET), blocks=(1, 2, 1))
SMALL_SWIN = SwinUNETRParameters(feature_size=12, depths=(1, 1, 1, 1), window_size=2)


def small(name: str, space: LabelSpace = MOTS) -> MultiTalentNetwork:
    """Return a small network whose weights are neither zero nor equal."""
    torch.manual_seed(0)
    network: MultiTalentNetwork
    if name == "unet":
        network = MultiTalentUNet(SMALL_UNET, space)
    elif name == "resenc":
        network = MultiTalentResEncUNet(SMALL_RESENC, space)
    else:
        network = MultiTalentSwinUNETR(SMALL_SWIN, space)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# ---- the published networks


class Published:
    """A published network with the weights of the vectors, and all its outputs for their input."""

    def __init__(self, name: str) -> None:
        self.name = name
        network: MultiTalentNetwork
        if name == "multitalent_unet":
            network = MultiTalentUNet(UNetParameters(), SPACE)
        else:
            network = MultiTalentResEncUNet(ResEncUNetParameters(), SPACE)
        vectors.fill(network)
        self.network = network.eval()
        self.expected = vectors.arrays(name)

    def outputs(self, dtype: torch.dtype) -> list[Tensor]:
        """Return (1, 47, ...) logits of every resolution, finest first, put together from all 13 tasks."""
        network = self.network.to(dtype)
        with torch.inference_mode():
            maps = network.decoder_maps(IMAGE.to(dtype))
            answers = [
                [level[:, : len(task.channels)] for level in network.answers(maps, task_tensor(index))]
                for index, task in enumerate(SPACE.tasks)
            ]
        network.float()
        return [torch.cat(level, 1) for level in zip(*answers, strict=True)]

    def close(self, found: Tensor, key: str, tolerance: float) -> None:
        torch.testing.assert_close(found, torch.from_numpy(self.expected[key]), rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module", params=["multitalent_unet", "multitalent_resenc"])
def published(request: pytest.FixtureRequest) -> Published:
    return Published(request.param)


def test_weights_have_the_published_names_and_shapes(published: Published) -> None:
    shapes = {name: list(weight.shape) for name, weight in published.network.state_dict().items()}
    listed = vectors.facts(f"{published.name}_state")
    aliases = {name for name in listed if ".all." in name}
    assert shapes == {name: shape for name, shape in listed.items() if name not in aliases}
    state = vectors.facts(published.name)["state"]
    assert len(listed) == state["n_keys"]
    assert len(aliases) == state["n_aliases"]


def test_the_published_networks_have_their_published_size(published: Published) -> None:
    sizes = {"multitalent_unet": 29_319_560, "multitalent_resenc": 69_335_475}
    count = weight_count(published.network)
    assert count == vectors.facts(published.name)["state"]["n_unique_params"] == sizes[published.name]
    assert published.network.divisor == (16, 32, 32)


def test_the_weights_of_the_vectors_are_filled_by_their_rule(published: Published) -> None:
    weights = published.network.state_dict()
    for name, (total, magnitude) in vectors.facts(published.name)["checksum"].items():
        weight = weights[name.replace(".all.0.", ".conv.").replace(".all.2.", ".norm.")].double()
        assert float(weight.sum()) == pytest.approx(total, rel=1e-9)
        assert float(weight.abs().sum()) == pytest.approx(magnitude, rel=1e-9)


def test_all_outputs_of_all_resolutions_are_the_published_ones(published: Published) -> None:
    outputs = published.outputs(torch.float32)
    assert [output.shape[1] for output in outputs] == [47] * 5
    for key in ("ds0_s4", "ds1_s2", "ds2_s1", "ds3_s1", "ds4_s1"):
        step = int(key[-1])
        published.close(outputs[int(key[2])][..., ::step, ::step, ::step], key, 1e-4)
    published.close(outputs[0][:, [0, 8, 9, 42], ::2, ::2, ::2], "last_s2_channels_0_8_9_42", 1e-4)


def test_double_precision_agrees_to_nine_digits(published: Published) -> None:
    published.close(published.outputs(torch.float64)[0][..., ::4, ::4, ::4], "full64_s4", 1e-9)


def test_the_answer_to_one_task_is_its_share_of_the_published_outputs(published: Published) -> None:
    with torch.inference_mode():
        logits = published.network(IMAGE, task_tensor(SPACE.task_index("msd10")))
    expected = torch.from_numpy(published.expected["last_s2_channels_0_8_9_42"][:, 1:2])
    torch.testing.assert_close(logits[:, :1, ::2, ::2, ::2], expected, rtol=1e-4, atol=1e-4)


# ---- published names


def as_published(network: MultiTalentNetwork) -> dict[str, Tensor]:
    """Return the state of a ResEnc U-Net as the published checkpoint holds it: aliases, and the older head."""
    state = dict(network.state_dict())
    for name, weight in network.state_dict().items():
        for ours, alias in ((".conv.", ".all.0."), (".norm.", ".all.2.")):
            if name.startswith("decoder.stages.") and ours in name:
                state[name.replace(ours, alias)] = weight
        if name.startswith("decoder.deep_supervision_outputs.1."):
            state[name.replace("deep_supervision_outputs.1", "segmentation_output")] = state.pop(name)
    return state


@pytest.mark.parametrize("name", ["multitalent_unet", "multitalent_resenc"])
def test_published_names_become_ours(name: str) -> None:
    listed = vectors.facts(f"{name}_state")
    translated = published_weights({key: torch.zeros(shape).expand(shape) for key, shape in listed.items()})
    assert set(translated) == {key for key in listed if ".all." not in key}


def test_a_bundle_made_of_published_weights_holds_each_once_and_computes_the_same(tmp_path: Path) -> None:
    network = small("resenc")
    state = as_published(network)
    assert "decoder.segmentation_output.weight" in state
    assert len(state) == len(network.state_dict()) + 6
    card = Card(
        name="resenc",
        title="ResEnc U-Net",
        description="For tests.",
        network="MultiTalentResEncUNet",
        network_parameters=vars(SMALL_RESENC),
        label_space=MOTS,
        preprocessing=TWO_MM,
        window=(16, 32, 32),
    )
    ModelBundle.create(tmp_path / "resenc", card, published_weights(state))
    loaded = ModelBundle.open(tmp_path / "resenc").load_network()
    assert loaded.parameters_ == SMALL_RESENC
    image = noise(1, 1, 4, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image, task_tensor(3)), network(image, task_tensor(3)), rtol=0, atol=0)


def test_weights_under_their_alias_only_are_found() -> None:
    network = small("resenc")
    state = {name: weight for name, weight in as_published(network).items() if ".conv." not in name}
    translated = published_weights(state)
    assert translated.keys() == network.state_dict().keys()


def test_aliases_that_differ_are_refused_by_name() -> None:
    state = as_published(small("resenc"))
    state["decoder.stages.0.convs.0.all.2.bias"] = state["decoder.stages.0.convs.0.norm.bias"] + 1
    with pytest.raises(BundleError, match=r"decoder\.stages\.0\.convs\.0\.norm\.bias' and .*all\.2\.bias'"):
        published_weights(state)


# ---- what the engine and the trainer rely on


@pytest.mark.parametrize("name", ["unet", "resenc"])
def test_training_sees_every_resolution_finest_first(name: str) -> None:
    network = small(name)
    with torch.inference_mode():
        fine, coarse = network.training_outputs(noise(2, 1, 4, 8, 8), torch.tensor([0, 6]))
        logits = network(noise(2, 1, 4, 8, 8), torch.tensor([0, 6]))
    assert torch.equal(fine, logits)
    assert coarse.shape == (2, 2, 4, 4, 4)


@pytest.mark.parametrize("name", ["unet", "resenc"])
def test_inference_needs_no_coarser_head(name: str) -> None:
    network, image = small(name), noise(1, 1, 4, 8, 8)
    with torch.inference_mode():
        before = network(image, task_tensor(1))
        for head in network.heads()[1:]:
            head.weight.fill_(float("nan"))
        assert torch.equal(network(image, task_tensor(1)), before)


@pytest.mark.parametrize("name", ["unet", "resenc", "swinunetr"])
def test_a_network_has_one_output_for_each_structure_of_its_label_space(name: str) -> None:
    for space in (MOTS, LabelSpace.named("kits21")):
        network = small(name, space)
        assert network.outputs == space.select()
        assert {head.out_channels for head in network.heads()} == {len(space.structures)}


def test_outputs_of_other_tasks_get_no_gradient() -> None:
    network = small("resenc").train()
    outputs = network.training_outputs(noise(2, 1, 4, 8, 8), torch.tensor([0, 3]))
    torch.stack([output.square().sum() for output in outputs]).sum().backward()
    asked = {"liver", "liver_tumor", "pancreas", "pancreas_tumor"}
    for head in network.heads():
        assert head.weight.grad is not None
        moved = head.weight.grad.flatten(1).abs().sum(1) > 0
        assert {key for key, moves in zip(network.outputs, moved.tolist(), strict=True) if moves} == asked


def test_a_channel_that_nobody_annotated_is_zero() -> None:
    network = small("unet")
    with torch.inference_mode():
        organ, tumor = network(noise(1, 1, 4, 8, 8), task_tensor(MOTS.task_index("colon")))[0]
    assert not organ.any()
    assert tumor.any()


@pytest.mark.parametrize("name", ["unet", "resenc"])
def test_openvino_gives_the_same_features(name: str) -> None:
    pytest.importorskip("openvino")
    network, window = small(name), (8, 16, 24)
    image = noise(2, 1, *window)
    with torch.inference_mode():
        expected = network.features(image)
        found = OpenVINOExtractor(network, window)(image)
    assert float((found.map - expected.map).abs().max()) < 1e-3 * float(expected.map.abs().max())
    assert found.pooled.shape == expected.pooled.shape == (2, 0)


def test_openvino_normalizes_large_windows_as_precisely() -> None:
    pytest.importorskip("openvino")
    # OpenVINO's own InstanceNorm is off by 3e-4 of the largest value over the million voxels of this window.
    network, window = small("unet"), (64, 128, 128)
    image = noise(1, 1, *window) + 2
    with torch.inference_mode():
        expected = network.features(image).map
        found = OpenVINOExtractor(network, window)(image).map
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["unet", "resenc", "swinunetr"])
def test_channels_last_gives_the_same_features(name: str) -> None:
    network = small(name)
    image = noise(1, 1, 32, 32, 64) if name == "swinunetr" else noise(2, 1, 8, 16, 24)
    with torch.inference_mode():
        expected = network.features(image).map
    found = TorchExtractor(network, torch.device("cpu"))(image).map
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ---- SwinUNETR


def test_swinunetr_computes_what_monais_does() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    network = small("swinunetr")
    theirs = nets.SwinUNETR(in_channels=1, out_channels=11, feature_size=12, depths=(1, 1, 1, 1), window_size=2).eval()
    state = {key.removeprefix("backbone."): weight for key, weight in network.state_dict().items()}
    state |= {f"out.conv.conv.{part}": state.pop(f"head.{part}") for part in ("weight", "bias")}
    missing = theirs.load_state_dict(state, strict=False)
    assert missing.unexpected_keys == []
    assert all(key.endswith("relative_position_index") for key in missing.missing_keys)
    image = noise(1, 1, 32, 32, 64)
    with torch.inference_mode():
        logits = theirs(image)
        for index, task in enumerate(MOTS.tasks):
            wanted = [network.outputs.index(key) for key in task.structures]
            channels = [channel for channel, key in enumerate(task.channels) if key]
            found = network(image, task_tensor(index))[:, channels]
            torch.testing.assert_close(found, logits[:, wanted], rtol=1e-5, atol=1e-5)


def test_swinunetr_has_the_default_size_of_the_paper() -> None:
    # 62.19 M: MONAI's documented network of 48 features, with a row of 48 weights and a bias for each structure.
    assert weight_count(MultiTalentSwinUNETR(SwinUNETRParameters(), SPACE)) == 62_188_913


def test_swinunetr_is_not_compiled_for_one_window_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "made_by_intel", lambda: True)
    extractor = make_extractor(small("swinunetr"), (32, 32, 32), torch.device("cpu"))
    assert isinstance(extractor, TorchExtractor)


@pytest.mark.parametrize("package", ["monai.networks.nets", "einops"])
def test_without_monai_the_extra_to_install_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"SwinUNETR") as raised:
        build_network("MultiTalentSwinUNETR", vars(SMALL_SWIN), MOTS)
    assert "partialseg[swin]" in raised.value.hint


# ---- what is refused

REFUSED: Mapping[str, tuple[Any, dict[str, Any], str]] = {
    "stages": (SMALL_UNET, {"features": (4, 6)}, "2 features, 3 kernels and 3 strides"),
    "no channels": (SMALL_UNET, {"features": (4, 0, 8)}, "not all positive"),
    "even kernel": (SMALL_UNET, {"kernels": ((2, 3, 3),) * 3}, "three odd numbers"),
    "stride of nothing": (SMALL_UNET, {"strides": ((1, 1, 1), (0, 1, 1), (2, 2, 2))}, "three positive numbers"),
    "coarse first stage": (SMALL_UNET, {"strides": ((2, 2, 2),) * 3}, "the first stage has stride"),
    "blocks": (SMALL_RESENC, {"blocks": (1, 2)}, "the blocks"),
    "feature size": (SMALL_SWIN, {"feature_size": 20}, "20 is not a multiple of 12"),
    "three depths": (SMALL_SWIN, {"depths": (1, 1, 1)}, "four stages"),
    "heads": (SMALL_SWIN, {"num_heads": (5, 6, 12, 24)}, "do not divide"),
    "window": (SMALL_SWIN, {"window_size": 0}, "window of 0"),
}


@pytest.mark.parametrize(("parameters", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_sizes_that_make_no_network_are_refused(parameters: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(parameters, **changes)
