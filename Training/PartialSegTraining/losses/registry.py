"""The losses by name, and how a recipe's words become one of them. Called by the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PartialSegLib.errors import CollectionError, LabelSpaceError
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import LossParameters, ReduceSums, SegmentationLoss
from PartialSegTraining.losses.dicece import DiceCE, DiceCEParameters
from PartialSegTraining.losses.dodnet import DiceBCE, DiceBCEParameters
from PartialSegTraining.losses.hierarchical import Hierarchical, HierarchicalParameters
from PartialSegTraining.losses.lovaszfocal import LovaszFocal, LovaszFocalParameters
from PartialSegTraining.losses.marginal import MarginalExclusion, MarginalExclusionParameters
from PartialSegTraining.losses.multitalent import MultiTalent, MultiTalentParameters
from PartialSegTraining.losses.targetadaptive import TargetAdaptive, TargetAdaptiveParameters
from PartialSegTraining.tables import read_table

#: Name in a recipe's [loss] -> (loss class, its parameters).
LOSSES: dict[str, tuple[type[SegmentationLoss], type[LossParameters]]] = {
    "dodnet": (DiceBCE, DiceBCEParameters),
    "multitalent": (MultiTalent, MultiTalentParameters),
    "dice-ce": (DiceCE, DiceCEParameters),
    "hierarchical": (Hierarchical, HierarchicalParameters),
    "lovasz-focal": (LovaszFocal, LovaszFocalParameters),
    "target-adaptive": (TargetAdaptive, TargetAdaptiveParameters),
    "marginal-exclusion": (MarginalExclusion, MarginalExclusionParameters),
}


def make_loss(
    name: str,
    parameters: Mapping[str, Any],
    label_space: LabelSpace,
    *,
    reduce_sums: ReduceSums | None = None,
) -> SegmentationLoss:
    """Build the loss of a recipe.

    Parameters
    ----------
    name : str
        Key of :data:`LOSSES`.
    parameters : mapping
        Fields of the loss's parameter dataclass, as TOML has them (lists for tuples).
    label_space : LabelSpace
        Of the network.
    reduce_sums : callable, optional
        For a training on several processes; see :class:`SegmentationLoss`.

    Raises
    ------
    CollectionError
        When there is no such loss, a parameter is unknown or out of range, or names a structure
        that the label space does not have.
    """
    if name not in LOSSES:
        raise CollectionError(f"There is no loss '{name}'.", f"Known: {', '.join(LOSSES)}.")
    kind, options = LOSSES[name]
    try:
        return kind(read_table(options, parameters, "loss.parameters"), label_space, reduce_sums)
    except (ValueError, LabelSpaceError) as error:
        reason = str(error).rstrip(".")
        raise CollectionError(f"Loss '{name}' cannot be used: {reason}.", "Correct [loss] in the recipe.") from error
