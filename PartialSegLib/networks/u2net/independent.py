"""The independent models of the 3D U2-Net paper: one whole network per domain, nothing shared.

The baseline of Tables 2 and 3. Each domain's network is the shared one with a single domain, so
that weights of a published training of one domain fit under ``domains.N.``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from PartialSegLib.networks.conditioning import by_task, given, tasks_of
from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.exclusive import ExclusiveNetwork
from PartialSegLib.networks.u2net.domains import (
    DomainList,
    check_modalities,
    pad_channels,
    per_domain,
)
from PartialSegLib.networks.u2net.network import U2Net, U2NetParameters
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class IndependentU2NetParameters:
    """Size of independent networks.

    Parameters
    ----------
    modalities : tuple of int
        Channels of an image: one number for all domains, or one per task of the label space.
    channels : int
        Channels of the first level of every network.
    halvings : tuple of int
        How often each axis (D, H, W) is halved: three numbers for all domains, or three per task one
        after the other, as the paper fits the depth of each network to its images.
    decoder_kernel : int
        See :class:`U2NetParameters`.
    """

    modalities: tuple[int, ...] = (1,)
    channels: int = 16
    halvings: tuple[int, ...] = (5, 5, 5)
    decoder_kernel: int = 1

    def __post_init__(self) -> None:
        if not self.halvings or len(self.halvings) % 3:
            raise ValueError(f"halvings are three numbers for all domains or three for each, not {self.halvings}")
        for first in range(0, len(self.halvings), 3):
            self._single(self.modalities, self.halvings[first : first + 3])

    def _single(self, modalities: tuple[int, ...], halvings: tuple[int, ...]) -> U2NetParameters:
        return U2NetParameters("shared", modalities, self.channels, halvings, self.decoder_kernel)

    def networks(self, label_space: LabelSpace) -> list[U2NetParameters]:
        """Return the parameters of each domain's network.

        Raises
        ------
        ValueError
            When there are neither numbers for all tasks nor for each.
        """
        modalities = per_domain(self.modalities, label_space)
        axes = [per_domain(self.halvings[axis::3], label_space) for axis in range(3)]
        return [
            self._single((count,), halvings)
            for count, halvings in zip(modalities, zip(*axes, strict=True), strict=True)
        ]


class IndependentU2Net(ExclusiveNetwork):
    """One shared-variant :class:`U2Net` of a single domain for each task.

    Parameters
    ----------
    parameters : IndependentU2NetParameters
        Size.
    label_space : LabelSpace
        One domain per task.
    """

    features_depend_on_task = True

    def __init__(self, parameters: IndependentU2NetParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: IndependentU2NetParameters = parameters
        each = parameters.networks(label_space)
        spaces = [replace(label_space, tasks=(task,)) for task in label_space.tasks]
        self.domains = DomainList(len(each), lambda domain: U2Net(each[domain], spaces[domain]))
        self.widths = [parameters.channels + len(task.channels) + 1 for task in label_space.tasks]

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes must be multiples of this, so that all networks can run on them."""
        depth, height, width = (
            max(self._network(domain).divisor[axis] for domain in range(len(self.domains))) for axis in range(3)
        )
        return depth, height, width

    def input_channels(self, task: int) -> int:
        """Return how many channels an image of the domain has (C_t in Section 2.1)."""
        return self._network(task).input_channels(0)

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run each sample's own network; see :meth:`U2Net.features`.

        Raises
        ------
        ImageError
            When images have not the channels of their domain, or windows a size that does not fit.
        """
        task = given(task)
        check_modalities(self, image, task)

        def run(domain: int, rows: Tensor | slice) -> Tensor:
            part = image[rows]
            own = self._network(domain).features(part, _first(len(part)))
            return pad_channels(own.map, max(self.widths), 0.0)

        return Features(by_task(task, run), image.new_zeros(len(image), 0))

    def class_logits(self, features: Features, task: Tensor) -> Tensor:
        """Answer with each sample's own network; see :meth:`ExclusiveNetwork.class_logits`."""
        most = max(self.widths[domain] for domain in tasks_of(task)) - self.parameters_.channels

        def answer(domain: int, rows: Tensor | slice) -> Tensor:
            own = Features(features.map[rows][:, : self.widths[domain]], features.pooled[rows])
            logits = self._network(domain).class_logits(own, _first(len(own.map)))
            return pad_channels(logits, most, -torch.inf)

        return by_task(task, answer)

    def _network(self, domain: int) -> U2Net:
        network = self.domains[domain]
        assert isinstance(network, U2Net)
        return network


def _first(samples: int) -> Tensor:
    """Return the task indices of a network that has one task."""
    return torch.zeros(samples, dtype=torch.int64)
