"""The parts of each level of 3D U2-Net: residual block, step down, step up, decoder block.

Assembled by :mod:`PartialSegLib.networks.u2net.network` (Fig. 2 of the paper); made of units
(:mod:`PartialSegLib.networks.u2net.units`), whose kind is the variant. Module names are published.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.u2net.domains import DomainList
from PartialSegLib.networks.u2net.units import SLOPE, Unit, activation, norm

#: Step from a level to the next coarser one along (D, H, W), 1 or 2 each.
Stride = tuple[int, int, int]


class UnitMaker(Protocol):
    """Builds the units of a network."""

    def __call__(self, inputs: int, outputs: int, kernel: int = 3) -> Unit:
        """Return a unit that maps `inputs` channels to `outputs`."""


class DomainLayer(nn.Module):
    """Convolution, normalization and activation of one domain: input layer and deep supervision.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : int
        3 or 1.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        convolution = nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2)
        self.op1 = nn.Sequential(convolution, nn.Sequential(norm(outputs), activation()))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, inputs, D, H, W) to (N, outputs, D, H, W)."""
        answer: Tensor = self.op1(hidden)
        return answer


class DownBlock(nn.Module):
    """Residual block of the encoder: two units, their input added to their result."""

    def __init__(self, unit: UnitMaker, channels: int) -> None:
        super().__init__()
        self.op1 = unit(channels, channels)
        self.op2 = unit(channels, channels)

    def forward(self, hidden: Tensor, domain: int) -> Tensor:
        """Map (N, C, D, H, W) of one domain to the same shape."""
        inner = functional.leaky_relu(self.op1(hidden, domain), SLOPE, inplace=True)
        return functional.leaky_relu(hidden + self.op2(inner, domain), SLOPE, inplace=True)


class DownSample(nn.Module):
    """To the next coarser level: a standard 3x3x3 convolution that all domains share, in every variant."""

    def __init__(self, inputs: int, outputs: int, domains: int, stride: Stride) -> None:
        super().__init__()
        self.op1 = nn.ModuleDict(
            {"conv": nn.Conv3d(inputs, outputs, 3, stride), "op": DomainList(domains, lambda domain: norm(outputs))}
        )
        # Halved axes are padded at their far end only, as in the released network.
        self.padding = [size for step in reversed(stride) for size in ((0, 1) if step == 2 else (1, 1))]

    def forward(self, hidden: Tensor, domain: int) -> Tensor:
        """Map (N, inputs, D, H, W) of one domain to (N, outputs, D', H', W')."""
        norms = self.op1["op"]
        assert isinstance(norms, DomainList)
        hidden = norms[domain](self.op1["conv"](functional.pad(hidden, self.padding)))
        return functional.leaky_relu(hidden, SLOPE, inplace=True)


class UpSample(nn.Module):
    """To the next finer level: nearest neighbor, then a unit with fewer channels."""

    def __init__(self, unit: UnitMaker, inputs: int, outputs: int, stride: Stride) -> None:
        super().__init__()
        self.op = unit(inputs, outputs)
        self.stride = stride

    def forward(self, hidden: Tensor, domain: int) -> Tensor:
        """Map (N, inputs, D', H', W') of one domain to (N, outputs, D, H, W)."""
        return functional.leaky_relu(self.op(enlarge(hidden, self.stride), domain), SLOPE, inplace=True)


class UpBlock(nn.Module):
    """Block of the decoder: two units, the first of which joins the map and its skip connection."""

    def __init__(self, unit: UnitMaker, channels: int, last_kernel: int) -> None:
        super().__init__()
        self.op1 = unit(2 * channels, channels)
        self.op2 = unit(channels, channels, last_kernel)

    def forward(self, hidden: Tensor, domain: int) -> Tensor:
        """Map (N, 2C, D, H, W) of one domain to (N, C, D, H, W)."""
        hidden = functional.leaky_relu(self.op1(hidden, domain), SLOPE, inplace=True)
        return functional.leaky_relu(self.op2(hidden, domain), SLOPE, inplace=True)


def enlarge(hidden: Tensor, stride: Stride) -> Tensor:
    """Repeat the voxels of (N, C, D', H', W') along each axis (nearest neighbor)."""
    return functional.interpolate(hidden, scale_factor=tuple(float(step) for step in stride), mode="nearest")
