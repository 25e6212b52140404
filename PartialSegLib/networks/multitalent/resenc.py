"""The ResEnc U-Net of MultiTalent: residual encoder, decoder of one convolution a stage (69.3 M weights).

Decides the topology of the ResEnc U-Net of the published ``Task100_MultiTalent`` (nnU-Net v1's
``FabiansUNet``), with its weight names. Built from a card by
:func:`PartialSegLib.networks.build_network`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from PartialSegLib.networks.multitalent.base import MultiTalentNetwork
from PartialSegLib.networks.multitalent.blocks import (
    Triple,
    activation,
    convolution,
    convolution_norm_activation,
    decode,
    heads,
    start_weights,
    upsamplings,
)
from PartialSegLib.networks.multitalent.unet import UNetParameters
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class ResEncUNetParameters(UNetParameters):
    """Shape of a ResEnc U-Net, stage by stage. The defaults are the published plan.

    Parameters
    ----------
    features, kernels, strides : tuple
        See :class:`UNetParameters`. Strides are in another order than the U-Net's: the first pooling
        is the one that leaves the slices alone.
    blocks : tuple of int
        Residual blocks of each stage of the encoder.
    """

    kernels: tuple[Triple, ...] = ((1, 3, 3), *((3, 3, 3),) * 5)
    strides: tuple[Triple, ...] = ((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * 4)
    blocks: tuple[int, ...] = (1, 2, 3, 4, 4, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.blocks) != len(self.features) or min(self.blocks) < 1:
            raise ValueError(f"the blocks {self.blocks} are not one positive number for each of {self.features}")


class MultiTalentResEncUNet(MultiTalentNetwork):
    """MultiTalent on nnU-Net v1's residual-encoder U-Net.

    A stem of one convolution, stages of residual blocks without bias, a decoder of one convolution a
    stage, and a head with bias at every resolution.

    Parameters
    ----------
    parameters : ResEncUNetParameters
        Stages.
    label_space : LabelSpace
        One output per structure.
    """

    def __init__(self, parameters: ResEncUNetParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: ResEncUNetParameters = parameters
        self.encoder = ResidualEncoder(parameters)
        self.decoder = _Decoder(parameters, len(self.outputs))
        start_weights(self)
        self.encoder.start_norms()

    @property
    def divisor(self) -> Triple:
        """Window sizes must be multiples of 16, 32, 32 as published."""
        return self.parameters_.divisor

    def heads(self) -> list[nn.Conv3d]:
        """See :meth:`MultiTalentNetwork.heads`."""
        return cast("list[nn.Conv3d]", list(self.decoder.deep_supervision_outputs)[::-1])

    def decoder_maps(self, image: Tensor) -> list[Tensor]:
        """See :meth:`MultiTalentNetwork.decoder_maps`."""
        return decode(self.encoder(image), self.decoder.tus, self.decoder.stages)


class ResidualBlock(nn.Module):
    """Post-activation residual block: convolution, norm, LeakyReLU, convolution, norm; plus shortcut; LeakyReLU.

    The shortcut is the input, or a strided 1x1x1 convolution and norm of it where channels or stride
    change.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel, stride : tuple of int
        Of the convolutions and of the first one, (D, H, W).
    """

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, kernel, stride, bias=False)
        self.norm1 = nn.InstanceNorm3d(outputs, affine=True)
        self.nonlin1 = activation()
        self.conv2 = convolution(outputs, outputs, kernel, bias=False)
        self.norm2 = nn.InstanceNorm3d(outputs, affine=True)
        self.nonlin2 = activation()
        self.downsample_skip: nn.Module | None = None
        if stride != (1, 1, 1) or inputs != outputs:
            self.downsample_skip = nn.Sequential(
                convolution(inputs, outputs, (1, 1, 1), stride, bias=False), nn.InstanceNorm3d(outputs, affine=True)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, in, D, H, W) to (N, out, D / stride, H / stride, W / stride)."""
        shortcut = hidden if self.downsample_skip is None else self.downsample_skip(hidden)
        hidden = self.nonlin1(self.norm1(self.conv1(hidden)))
        return self.nonlin2(self.norm2(self.conv2(hidden)) + shortcut)


class ResidualEncoder(nn.Module):
    """Stem and residual stages.

    Parameters
    ----------
    parameters : ResEncUNetParameters
        Stages.
    """

    def __init__(self, parameters: ResEncUNetParameters) -> None:
        super().__init__()
        features, stem = parameters.features, parameters.features[0]
        self.initial_conv = convolution(1, stem, (3, 3, 3), bias=False)
        self.initial_norm = nn.InstanceNorm3d(stem, affine=True)
        self.initial_nonlin = activation()
        stages = []
        for inputs, outputs, kernel, stride, blocks in zip(
            (stem, *features[:-1]), features, parameters.kernels, parameters.strides, parameters.blocks, strict=True
        ):
            first = ResidualBlock(inputs, outputs, kernel, stride)
            others = (ResidualBlock(outputs, outputs, kernel, (1, 1, 1)) for _ in range(blocks - 1))
            stages.append(nn.Sequential(OrderedDict(convs=nn.Sequential(first, *others))))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, 1, D, H, W) to the map of every stage, finest first."""
        maps = [self.initial_nonlin(self.initial_norm(self.initial_conv(image)))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def start_norms(self) -> None:
        """Let every residual block begin as its shortcut: the norm before the sum starts at zero."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.norm2.weight)


class _Decoder(nn.Module):
    """The parts of the decoder under their published names; :func:`decode` runs them."""

    def __init__(self, parameters: ResEncUNetParameters, outputs: int) -> None:
        super().__init__()
        features, kernels = parameters.features, parameters.kernels
        self.tus = upsamplings(features, parameters.strides)
        self.stages = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    convs=nn.Sequential(
                        convolution_norm_activation(
                            2 * features[stage], features[stage], kernels[stage], bias=False, norm="norm"
                        )
                    )
                )
            )
            for stage in reversed(range(len(features) - 1))
        )
        self.deep_supervision_outputs = heads(features, outputs, bias=True)
