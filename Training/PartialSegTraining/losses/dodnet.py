"""DoDNet's loss: Dice and binary cross-entropy of the annotated channels.

A channel that was not annotated takes no part in any sum: its logits receive a gradient of exactly
zero, whatever their values. Called by the trainer for networks with independent sigmoids; the
default of a recipe.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from PartialSegTraining.losses.contract import BinaryLoss, ReduceSums, known_channels


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


class DiceBCE(BinaryLoss):
    """:func:`dodnet_loss` on each output of a network; terms ``dice`` and ``bce``."""

    def level(self, logits: Tensor, target: Tensor, task: Tensor) -> dict[str, Tensor]:
        """Judge one output; see :meth:`SegmentationLoss.level`."""
        # A network leaves out channels that none of its samples needs; those of another process may need them.
        return dodnet_loss(logits, target[:, : logits.shape[1]], self.channels, self.reduce_sums)._asdict()


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
