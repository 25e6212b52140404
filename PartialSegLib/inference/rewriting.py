"""The same network in a form that a CPU computes faster.

Called by the extractors on their own copy of a network. Nothing here changes what is computed
beyond rounding.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional


class SpatialGroupNorm(nn.Module):
    """Group normalisation without reshaping the feature map.

    OpenVINO reshapes ``(N, C, ...)`` to ``(N, groups, ...)`` and so leaves the blocked memory layout
    of its convolutions twice per normalisation. Here the statistics are averaged over space per
    channel, then over the channels of a group by a tiny matrix, and the map is only scaled.

    Parameters
    ----------
    norm : nn.GroupNorm
        With affine weights.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach().view(1, -1, 1, 1, 1))
        self.bias = nn.Parameter(norm.bias.detach().view(1, -1, 1, 1, 1))
        members = norm.num_channels // norm.num_groups
        averaging = torch.block_diag(*[torch.full((members, members), 1.0 / members)] * norm.num_groups)
        self.register_buffer("averaging", averaging[:, :, None, None, None])

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise (N, C, D, H, W)."""
        mean = self._over_groups(hidden.mean((2, 3, 4), keepdim=True))
        variance = self._over_groups((hidden - mean).square().mean((2, 3, 4), keepdim=True))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return hidden * scale + (self.bias - mean * scale)

    def _over_groups(self, values: Tensor) -> Tensor:
        averaging: Tensor = self.averaging  # type: ignore[assignment]
        return functional.conv3d(values, averaging)


def keep_blocked_layout(network: nn.Module) -> None:
    """Replace every affine GroupNorm of a network by :class:`SpatialGroupNorm`, in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm) and child.affine:
            setattr(network, name, SpatialGroupNorm(child))
        else:
            keep_blocked_layout(child)


def keep_channels_last(network: nn.Module) -> None:
    """Make a network stay in channels-last memory and compute 1x1x1 convolutions as matrix products.

    PyTorch answers a convolution of a single channel in the standard layout, after which every sum
    with a channels-last map is copied; and it has no fast 1x1x1 convolution for channels-last maps.
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv3d):
            continue
        if module.kernel_size == (1, 1, 1) and module.groups == 1 and not any(module.padding):
            module.forward = MethodType(_pointwise, module)  # type: ignore[method-assign]
        elif module.in_channels == 1:
            module.register_forward_hook(_to_channels_last)


def _pointwise(module: nn.Conv3d, hidden: Tensor) -> Tensor:
    d, h, w = module.stride
    voxels = hidden.permute(0, 2, 3, 4, 1)[:, ::d, ::h, ::w]
    return functional.linear(voxels, module.weight.flatten(1), module.bias).permute(0, 4, 1, 2, 3)


def _to_channels_last(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.contiguous(memory_format=torch.channels_last_3d)
