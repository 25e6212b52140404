"""What every network of the library offers: the expensive part once, one cheap head per task.

``features(image)`` runs the encoder and decoder; ``logits(features, task)`` answers one task. The
inference engine asks for the features of a window once and for as many tasks as the user chose. A
network whose features depend on the task (``features_depend_on_task``) is run once per task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from PartialSegLib.structures import LabelSpace


class Features(NamedTuple):
    """What the task-independent part of a network leaves for its heads.

    Parameters
    ----------
    map : Tensor
        (N, C, D, H, W) pre-segmentation feature map at the resolution of the input.
    pooled : Tensor
        (N, P) global description of the window that a head may be conditioned on; (N, 0) where a
        network has none.
    """

    map: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class PointwiseLayer:
    """One 1x1x1 convolution of a head, for one window.

    Parameters
    ----------
    weight : Tensor
        (out, in).
    bias : Tensor
        (out,).
    first : int
        First channel of the features that it reads, where it is the first layer of a head that does not
        read all of them.
    """

    weight: Tensor
    bias: Tensor
    first: int = 0


class PartialLabelNetwork(nn.Module, ABC):
    """Base of all networks.

    Parameters
    ----------
    parameters : dataclass
        What the card of a bundle stores about the network.
    label_space : LabelSpace
        Tasks (in the order of the task code) and their output channels.
    """

    #: Whether the features have to be computed anew for each task.
    features_depend_on_task: bool = False
    #: Whether one graph of the features, traced at some window size, holds for every other size too.
    features_compile: bool = True
    #: Whether the features may be computed in float16, as the inference engine does on a GPU.
    features_half: bool = True

    def __init__(self, parameters: Any, label_space: LabelSpace) -> None:
        super().__init__()
        self.parameters_ = parameters
        self.label_space = label_space

    @property
    @abstractmethod
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes (D, H, W) must be multiples of this."""

    @abstractmethod
    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run everything that comes before the heads.

        Parameters
        ----------
        image : Tensor
            (N, C, D, H, W), preprocessed; C is :meth:`input_channels` of the tasks.
        task : Tensor, optional
            (N,) int64 task indices; needed where :attr:`features_depend_on_task`.
        """

    @abstractmethod
    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Answer one task per sample.

        Parameters
        ----------
        features : Features
            Of N samples.
        task : Tensor
            (N,) int64 task indices; tasks may differ between samples.

        Returns
        -------
        Tensor
            (N, C, D, H, W) logits, one channel per entry of ``Task.channels``; samples whose task
            has fewer channels are padded with channels of no meaning.
        """

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer] | None:
        """Return the head of `task` for one window as 1x1x1 convolutions with ReLU in between.

        The inference engine then computes the head in cache-sized blocks. ``None`` where the head
        of a network is not pointwise; the engine falls back on :meth:`logits`.

        Parameters
        ----------
        features : Features
            Of one window (N = 1).
        task : int
            Task index.
        """
        return None

    def input_channels(self, task: int) -> int:
        """Return how many channels an image of `task` has; 1 but where a network says otherwise."""
        return 1

    def training_outputs(self, image: Tensor, task: Tensor) -> list[Tensor]:
        """Return what the loss is computed from, finest resolution first.

        One entry, the logits, but for networks with deep supervision, which add one for each coarser
        resolution, and for exclusive networks, whose loss needs the logits of all classes
        (:class:`PartialSegLib.networks.exclusive.ExclusiveNetwork`).

        Parameters
        ----------
        image : Tensor
            (N, C, D, H, W).
        task : Tensor
            (N,) int64 task indices.

        Returns
        -------
        list of Tensor
            (N, K, D / s, H / s, W / s) each.
        """
        return [self(image, task)]

    def forward(self, image: Tensor, task: Tensor) -> Tensor:
        """Return ``logits(features(image), task)``."""
        condition = task if self.features_depend_on_task else None
        return self.logits(self.features(image, condition), task)


def weight_count(network: nn.Module) -> int:
    """Return the number of trainable weights of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def task_tensor(task: int, device: torch.device | str = "cpu") -> Tensor:
    """Return a (1,) task index tensor."""
    return torch.tensor([task], device=device)
