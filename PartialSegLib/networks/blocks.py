"""Building blocks that several networks share."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class WeightStandardizedConv3d(nn.Conv3d):
    """3D convolution with weight standardisation (Qiao et al., 2019), without bias.

    The stored weight is the raw one. Every output channel is used with zero mean and unit
    (unbiased) variance: ``(w - mean) / sqrt(var + 1e-12)``. :func:`fold_weight_standardization`
    makes this permanent for inference.

    Parameters
    ----------
    standardize : bool
        ``False`` makes it an ordinary convolution without bias.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, standardize: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.standardize = standardize

    def standardized_weight(self) -> Tensor:
        """Return the weight that the convolution uses, (out, in, kD, kH, kW)."""
        if not self.standardize:
            return self.weight
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3, 4), keepdim=True, correction=1)
        return (self.weight - mean) / torch.sqrt(variance + 1e-12)

    def forward(self, image: Tensor) -> Tensor:
        """Convolve (N, in, D, H, W) to (N, out, D', H', W')."""
        return functional.conv3d(image, self.standardized_weight(), None, self.stride, self.padding)


Network = TypeVar("Network", bound=nn.Module)


def fold_weight_standardization(network: Network) -> Network:
    """Replace raw weights by standardised ones, in place, and return `network`.

    The network computes the same and faster, but can no longer be trained or saved.
    """
    for module in network.modules():
        if isinstance(module, WeightStandardizedConv3d) and module.standardize:
            with torch.no_grad():
                module.weight.copy_(module.standardized_weight())
            module.standardize = False
    return network


class PreActivationBlock(nn.Module):
    """Pre-activation residual block of DoDNet: twice GroupNorm, ReLU, 3x3x3 convolution; plus shortcut.

    The shortcut is the raw input, or GroupNorm, ReLU and a strided 1x1x1 convolution of it where
    channels or stride change. Nothing follows the sum. Parameter names are the published ones.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, *, groups: int = 16, standardize: bool = True
    ) -> None:
        super().__init__()
        self.gn1 = nn.GroupNorm(groups, inputs)
        self.conv1 = WeightStandardizedConv3d(inputs, outputs, 3, stride, standardize=standardize)
        self.gn2 = nn.GroupNorm(groups, outputs)
        self.conv2 = WeightStandardizedConv3d(outputs, outputs, 3, standardize=standardize)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.GroupNorm(groups, inputs),
                nn.ReLU(inplace=True),
                WeightStandardizedConv3d(inputs, outputs, 1, stride, standardize=standardize),
            )

    def shortcut(self, hidden: Tensor) -> Tensor:
        """Return what is added to the convolutions: the input itself, or its projection."""
        return hidden if self.downsample is None else self.downsample(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, in, D, H, W) to (N, out, D / stride, H / stride, W / stride)."""
        shortcut = self.shortcut(hidden)
        hidden = self.conv1(functional.relu(self.gn1(hidden), inplace=True))
        hidden = self.conv2(functional.relu(self.gn2(hidden), inplace=True))
        return shortcut + hidden
