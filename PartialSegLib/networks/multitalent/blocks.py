"""Parts that the U-Net and the ResEnc U-Net of MultiTalent are made of, as nnU-Net v1 has them.

Modules are named as in the published weights: where two networks name the same part differently,
the name is a parameter here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

#: Sizes along (D, H, W).
Triple = tuple[int, int, int]


def convolution(inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1), *, bias: bool) -> nn.Conv3d:
    """Return a convolution of an odd kernel that keeps the size, but for the stride."""
    depth, height, width = kernel
    return nn.Conv3d(inputs, outputs, kernel, stride, padding=(depth // 2, height // 2, width // 2), bias=bias)


def activation() -> nn.LeakyReLU:
    """Return the LeakyReLU of every layer, slope 0.01."""
    return nn.LeakyReLU(0.01, inplace=True)


def convolution_norm_activation(
    inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1), *, bias: bool, norm: str
) -> nn.Sequential:
    """Return convolution, affine InstanceNorm (eps 1e-5) and LeakyReLU.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel, stride : tuple of int
        Of the convolution, (D, H, W).
    bias : bool
        Whether the convolution has one; the norm makes it useless, but the U-Net was released with it.
    norm : str
        Name of the norm in the published weights.
    """
    return nn.Sequential(
        OrderedDict(
            [
                ("conv", convolution(inputs, outputs, kernel, stride, bias=bias)),
                (norm, nn.InstanceNorm3d(outputs, affine=True)),
                ("nonlin", activation()),
            ]
        )
    )


def upsamplings(features: Sequence[int], strides: Sequence[Triple]) -> nn.ModuleList:
    """Return the transposed convolutions of a decoder, coarsest first: kernel and stride undo those of the encoder."""
    return nn.ModuleList(
        nn.ConvTranspose3d(features[stage + 1], features[stage], strides[stage + 1], strides[stage + 1], bias=False)
        for stage in reversed(range(len(features) - 1))
    )


def heads(features: Sequence[int], outputs: int, *, bias: bool) -> nn.ModuleList:
    """Return the 1x1x1 convolutions from the stages of a decoder to the outputs, coarsest first."""
    return nn.ModuleList(nn.Conv3d(inputs, outputs, 1, bias=bias) for inputs in reversed(features[:-1]))


def decode(skips: Sequence[Tensor], upsampling: Iterable[nn.Module], stages: Iterable[nn.Module]) -> list[Tensor]:
    """Run a decoder that concatenates the skip behind the upsampled map.

    Parameters
    ----------
    skips : sequence of Tensor
        Maps of the encoder, finest first; the last is the bottleneck.
    upsampling, stages : iterable of nn.Module
        Of the decoder, coarsest first.

    Returns
    -------
    list of Tensor
        Map of every decoder stage, finest first.
    """
    maps = [skips[-1]]
    for skip, up, stage in zip(reversed(skips[:-1]), upsampling, stages, strict=True):
        maps.append(stage(torch.cat([up(maps[-1]), skip], 1)))
    return maps[:0:-1]


def start_weights(network: nn.Module) -> None:
    """Initialise all convolutions as nnU-Net does: He et al. (2015) for LeakyReLU 0.01, biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
