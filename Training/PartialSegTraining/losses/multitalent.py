"""MultiTalent's dataset and class adaptive loss: binary cross-entropy minus a pooled Dice, summed.

Ulrich, Isensee, Wald, Zenk, Baumgartner, Maier-Hein: MultiTalent, MICCAI 2023, Section 2.2.2. Classes
that a dataset does not annotate take no part. Called by the trainer for networks with independent
sigmoids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import BinaryLoss, LossParameters, ReduceSums, known_channels
from PartialSegTraining.losses.dicesums import by_structure, dice_sums, structure_rows
from PartialSegTraining.tables import require

#: Of the released code: the smallest denominator of a Dice.
_SMALLEST = 1e-7


@dataclass(frozen=True)
class MultiTalentParameters(LossParameters):
    """Options of MultiTalent's loss.

    Parameters
    ----------
    pooling : str
        Over what the sums of a Dice are taken. ``batch``: all images of the batch, as the paper
        says (Eq. 2). ``sample``: each image by itself, which is what the released code does on one
        GPU (on several, it pools the images that have the same place in each GPU's batch, and so
        does this loss with a `reduce_sums`).
    """

    pooling: str = "batch"

    POOLINGS = ("batch", "sample")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pooling in self.POOLINGS, "pooling", self.pooling, f"one of {self.POOLINGS}")


class MultiTalent(BinaryLoss):
    """Eq. 2 on each output of a network; terms ``bce`` and ``dice``.

    Both are sums over classes, not means, so that what one class learns does not depend on how many
    others a dataset annotates; gradients should be clipped. ``dice`` is minus the sum of Dice: the
    least it can be is minus the number of classes that the batch annotates.

    Parameters
    ----------
    parameters : MultiTalentParameters
        Of the recipe.
    label_space : LabelSpace
        Says which channels of different tasks are the same class.
    reduce_sums : callable, optional
        Adds the sums of Dice over processes, (S, 4) or with ``pooling = "sample"`` (N, S, 4), and that
        of the cross-entropy.
    """

    def __init__(
        self, parameters: MultiTalentParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        super().__init__(parameters, label_space, reduce_sums)
        self._pooled = parameters.pooling == "batch"
        self._rows = structure_rows(label_space)
        self._structures = len(label_space.select())

    def level(self, logits: Tensor, target: Tensor, task: Tensor) -> dict[str, Tensor]:
        """Judge one output; see :meth:`SegmentationLoss.level`."""
        target = target[:, : logits.shape[1]]
        known = known_channels(target)
        visible = known[:, :, None, None, None]
        logits, target = torch.where(visible, logits, 0.0), torch.where(visible, target, 0.0)
        bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3, 4))
        rows = self._rows.to(task.device)[task, : logits.shape[1]]
        sums = by_structure(dice_sums(logits.sigmoid(), target, known), rows, self._structures)
        if self._pooled:
            sums = sums.sum(0)
        overlap, predicted, true, _ = self.over_processes(sums).unbind(-1)
        dice = 2.0 * overlap / (predicted + true).clamp(min=_SMALLEST)
        return {"bce": self.over_processes((bce * known).sum()), "dice": -dice.sum()}
