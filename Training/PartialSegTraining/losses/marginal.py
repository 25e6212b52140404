"""Marginal loss and exclusion loss for multi-class networks.

Shi, Xiao, Chen, Zhou: Marginal loss and exclusion loss for partially supervised multi-organ
segmentation, Medical Image Analysis 70, 2021. The marginal loss adds the probabilities of classes that
were not annotated to that of the background (Eq. 4), as the target adaptive loss does. The exclusion
loss adds what is known of them all the same: where an annotated structure lies, they are not. Called
by the trainer for multi-class networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import ReduceSums
from PartialSegTraining.losses.exclusive import LEFT_OUT, ClassView
from PartialSegTraining.losses.targetadaptive import TargetAdaptive, TargetAdaptiveParameters
from PartialSegTraining.tables import require


@dataclass(frozen=True)
class MarginalExclusionParameters(TargetAdaptiveParameters):
    """Options of marginal and exclusion loss.

    Parameters
    ----------
    exclusion : float
        Weight of both terms of the exclusion loss.
    """

    exclusion: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.exclusion >= 0, "exclusion", self.exclusion, "at least 0")


class MarginalExclusion(TargetAdaptive):
    """Marginal Dice and cross-entropy, and their exclusion counterparts.

    Terms ``dice``, ``ce`` (marginal), ``exclusion_dice`` and ``exclusion_ce``. For each class u of a
    structure that a sample does not annotate, with probability p and the mask e of the annotated
    structures that exclude it, they are ``2 sum(e p) / (sum e + sum p)`` and the mean over voxels of
    ``e log(p + 1)`` (the 1 keeps the logarithm finite at 0), averaged over all such classes. Every
    annotated structure excludes u, but the innermost one that contains it.

    Parameters
    ----------
    parameters : MarginalExclusionParameters
        Of the recipe.
    label_space : LabelSpace
        Tasks, structures, and which of them contains which.
    reduce_sums : callable, optional
        See :class:`DiceCE`; the exclusion Dice is of each image by itself.
    """

    def __init__(
        self, parameters: MarginalExclusionParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        super().__init__(parameters, label_space, reduce_sums)
        self._exclusion = parameters.exclusion

    def judge(self, view: ClassView) -> dict[str, Tensor]:
        """See :meth:`ExclusiveLoss.judge`."""
        pairs = [self._excluded(view, row) for row in range(len(view.groups))]
        dice, entropy = (torch.cat([pair[part] for pair in pairs] or [view.logits[:0].flatten()]) for part in (0, 1))
        return {
            **super().judge(view),
            "exclusion_dice": self._exclusion * self.mean(dice),
            "exclusion_ce": self._exclusion * self.mean(entropy),
        }

    def _excluded(self, view: ClassView, row: int) -> tuple[Tensor, Tensor]:
        """Return both costs, (U,) each, of the U unannotated structures of one sample."""
        groups, target = view.groups[row], view.target[row]
        structures = (None, *self.layout.structures(view.tasks[row]))
        kept = [index for index, group in enumerate(groups) if group != LEFT_OUT]
        probability = view.logits[row, kept].softmax(0)
        dice, entropy = [], []
        for place, index in enumerate(kept):
            if structures[index] is None or groups[index] == index:
                continue
            p = probability[place]
            # Classes are what only their own structure covers: an annotated tumor excludes its organ's class.
            e = ((target > 0) & (target != groups[index])).to(p.dtype)
            dice.append(2.0 * (e * p).sum() / (e.sum() + p.sum()).clamp(min=torch.finfo(p.dtype).tiny))
            entropy.append((e * torch.log1p(p)).mean())
        nothing = view.logits[:0].flatten()
        return (torch.stack(dice), torch.stack(entropy)) if dice else (nothing, nothing)
