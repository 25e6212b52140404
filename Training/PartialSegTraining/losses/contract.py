"""What every loss of the library offers: one call from a network's outputs to named terms.

Unknown is not background: a channel that was not annotated is marked by the target value -1. What a
loss makes of that, its own file says; that the deep supervision is weighted, the targets of coarser
outputs are made in one way, and voxels of which nothing is known have no gradient, is decided here.
Called by the trainer through :func:`PartialSegTraining.losses.make_loss`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from PartialSegLib.errors import CollectionError
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.supervision import deep_supervision_weights, target_pyramid
from PartialSegTraining.tables import require

#: Target value of every voxel of a channel that was not annotated.
UNKNOWN = -1.0

#: Target value of a voxel of which nothing is known, in a channel that was annotated.
UNKNOWN_VOXEL = -2.0
#: Logit of what is certain: what is left to 1 is lost in a float32.
_CERTAIN = 40.0

#: Adds a tensor of sums over all processes of a training, differentiably.
ReduceSums = Callable[[Tensor], Tensor]


def known_channels(target: Tensor) -> Tensor:
    """Return which channels of which samples were annotated, boolean (N, C).

    The first voxel of a channel speaks for all of it, as in the released DoDNet.
    """
    return target[:, :, 0, 0, 0] != UNKNOWN


@dataclass(frozen=True)
class LossTerms:
    """The named parts of a loss.

    Parameters
    ----------
    terms : mapping of str to Tensor
        Scalars of at least float32, weights included; in the order of the log.
    """

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """What the training minimizes: the sum of all terms."""
        return torch.stack(list(self.terms.values())).sum()

    def detach(self) -> LossTerms:
        """Return the same terms without their graph."""
        return LossTerms({name: term.detach() for name, term in self.terms.items()})


class Loss(Protocol):
    """What a trainer calls."""

    def __call__(self, outputs: Sequence[Tensor], targets: Tensor | Sequence[Tensor], task: Tensor) -> LossTerms:
        """Judge one batch.

        Parameters
        ----------
        outputs : sequence of Tensor
            (N, K, D / s, H / s, W / s) each, from ``training_outputs`` of a network, finest first;
            any floating dtype, computed in float32 at least.
        targets : Tensor or sequence of Tensor
            (N, C, D, H, W) at the finest resolution: 0 or 1, :data:`UNKNOWN_VOXEL` where nothing is
            known of an annotated channel, and :data:`UNKNOWN` throughout channels that the case does
            not annotate or the task does not have. Or one for each output.
        task : Tensor
            (N,) int64 task indices.

        Returns
        -------
        LossTerms
            Finite whatever is annotated; zero, with zero gradients, for a batch without any
            annotated channel.

        Raises
        ------
        CollectionError
            When the outputs have other channels than the loss judges.
        """
        ...


@dataclass(frozen=True)
class LossParameters:
    """What every loss can be told by a recipe.

    Parameters
    ----------
    dropped_outputs : int
        So many of the coarsest outputs of a network with deep supervision do not count: 1 as in
        nnU-Net and MultiTalent's U-Net, 0 as in its ResEnc U-Net. The finest one always counts.
    """

    dropped_outputs: int = 1

    def __post_init__(self) -> None:
        require(self.dropped_outputs >= 0, "dropped_outputs", self.dropped_outputs, "at least 0")


class SegmentationLoss(ABC):
    """Base of all losses: weighs the outputs of deep supervision and adds them up term by term.

    Parameters
    ----------
    parameters : LossParameters
        Of the recipe.
    label_space : LabelSpace
        Tasks and the structures of their channels.
    reduce_sums : callable, optional
        For a training on several processes: every loss passes the sums that it is made of, those of
        its Dice and those above and below the line of its means, through this function, which has to
        add them over the processes and let gradients through (an autograd all-reduce). The loss is
        then that of all samples of all processes, the same in each of them. Every process makes the
        same calls with tensors of the same shapes, whatever its samples annotate. Without it, the
        loss is that of the samples of this process.
    """

    #: Whether outputs are softmax logits of exclusive classes, instead of one logit per channel.
    exclusive: ClassVar[bool] = False

    def __init__(
        self, parameters: LossParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        self.parameters = parameters
        self.label_space = label_space
        self.reduce_sums = reduce_sums

    @property
    @abstractmethod
    def channels(self) -> int:
        """The most channels that an output may have."""

    @abstractmethod
    def level(self, logits: Tensor, target: Tensor, task: Tensor) -> dict[str, Tensor]:
        """Judge one output.

        Parameters
        ----------
        logits : Tensor
            (N, K, D, H, W), float32 or float64.
        target : Tensor
            (N, C, D, H, W) of the same dtype, at the resolution of the output.
        task : Tensor
            (N,) int64 task indices.

        Returns
        -------
        dict of str to Tensor
            The same names in every call; scalars.
        """

    def __call__(self, outputs: Sequence[Tensor], targets: Tensor | Sequence[Tensor], task: Tensor) -> LossTerms:
        """Judge one batch; see :meth:`Loss.__call__`."""
        pyramid = target_pyramid(targets, outputs) if isinstance(targets, Tensor) else targets
        weights = deep_supervision_weights(len(outputs), self.parameters.dropped_outputs)
        terms: dict[str, Tensor] = {}
        for output, target, weight in zip(outputs, pyramid, weights, strict=True):
            self._check(output)
            if weight == 0.0:
                continue
            logits = output.to(torch.promote_types(output.dtype, torch.float32))
            logits, target = self._without_unknown(logits, target.to(logits.dtype))
            for name, value in self.level(logits, target, task).items():
                terms[name] = terms[name] + weight * value if name in terms else weight * value
        return LossTerms(terms)

    def over_processes(self, sums: Tensor) -> Tensor:
        """Add sums over the processes of the training; of one process alone they stay as they are."""
        return sums if self.reduce_sums is None else self.reduce_sums(sums)

    def fits(self, channels: int) -> bool:
        """Tell whether an output may have so many channels: a network may leave out those no sample needs."""
        return channels <= self.channels

    def _without_unknown(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Make unknown voxels what no loss has anything to say about: background that was found to be background.

        They are in no sum of a Dice of structures, and their part of a mean over voxels is zero. Their
        logits are chosen away, so that these have a gradient of exactly zero.
        """
        unknown = target == UNKNOWN_VOXEL
        # On a GPU the question would make every step wait for the answer.
        if unknown.device.type == "cpu" and not unknown.any():
            return logits, target
        target = target.masked_fill(unknown, 0.0)
        if not self.exclusive:
            return logits.masked_fill(unknown[:, : logits.shape[1]], -_CERTAIN), target
        certain = logits.new_full((logits.shape[1],), -_CERTAIN)
        certain[0] = _CERTAIN
        # A softmax is about all classes of a voxel together.
        return torch.where(unknown.any(1, keepdim=True), certain[None, :, None, None, None], logits), target

    def _check(self, output: Tensor) -> None:
        if not self.fits(output.shape[1]):
            raise CollectionError(
                f"An output of {output.shape[1]} channels does not fit this loss: "
                f"with label space '{self.label_space.name}' it judges {self.channels}.",
                "Choose a loss for this network's outputs in [loss].",
            )


class BinaryLoss(SegmentationLoss):
    """Base of losses on independent sigmoids, one for each channel of a task."""

    @property
    def channels(self) -> int:
        """As many as the widest task has."""
        return max(len(task.channels) for task in self.label_space.tasks)
