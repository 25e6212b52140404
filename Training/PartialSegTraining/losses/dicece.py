"""Dice and cross-entropy of exclusive classes, as in nnU-Net.

Called by the trainer for softmax networks, and base of the losses that add to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import ReduceSums
from PartialSegTraining.losses.dicesums import by_structure, dice_sums, structure_rows
from PartialSegTraining.losses.exclusive import ClassView, ExclusiveLoss, ExclusiveParameters
from PartialSegTraining.tables import require

#: Added above and below the line of a Dice: a class that is nowhere and predicted nowhere scores 1.
_SMOOTH = 1e-5


@dataclass(frozen=True)
class DiceCEParameters(ExclusiveParameters):
    """Options of Dice and cross-entropy.

    Parameters
    ----------
    dice, ce : float
        Weights of the two terms.
    pooled : bool
        Sum a class over all images of the batch before its Dice is taken, instead of averaging the
        Dice of each image.
    """

    dice: float = 1.0
    ce: float = 1.0
    pooled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dice >= 0, "dice", self.dice, "at least 0")
        require(self.ce >= 0, "ce", self.ce, "at least 0")


class DiceCE(ExclusiveLoss):
    """Mean of ``1 - Dice`` over the annotated classes, and mean cross-entropy over voxels; terms ``dice``, ``ce``.

    The background has no Dice.

    Parameters
    ----------
    parameters : DiceCEParameters
        Of the recipe.
    label_space : LabelSpace
        Tasks, structures, and which of them contains which.
    reduce_sums : callable, optional
        Adds the (S, 4) sums of a pooled Dice, and those of all means, over processes.
    """

    def __init__(
        self, parameters: DiceCEParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        super().__init__(parameters, label_space, reduce_sums)
        self._weights = parameters.dice, parameters.ce
        self._pooled = parameters.pooled
        self._structures = len(label_space.select())
        every_structure = torch.arange(self._structures).expand(len(label_space.tasks), -1)
        self._rows = every_structure if self.layout.shared else structure_rows(label_space)

    def judge(self, view: ClassView) -> dict[str, Tensor]:
        """See :meth:`ExclusiveLoss.judge`."""
        dice, ce = self._weights
        entropy = -self.mean(view.log_probability.gather(1, view.target[:, None]))
        return {"dice": dice * self._dice(view), "ce": ce * entropy}

    def _dice(self, view: ClassView) -> Tensor:
        """Return the mean of ``1 - Dice``."""
        known = view.present[:, 1:]
        classes = torch.arange(1, view.logits.shape[1], device=view.target.device)
        truth = view.target[:, None] == classes[:, None, None, None]
        sums = dice_sums(view.log_probability[:, 1:].exp(), truth, known)
        if self._pooled:
            rows = self._rows[list(view.tasks), : sums.shape[1]].to(sums.device)
            sums = by_structure(sums, rows, self._structures).sum(0)
            sums = self.over_processes(sums)
        overlap, predicted, true, count = sums.unbind(-1)
        cost = 1.0 - (2.0 * overlap + _SMOOTH) / (predicted + true + _SMOOTH)
        counted = (count > 0).to(cost.dtype)
        # An image counts as much as the next, however many classes it annotates.
        each = (cost * counted).sum(-1) / counted.sum(-1).clamp(min=1.0)
        return each if self._pooled else self.mean(each)
