"""DoDNet's loss: Dice and binary cross-entropy of the annotated channels.

A channel that was not annotated takes no part in any sum: its logits receive a gradient of exactly
zero, whatever their values. Called by the trainer for networks with independent sigmoids; the
default of a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import BinaryLoss, LossParameters, ReduceSums, known_channels
from PartialSegTraining.tables import require


class DoDNetLoss(NamedTuple):
    """The two terms of the loss, scalars.

    Parameters
    ----------
    dice : Tensor
        Mean of ``1 - Dice``.
    bce : Tensor
        Mean binary cross-entropy.
    """

    dice: Tensor
    bce: Tensor

    @property
    def total(self) -> Tensor:
        """What the training minimizes: the sum of both."""
        return self.dice + self.bce


@dataclass(frozen=True)
class DiceBCEParameters(LossParameters):
    """Options of DoDNet's loss.

    Parameters
    ----------
    bce_weight : float
        Weight of the cross-entropy; 1 as published. In a window without the structure, the Dice of
        whatever is found there is next to 0 and hardly changes when less of it is found: what is
        wrong there is told by the cross-entropy alone, which is a mean over all voxels and so very
        small. Trainings on hard negatives (:mod:`PartialSegTraining.mining`) need more of it.
    """

    bce_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bce_weight >= 0, "bce_weight", self.bce_weight, "at least 0")


class DiceBCE(BinaryLoss):
    """:func:`dodnet_loss` on each output of a network; terms ``dice`` and ``bce``.

    Parameters
    ----------
    parameters : DiceBCEParameters
        Of the recipe.
    label_space : LabelSpace
        Tasks and the structures of their channels.
    reduce_sums : callable, optional
        See :class:`SegmentationLoss`.
    """

    def __init__(
        self, parameters: DiceBCEParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        super().__init__(parameters, label_space, reduce_sums)
        self._bce_weight = parameters.bce_weight

    def level(self, logits: Tensor, target: Tensor, task: Tensor) -> dict[str, Tensor]:
        """Judge one output; see :meth:`SegmentationLoss.level`."""
        # A network leaves out channels that none of its samples needs; those of another process may need them.
        found = dodnet_loss(logits, target[:, : logits.shape[1]], self.channels, self.reduce_sums)
        return {"dice": found.dice, "bce": self._bce_weight * found.bce}


def dodnet_loss(
    logits: Tensor, target: Tensor, channels: int | None = None, reduce_sums: ReduceSums | None = None
) -> DoDNetLoss:
    """Dice and binary cross-entropy over the annotated channels (DoDNet, Eq. 8, as released).

    For sample b and channel c, ``Dice = 2 sum(p t) / (sum p + sum t + 1)`` with the sigmoid p, and
    the cross-entropy is the mean over voxels. Each term is averaged over the samples that annotate
    a channel, then over the channels that any sample annotates.

    Parameters
    ----------
    logits : Tensor
        (N, C, D, H, W), any floating dtype; computed in float32 at least.
    target : Tensor
        (N, C, D, H, W), floating point: 0 or 1, and ``UNKNOWN`` throughout a channel that was not
        annotated.
    channels : int, optional
        The most that any process has; C by default.
    reduce_sums : callable, optional
        Adds tensors over the processes of a training; see :class:`SegmentationLoss`.

    Returns
    -------
    DoDNetLoss
        Both terms are 0, with zero gradients, for a batch without any annotated channel, where the
        released code gives NaN.
    """
    known = known_channels(target)
    # Chosen away, not multiplied by zero: 0 * inf would be NaN, and so would its gradient.
    visible = known[:, :, None, None, None]
    logits = torch.where(visible, logits.to(torch.promote_types(logits.dtype, torch.float32)), 0.0)
    target = torch.where(visible, target.to(logits.dtype), 0.0)

    axes = (2, 3, 4)
    probability = logits.sigmoid()
    overlap = (probability * target).sum(axes)
    dice = 1.0 - 2.0 * overlap / (probability.sum(axes) + target.sum(axes) + 1.0)
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(axes)
    weights = known.to(logits.dtype)
    sums = torch.stack([(dice * weights).sum(0), (bce * weights).sum(0), weights.sum(0)])
    if reduce_sums is not None:
        sums = reduce_sums(functional.pad(sums, (0, (channels or len(sums[0])) - len(sums[0]))))
    return DoDNetLoss(*(_mean_over_known(total, sums[2]) for total in sums[:2]))


def _mean_over_known(totals: Tensor, samples: Tensor) -> Tensor:
    """Average totals (C,) over the samples (C,) that know a channel, then over the channels that any knows."""
    per_channel = totals / samples.clamp(min=1.0)
    return per_channel.sum() / (samples > 0).sum().clamp(min=1)
