"""Small models with random weights, for tests and benchmarks of everything but accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from PartialSegLib.bundle import Card, ModelBundle, Preprocessing
from PartialSegLib.inference import Predictor
from PartialSegLib.networks import DoDNet, DoDNetParameters, PartialLabelNetwork, build_network
from PartialSegLib.structures import LabelSpace

#: A DoDNet that takes a few milliseconds a window.
TINY = DoDNetParameters(channels=(8, 8, 16, 16, 16), blocks=(1, 1, 1, 1, 1), groups=4)
TINY_WINDOW = (32, 48, 48)
TWO_MM = Preprocessing((2.0, 2.0, 2.0), (-400.0, 400.0), 0.0, 400.0, coarse_spacing=(4.0, 4.0, 4.0))


def random_dodnet(parameters: DoDNetParameters = TINY, label_space: LabelSpace | None = None, seed: int = 0) -> DoDNet:
    """Return a DoDNet whose answers differ from task to task and from place to place."""
    generator = torch.Generator().manual_seed(seed)
    network = DoDNet(parameters, label_space or LabelSpace.named("mots")).eval()
    _randomize(network, generator)
    controller = network.controller
    assert isinstance(controller, nn.Conv3d)
    assert controller.bias is not None
    with torch.no_grad():
        controller.weight.mul_(3)
        controller.bias.copy_(torch.randn(controller.bias.shape, generator=generator))
    return network


def random_network(
    name: str, parameters: Mapping[str, Any], label_space: LabelSpace | None = None, seed: int = 0
) -> PartialLabelNetwork:
    """Return a network of the registry whose answers differ from place to place."""
    network = build_network(name, parameters, label_space or LabelSpace.named("mots")).eval()
    _randomize(network, torch.Generator().manual_seed(seed))
    return network


def _randomize(network: PartialLabelNetwork, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 1 + 0.3 * noise)


def random_bundle(
    folder: Path,
    parameters: DoDNetParameters = TINY,
    window: tuple[int, int, int] = TINY_WINDOW,
    preprocessing: Preprocessing = TWO_MM,
    label_space: LabelSpace | None = None,
    **fields: Any,
) -> ModelBundle:
    """Write a bundle of a DoDNet with random weights to `folder`."""
    network = random_dodnet(parameters, label_space)
    return bundle_of(folder, "DoDNet", network, window, preprocessing, **fields)


def bundle_of(
    folder: Path,
    name: str,
    network: PartialLabelNetwork,
    window: tuple[int, int, int] = TINY_WINDOW,
    preprocessing: Preprocessing = TWO_MM,
    **fields: Any,
) -> ModelBundle:
    """Write a bundle of `network`, which the registry calls `name`, to `folder`."""
    card = Card(
        name=folder.name,
        title="Random weights",
        description="For tests.",
        network=name,
        network_parameters=vars(network.parameters_),
        label_space=network.label_space,
        preprocessing=preprocessing,
        window=window,
        **fields,
    )
    return ModelBundle.create(folder, card, network.state_dict())


def random_predictor(
    parameters: DoDNetParameters, window: tuple[int, int, int], preprocessing: Preprocessing = TWO_MM
) -> Predictor:
    """Return a predictor of a model with random weights, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        return Predictor(random_bundle(Path(folder) / "random", parameters, window, preprocessing), "cpu")
