"""The loss of the KiTS21 transfer paper: cross-entropies of evaluation classes on top of Dice and CE.

The challenge judges unions of classes: kidney and masses, masses, tumor. "Transfer learning for KiTS21
Challenge" (Section "Loss Function") takes each union as foreground and the rest as background, and
adds the cross-entropies of the first two with weights 0.1 and 0.3. Called by the trainer for softmax
networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import ReduceSums
from PartialSegTraining.losses.dicece import DiceCE, DiceCEParameters
from PartialSegTraining.losses.exclusive import ClassView
from PartialSegTraining.tables import require


@dataclass(frozen=True)
class EvaluationClass:
    """A union of structures that is judged as one.

    Parameters
    ----------
    structures : tuple of str
        Their keys.
    weight : float
        Of its cross-entropy.
    """

    structures: tuple[str, ...]
    weight: float

    def __post_init__(self) -> None:
        require(len(self.structures) > 0, "structures", list(self.structures), "one or more")
        require(self.weight >= 0, "weight", self.weight, "at least 0")


@dataclass(frozen=True)
class HierarchicalParameters(DiceCEParameters):
    """Options of the hierarchical loss.

    Parameters
    ----------
    hierarchy : tuple of EvaluationClass
        The unions; those of KiTS21 when not given.
    """

    hierarchy: tuple[EvaluationClass, ...] = (
        EvaluationClass(("kidneys", "kidney_tumor", "kidney_cyst"), 0.1),
        EvaluationClass(("kidney_tumor", "kidney_cyst"), 0.3),
    )


class Hierarchical(DiceCE):
    """Dice, cross-entropy, and the weighted cross-entropies of evaluation classes; terms ``dice``, ``ce``, ``hec``.

    An evaluation class is judged in those samples whose annotations settle it: each of its structures
    is annotated, or lies within another one of them that is.

    Parameters
    ----------
    parameters : HierarchicalParameters
        Of the recipe.
    label_space : LabelSpace
        Knows all structures of the hierarchy.
    reduce_sums : callable, optional
        See :class:`DiceCE`.

    Raises
    ------
    LabelSpaceError
        When the label space lacks a structure of the hierarchy.
    """

    def __init__(
        self, parameters: HierarchicalParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        super().__init__(parameters, label_space, reduce_sums)
        self._hierarchy = parameters.hierarchy
        for union in self._hierarchy:
            for key in union.structures:
                label_space.structure(key)

    def judge(self, view: ClassView) -> dict[str, Tensor]:
        """See :meth:`ExclusiveLoss.judge`."""
        hec = sum((union.weight * self._cross_entropy(view, union) for union in self._hierarchy), view.logits[:0].sum())
        return {**super().judge(view), "hec": hec}

    def _cross_entropy(self, view: ClassView, union: EvaluationClass) -> Tensor:
        """Return the mean binary cross-entropy of a union over the samples that settle it."""
        costs = []
        for row, (task, groups) in enumerate(zip(view.tasks, view.groups, strict=True)):
            if not self._is_settled(task, groups, union):
                continue
            structures = (None, *self.layout.structures(task))
            # Each class and its log-probability has all that was merged into it.
            present = sorted({group for group in groups if group >= 0})
            inside = [index for index in present if structures[index] in union.structures]
            outside = [index for index in present if index not in inside]
            members = torch.tensor(inside, device=view.target.device)
            log_probability = view.log_probability[row]
            yes, no = (log_probability[part].logsumexp(0) for part in (inside, outside))
            costs.append(-torch.where(torch.isin(view.target[row], members), yes, no))
        return self.mean(torch.stack(costs) if costs else view.logits[:0].flatten())

    def _is_settled(self, task: int, groups: tuple[int, ...], union: EvaluationClass) -> bool:
        """Tell whether the annotations of a sample say of every voxel if it belongs to the union."""
        structures = self.layout.structures(task)
        annotated = {key for index, key in enumerate(structures, 1) if key is not None and index in groups}
        judged = annotated.intersection(union.structures)
        return all(key in judged or judged.intersection(self.layout.containers(key)) for key in union.structures)
