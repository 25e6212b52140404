"""The same network in a form that a CPU computes faster.

Called by the extractors on their own copy of a network. Nothing here changes what is computed
beyond rounding.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.contract import PartialLabelNetwork

#: Bytes of a map that a thread sums and scales at once: they stay in its core's cache.
_PART_BYTES = 1 << 20
#: Voxels whose mean is near enough to that of a map.
_SAMPLE = 4096


class SpatialGroupNorm(nn.Module):
    """Group or instance normalization without reshaping the feature map.

    OpenVINO reshapes ``(N, C, ...)`` to ``(N, groups, ...)`` and so leaves the blocked memory layout
    of its convolutions twice per normalization. Here the statistics are averaged over space per
    channel, then over the channels of a group by a tiny matrix, and the map is only scaled.

    Parameters
    ----------
    norm : nn.GroupNorm or nn.InstanceNorm3d
        With affine weights; instance normalization has one channel a group.
    block : tuple of int
        (D, H, W) that divides every map. Space is averaged in such blocks first: OpenVINO sums in
        float32 one value after the other, which over the millions of voxels of a large window
        costs four digits.
    """

    def __init__(self, norm: nn.GroupNorm | nn.InstanceNorm3d, block: tuple[int, int, int]) -> None:
        super().__init__()
        self.eps = norm.eps
        self.block = block
        self.weight = nn.Parameter(norm.weight.detach().view(1, -1, 1, 1, 1))
        self.bias = nn.Parameter(norm.bias.detach().view(1, -1, 1, 1, 1))
        self.averaging: Tensor | None
        self.register_buffer("averaging", None)
        if isinstance(norm, nn.GroupNorm) and norm.num_groups < norm.num_channels:
            members = norm.num_channels // norm.num_groups
            averaging = torch.block_diag(*[torch.full((members, members), 1.0 / members)] * norm.num_groups)
            self.averaging = averaging[:, :, None, None, None]

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalize (N, C, D, H, W)."""
        mean = self._average(hidden)
        variance = self._average((hidden - mean).square())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return hidden * scale + (self.bias - mean * scale)

    def _average(self, hidden: Tensor) -> Tensor:
        """Average (N, C, D, H, W) over space and the channels of a group."""
        mean = functional.avg_pool3d(hidden, self.block).mean((2, 3, 4), keepdim=True)
        return mean if self.averaging is None else functional.conv3d(mean, self.averaging)


def keep_blocked_layout(network: PartialLabelNetwork, window: Tensor) -> None:
    """Replace every affine norm over groups or channels of a network by :class:`SpatialGroupNorm`, in place.

    Parameters
    ----------
    network : PartialLabelNetwork
        In eval mode; its features are computed once.
    window : Tensor
        (1, C, D, H, W) of twice the network's divisor, so that half of every map it makes divides
        the maps of all windows.
    """
    blocks: dict[nn.Module, tuple[int, int, int]] = {}

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        depth, height, width = inputs[0].shape[2:]
        blocks[module] = (depth // 2, height // 2, width // 2)

    norms = [module for module in network.modules() if _is_spatial_norm(module)]
    hooks = [norm.register_forward_pre_hook(remember) for norm in norms]
    with torch.inference_mode():
        network.features(window)
    for hook in hooks:
        hook.remove()
    for name, child in list(network.named_modules()):
        if isinstance(child, nn.GroupNorm | nn.InstanceNorm3d) and child in blocks:
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, SpatialGroupNorm(child, blocks[child]))


def _is_spatial_norm(module: nn.Module) -> bool:
    """Whether a module normalizes each map by its own statistics, with affine weights."""
    if isinstance(module, nn.InstanceNorm3d):
        return module.affine and not module.track_running_stats
    return isinstance(module, nn.GroupNorm) and module.affine


class ChannelsLastNorm(nn.Module):
    """Group or instance normalization of maps in channels-last memory.

    PyTorch copies a channels-last map twice for instance normalization. For groups it takes the mean of the
    squares less the square of the mean, of sums in float32 one value after the other: over the voxels of
    a large window that costs three digits, and more where the mean is larger than the deviation.

    Parameters
    ----------
    norm : nn.GroupNorm or nn.InstanceNorm3d
        Which takes its statistics from the map; instance normalization has one channel a group.
    """

    def __init__(self, norm: nn.GroupNorm | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else norm.num_features
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalize (N, C, D, H, W)."""
        batch = hidden.permute(0, 2, 3, 4, 1).contiguous()
        result = torch.empty_like(batch)
        rows = max(1, torch.get_num_threads() * _PART_BYTES // (batch.shape[-1] * batch.element_size()))
        for source, target in zip(batch, result, strict=True):
            voxels, normalized = source.flatten(0, 2), target.flatten(0, 2)
            scale, shift = self._line(voxels, rows)
            for part, place in zip(voxels.split(rows), normalized.split(rows), strict=True):
                torch.addcmul(shift, part, scale, out=place)
        return result.permute(0, 4, 1, 2, 3)

    def _line(self, voxels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Return the scale and the shift of every channel of (voxels, C), going through some rows at a time."""
        mean, variance = _moments(voxels, rows)
        groups = mean.view(self.groups, -1)
        center = groups.mean(1, keepdim=True)
        spread = (variance.view(self.groups, -1) + (groups - center).square()).mean(1, keepdim=True)
        scale = torch.rsqrt(spread + self.eps).expand_as(groups).flatten()
        shift = -center.expand_as(groups).flatten() * scale
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return scale.to(voxels.dtype), shift.to(voxels.dtype)


def _moments(voxels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of every channel of (voxels, C) in float64."""
    # About the mean of a sample, so that nothing cancels; what that is off by is found on the way.
    sample = voxels[:: max(1, len(voxels) // _SAMPLE)].mean(0)
    ones = voxels.new_ones(1, rows)
    sums, squares = [], []
    for part in voxels.split(rows):
        away = part - sample
        sums.append(torch.mm(ones[:, : len(part)], away))
        squares.append(torch.mm(ones[:, : len(part)], away.square_()))
    off, square = (torch.cat(values).double().sum(0) / len(voxels) for values in (sums, squares))
    return sample + off, square - off.square()


def keep_channels_last(network: nn.Module) -> None:
    """Make a network stay in channels-last memory, with norms and 1x1x1 convolutions that are made for it.

    PyTorch answers some convolutions in the standard layout (of a single channel, or of small maps), after
    which every sum with a channels-last map is copied; and it has no fast 1x1x1 convolution for
    channels-last maps.
    """
    for name, norm in list(network.named_modules(remove_duplicate=False)):
        if isinstance(norm, nn.GroupNorm) or (isinstance(norm, nn.InstanceNorm3d) and not norm.track_running_stats):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, ChannelsLastNorm(norm))
    for module in network.modules():
        if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            continue
        pointwise = isinstance(module, nn.Conv3d) and module.kernel_size == (1, 1, 1)
        if pointwise and module.groups == 1 and not any(module.padding):
            module.forward = MethodType(_pointwise, module)  # type: ignore[method-assign]
        else:
            module.register_forward_hook(_to_channels_last)


def _pointwise(module: nn.Conv3d, hidden: Tensor) -> Tensor:
    d, h, w = module.stride
    voxels = hidden.permute(0, 2, 3, 4, 1)[:, ::d, ::h, ::w]
    return functional.linear(voxels, module.weight.flatten(1), module.bias).permute(0, 4, 1, 2, 3)


def _to_channels_last(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.contiguous(memory_format=torch.channels_last_3d)
