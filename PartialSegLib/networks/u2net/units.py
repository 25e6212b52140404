"""Convolutions that all domains of 3D U2-Net share, and the adapters that each domain has for itself.

A *unit* is a 3x3x3 convolution of stride 1 and the normalization after it. What of it the domains
share is the subject of the paper (Section 2.2), so there is one class of unit for each answer. The
names of the modules are those of published weights. Used by :mod:`PartialSegLib.networks.u2net.levels`.
"""

from __future__ import annotations

from torch import Tensor, nn

from PartialSegLib.networks.u2net.domains import DomainList

#: Slope of every leaky ReLU.
SLOPE = 0.01


def norm(channels: int) -> nn.InstanceNorm3d:
    """Return the normalization used throughout: per sample and channel, with gain and shift."""
    return nn.InstanceNorm3d(channels, affine=True)


def activation() -> nn.LeakyReLU:
    """Return the activation used throughout; it overwrites its input."""
    return nn.LeakyReLU(SLOPE, inplace=True)


class Unit(nn.Module):
    """A convolution that all domains share and a normalization per domain: the *shared* network.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    domains : int
        How many domains.
    kernel : int
        3, or 1 for the last convolution of a decoder block as released.
    """

    def __init__(self, inputs: int, outputs: int, domains: int, kernel: int = 3) -> None:
        super().__init__()
        self._add_convolutions(inputs, outputs, domains, kernel)
        self.op = DomainList(domains, lambda domain: norm(outputs))

    def _add_convolutions(self, inputs: int, outputs: int, domains: int, kernel: int) -> None:
        self.conv = nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2)

    def convolve(self, hidden: Tensor, domain: int) -> Tensor:
        """Map (N, inputs, D, H, W) to (N, outputs, D, H, W), before the normalization."""
        answer: Tensor = self.conv(hidden)
        return answer

    def forward(self, hidden: Tensor, domain: int) -> Tensor:
        """Map (N, inputs, D, H, W) of one domain to (N, outputs, D, H, W)."""
        answer: Tensor = self.op[domain](self.convolve(hidden, domain))
        return answer


class SeparableUnit(Unit):
    """The domain adapter (Fig. 1): channel-wise filters of each domain, pointwise filters of all.

    Between the two there are a normalization and an activation of the domain, which the paper's
    drawing leaves out and the released network has. The channel-wise filters are 3x3x3 whatever
    `kernel` says.
    """

    def _add_convolutions(self, inputs: int, outputs: int, domains: int, kernel: int) -> None:
        self.adapOps = DomainList(domains, lambda domain: _ChannelWise(inputs))
        self.pwise = nn.ModuleDict({"conv1": nn.Conv3d(inputs, outputs, 1)})

    def convolve(self, hidden: Tensor, domain: int) -> Tensor:
        """See :meth:`Unit.convolve`."""
        answer: Tensor = self.pwise["conv1"](self.adapOps[domain](hidden))
        return answer


class ParallelUnit(Unit):
    """A shared convolution, and beside it a pointwise one per domain that is added to its result.

    Parallel residual adapters: Rebuffi, Bilen, Vedaldi, CVPR 2018 (reference 14 of the paper).
    """

    def _add_convolutions(self, inputs: int, outputs: int, domains: int, kernel: int) -> None:
        super()._add_convolutions(inputs, outputs, domains, kernel)
        self.adapOps = DomainList(domains, lambda domain: _Adapter(nn.Conv3d(inputs, outputs, 1)))

    def convolve(self, hidden: Tensor, domain: int) -> Tensor:
        """See :meth:`Unit.convolve`."""
        return super().convolve(hidden, domain) + self.adapOps[domain](hidden)


class SeriesUnit(Unit):
    """A shared convolution, and after it a normalized pointwise one per domain that is added.

    Series residual adapters: Rebuffi, Bilen, Vedaldi, NIPS 2017 (reference 13 of the paper).
    """

    def _add_convolutions(self, inputs: int, outputs: int, domains: int, kernel: int) -> None:
        super()._add_convolutions(inputs, outputs, domains, kernel)
        self.adapOps = DomainList(
            domains, lambda domain: _Adapter(nn.Sequential(norm(outputs), nn.Conv3d(outputs, outputs, 1)))
        )

    def convolve(self, hidden: Tensor, domain: int) -> Tensor:
        """See :meth:`Unit.convolve`."""
        hidden = super().convolve(hidden, domain)
        return hidden + self.adapOps[domain](hidden)


class _ChannelWise(nn.Module):
    """One 3x3x3 filter per channel, normalization and activation: what a domain adds to a separable unit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.op1 = nn.Sequential(norm(channels), activation())

    def forward(self, hidden: Tensor) -> Tensor:
        answer: Tensor = self.op1(self.conv1(hidden))
        return answer


class _Adapter(nn.Module):
    """What a domain adds to a residual unit, under its published name."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.op1 = layers

    def forward(self, hidden: Tensor) -> Tensor:
        answer: Tensor = self.op1(hidden)
        return answer


#: Variant of the network -> unit that its levels are made of.
UNITS: dict[str, type[Unit]] = {
    "universal": SeparableUnit,
    "shared": Unit,
    "parallel": ParallelUnit,
    "series": SeriesUnit,
}
