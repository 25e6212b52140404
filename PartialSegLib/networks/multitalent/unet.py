"""The U-Net of MultiTalent: nnU-Net v1's, with 30 features in its first stage (29.3 M weights).

Decides the topology of the U-Net of the published ``Task100_MultiTalent``, with its weight names. Built
from a card by :func:`PartialSegLib.networks.build_network`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import cast

from torch import Tensor, nn

from PartialSegLib.networks.multitalent.base import MultiTalentNetwork
from PartialSegLib.networks.multitalent.blocks import (
    Triple,
    convolution_norm_activation,
    decode,
    heads,
    start_weights,
    upsamplings,
)
from PartialSegLib.structures import LabelSpace

_CUBE: Triple = (3, 3, 3)
_HALF: Triple = (2, 2, 2)


@dataclass(frozen=True)
class UNetParameters:
    """Shape of a U-Net, stage by stage from full resolution to the bottleneck. The defaults are the published plan.

    Parameters
    ----------
    features : tuple of int
        Channels.
    kernels : tuple of three int
        Kernel size of the convolutions, (D, H, W), odd; a decoder stage has that of its skip's stage.
    strides : tuple of three int
        By how much the stage is coarser than the one before, (D, H, W); 1, 1, 1 for the first.

    Raises
    ------
    ValueError
        When the stages do not fit each other.
    """

    features: tuple[int, ...] = (30, 60, 120, 240, 320, 320)
    kernels: tuple[Triple, ...] = (_CUBE,) * 6
    strides: tuple[Triple, ...] = ((1, 1, 1), _HALF, _HALF, _HALF, _HALF, (1, 2, 2))

    def __post_init__(self) -> None:
        for name in ("kernels", "strides"):  # JSON has lists
            object.__setattr__(self, name, tuple(tuple(sizes) for sizes in getattr(self, name)))
        stages = len(self.features)
        if stages < 2 or len(self.kernels) != stages or len(self.strides) != stages:
            raise ValueError(
                f"{stages} features, {len(self.kernels)} kernels and {len(self.strides)} strides do not make stages"
            )
        if min(self.features) < 1:
            raise ValueError(f"the features {self.features} are not all positive")
        if any(len(kernel) != 3 or any(size % 2 != 1 for size in kernel) for kernel in self.kernels):
            raise ValueError(f"the kernels {self.kernels} are not three odd numbers each")
        if any(len(stride) != 3 or min(stride) < 1 for stride in self.strides):
            raise ValueError(f"the strides {self.strides} are not three positive numbers each")
        if self.strides[0] != (1, 1, 1):
            raise ValueError(f"the first stage has stride {self.strides[0]}, but the map of the heads is as fine as it")

    @property
    def divisor(self) -> Triple:
        """By how much the bottleneck is coarser than the image, (D, H, W)."""
        depth, height, width = (prod(sizes) for sizes in zip(*self.strides, strict=True))
        return depth, height, width


class MultiTalentUNet(MultiTalentNetwork):
    """MultiTalent on nnU-Net v1's U-Net.

    Every stage has two convolutions, each followed by InstanceNorm and LeakyReLU; the first one of a
    stage is strided. The decoder upsamples by transposed convolutions, concatenates the skip behind,
    and has a head without bias at every resolution.

    Parameters
    ----------
    parameters : UNetParameters
        Stages.
    label_space : LabelSpace
        One output per structure.
    """

    def __init__(self, parameters: UNetParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: UNetParameters = parameters
        features, kernels, strides = parameters.features, parameters.kernels, parameters.strides
        stages = list(zip((1, *features), features, kernels, strides, strict=False))
        self.conv_blocks_context = nn.ModuleList(
            [*(_stack(*stage, count=2) for stage in stages[:-1]), _two_stacks(*stages[-1])]
        )
        self.tu = upsamplings(features, strides)
        self.conv_blocks_localization = nn.ModuleList(
            _two_stacks(2 * features[stage], features[stage], kernels[stage], (1, 1, 1))
            for stage in reversed(range(len(features) - 1))
        )
        self.seg_outputs = heads(features, len(self.outputs), bias=False)
        start_weights(self)

    @property
    def divisor(self) -> Triple:
        """Window sizes must be multiples of 16, 32, 32 as published."""
        return self.parameters_.divisor

    def heads(self) -> list[nn.Conv3d]:
        """See :meth:`MultiTalentNetwork.heads`."""
        return cast("list[nn.Conv3d]", list(self.seg_outputs)[::-1])

    def decoder_maps(self, image: Tensor) -> list[Tensor]:
        """See :meth:`MultiTalentNetwork.decoder_maps`."""
        maps = [image]
        for stage in self.conv_blocks_context:
            maps.append(stage(maps[-1]))
        return decode(maps[1:], self.tu, self.conv_blocks_localization)


def _stack(inputs: int, outputs: int, kernel: Triple, stride: Triple, *, count: int) -> nn.Sequential:
    """Return `count` convolutions with norm and activation, the first one strided."""
    sizes = [(inputs, stride)] + [(outputs, (1, 1, 1))] * (count - 1)
    layers = [convolution_norm_activation(n, outputs, kernel, step, bias=True, norm="instnorm") for n, step in sizes]
    return nn.Sequential(OrderedDict(blocks=nn.Sequential(*layers)))


def _two_stacks(inputs: int, outputs: int, kernel: Triple, stride: Triple) -> nn.Sequential:
    """Return two stacks of one convolution, which the published bottleneck and decoder stages are."""
    return nn.Sequential(
        _stack(inputs, outputs, kernel, stride, count=1), _stack(outputs, outputs, kernel, (1, 1, 1), count=1)
    )
