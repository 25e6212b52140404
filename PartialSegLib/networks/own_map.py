"""A pre-segmentation map of its own for a task that was added to a trained DoDNet.

No part of the paper. The eight channels that all heads of a DoDNet share hold what its first tasks need and
little else: on phantoms a head on them cannot tell an aorta from its surroundings. All maps of the decoder
together can, so that an added task may read a linear function of them, which is learned with its head while
everything else stays as it is. Used by :mod:`PartialSegLib.networks.dodnet`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class OwnMap(nn.Module):
    """1x1x1 convolutions of maps of several resolutions, enlarged to the finest and added up.

    Convolving before enlarging gives the same as the other way around, and costs a fraction.

    Parameters
    ----------
    channels, scales : sequence of int
        Of the maps, coarsest first: their channels, and by how much they are coarser than the last.
    width : int
        Channels of the result.
    """

    def __init__(self, channels: Sequence[int], scales: Sequence[int], width: int) -> None:
        super().__init__()
        self._scales = tuple(scales)
        last = len(channels) - 1
        self.taps = nn.ModuleList(nn.Conv3d(count, width, 1, bias=at == last) for at, count in enumerate(channels))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map (N, C, D / s, H / s, W / s) each, coarsest first, to (N, width, D, H, W)."""
        total: Tensor = self.taps[-1](maps[-1])
        for tap, scale, hidden in zip(self.taps[:-1], self._scales, maps, strict=False):
            narrow = tap(hidden)
            if scale > 1:
                narrow = functional.interpolate(narrow, scale_factor=scale, mode="trilinear", align_corners=False)
            total = total + narrow
        return total

    def of_columns(self, columns: Tensor) -> Tensor:
        """Map columns of all maps at single voxels, (S, sum of channels) in the order of the maps, to (S, width)."""
        first, total = 0, None
        for tap in self.taps:
            assert isinstance(tap, nn.Conv3d)
            part = functional.linear(columns[:, first : first + tap.in_channels], tap.weight.flatten(1), tap.bias)
            total = part if total is None else total + part
            first += tap.in_channels
        assert total is not None
        return total
