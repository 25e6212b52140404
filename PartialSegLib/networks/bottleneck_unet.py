"""The residual U-Net of KiTS21 transfer: a 3D ResNet-50 encoder and a decoder of one block a stage.

Decides the blocks and the sums of the skips. What happens to the coarsest map in between is up to the
network that derives from it (:mod:`PartialSegLib.networks.kits21`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: A bottleneck block gives four times the channels that it works with (He et al., 2016).
EXPANSION = 4


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, *, rate: int = 1) -> nn.Conv3d:
    """Return a convolution without bias that keeps the size, but for the stride; `rate` is its dilation."""
    return nn.Conv3d(inputs, outputs, kernel, stride, padding=rate * (kernel // 2), dilation=rate, bias=False)


def norm(channels: int) -> nn.InstanceNorm3d:
    """Return the affine InstanceNorm of every layer, eps 1e-5."""
    return nn.InstanceNorm3d(channels, affine=True)


def unit(inputs: int, outputs: int, kernel: int, *, slope: float, rate: int = 1) -> nn.Sequential:
    """Return convolution, InstanceNorm and LeakyReLU."""
    return nn.Sequential(convolution(inputs, outputs, kernel, rate=rate), norm(outputs), nn.LeakyReLU(slope))


class BottleneckBlock(nn.Module):
    """Residual block of the encoder: 1x1x1, 3x3x3 and 1x1x1 convolutions.

    InstanceNorm follows each convolution and LeakyReLU each norm, the last one after the sum with the
    shortcut: the input, or a strided 1x1x1 convolution and norm of it where channels or size change.

    Parameters
    ----------
    inputs : int
        Channels of the input.
    width : int
        Channels of the 3x3x3 convolution; the output has four times as many.
    stride : int
        Of the 3x3x3 convolution.
    slope : float
        Of the LeakyReLU on negative values.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1, *, slope: float) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1, self.norm1 = convolution(inputs, width, 1), norm(width)
        self.conv2, self.norm2 = convolution(width, width, 3, stride), norm(width)
        self.conv3, self.norm3 = convolution(width, outputs, 1), norm(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(convolution(inputs, outputs, 1, stride), norm(outputs))
        self.activation = nn.LeakyReLU(slope)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, inputs, D, H, W) to (N, 4 width, D / stride, H / stride, W / stride)."""
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        hidden = self.activation(self.norm1(self.conv1(hidden)))
        hidden = self.activation(self.norm2(self.conv2(hidden)))
        return self.activation(self.norm3(self.conv3(hidden)) + shortcut)


class BasicBlock(nn.Module):
    """Residual block of the decoder: twice a 3x3x3 convolution and InstanceNorm, LeakyReLU between and after."""

    def __init__(self, channels: int, *, slope: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(channels, channels, 3), norm(channels)
        self.conv2, self.norm2 = convolution(channels, channels, 3), norm(channels)
        self.activation = nn.LeakyReLU(slope)

    def forward(self, hidden: Tensor) -> Tensor:
        """Keep the shape of (N, channels, D, H, W)."""
        inner = self.activation(self.norm1(self.conv1(hidden)))
        return self.activation(self.norm2(self.conv2(inner)) + hidden)


class ResidualEncoder(nn.Module):
    """Two 3x3x3 convolutions, then four stages of bottleneck blocks that halve the map first.

    Parameters
    ----------
    stem : int
        Channels of the two convolutions.
    widths, blocks : tuple of int
        Width and number of the blocks of each stage.
    slope : float
        Of every LeakyReLU.
    """

    def __init__(self, stem: int, widths: tuple[int, ...], blocks: tuple[int, ...], *, slope: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(1, stem, 3), norm(stem)
        self.conv2, self.norm2 = convolution(stem, stem, 3), norm(stem)
        self.activation = nn.LeakyReLU(slope)
        self.stages = nn.ModuleList()
        inputs = stem
        for width, count in zip(widths, blocks, strict=True):
            stage = nn.Sequential(BottleneckBlock(inputs, width, 2, slope=slope))
            inputs = EXPANSION * width
            stage.extend(BottleneckBlock(inputs, width, slope=slope) for _ in range(count - 1))
            self.stages.append(stage)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of stem and stages of (N, 1, D, H, W), finest first."""
        hidden = self.activation(self.norm1(self.conv1(image)))
        maps = [self.activation(self.norm2(self.conv2(hidden)))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class BottleneckUNet(nn.Module):
    """Encoder and decoder; the coarsest map becomes the decoder's input outside.

    Parameters
    ----------
    stem : int
        Channels of the first convolutions.
    widths, blocks : tuple of int
        Width and number of the bottleneck blocks of the four stages. The decoder works with the
        widths of the stages too, and begins with that of the last but one.
    outputs : int
        Channels of the map that the head sees.
    slope : float
        Of every LeakyReLU.
    """

    def __init__(
        self, stem: int, widths: tuple[int, ...], blocks: tuple[int, ...], outputs: int, *, slope: float
    ) -> None:
        super().__init__()
        self.encoder = ResidualEncoder(stem, widths, blocks, slope=slope)
        sizes = [stem, *widths[:-1]]
        maps = [stem, *(EXPANSION * width for width in widths[:-1])]
        coarser = [*sizes[1:], sizes[-1]]
        # Of each resolution, finest first.
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose3d(inputs, channels, 2, 2, bias=False)
            for inputs, channels in zip(coarser, sizes, strict=True)
        )
        self.shortcuts = nn.ModuleList(
            unit(inputs, channels, 1, slope=slope) for inputs, channels in zip(maps, sizes, strict=True)
        )
        self.decoder = nn.ModuleList(BasicBlock(channels, slope=slope) for channels in sizes)
        self.last = unit(stem, outputs, 1, slope=slope)

    def decode(self, hidden: Tensor, skips: list[Tensor]) -> Tensor:
        """Lead the coarsest map back to the resolution of the stem.

        Parameters
        ----------
        hidden : Tensor
            (N, width of the last stage but one, d, h, w).
        skips : list of Tensor
            Maps of the stem and of all stages but the last, finest first.

        Returns
        -------
        Tensor
            (N, outputs, D, H, W) at the resolution of ``skips[0]``.
        """
        stages = list(zip(self.upsamplings, self.shortcuts, self.decoder, skips, strict=True))
        for upsampling, shortcut, block, skip in reversed(stages):
            hidden = block(upsampling(hidden) + shortcut(skip))
        return self.last(hidden)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: what lies around a voxel, at several scales side by side.

    DeepLab (Chen et al., 2017) adds up the answers of its branches; one 1x1x1 convolution of the
    concatenated branches is the same sum. A 1x1x1 convolution in front spares the branches the many
    channels of the encoder.

    Parameters
    ----------
    inputs, outputs : int
        Channels; each branch has as many as the output.
    rates : tuple of int
        Dilation of the 3x3x3 convolution of each branch, in voxels of the map.
    slope : float
        Of every LeakyReLU.
    """

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...], *, slope: float) -> None:
        super().__init__()
        self.reduce = unit(inputs, outputs, 1, slope=slope)
        self.branches = nn.ModuleList(unit(outputs, outputs, 3, slope=slope, rate=rate) for rate in rates)
        self.fuse = unit(outputs * len(rates), outputs, 1, slope=slope)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, inputs, D, H, W) to (N, outputs, D, H, W)."""
        hidden = self.reduce(hidden)
        return self.fuse(torch.cat([branch(hidden) for branch in self.branches], 1))
