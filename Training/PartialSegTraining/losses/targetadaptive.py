"""Target adaptive loss (TAL): what a dataset does not annotate is part of its background.

Fang, Yan: Multi-organ segmentation over partially labeled datasets with multi-scale feature abstraction,
TMI 2020; a baseline of DoDNet (Table 6). One softmax over the structures of all datasets is trained
on each of them: the probabilities of classes that a dataset does not annotate are added to that of
its background, which is compared with its annotation. Called by the trainer for multi-class networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from PartialSegTraining.losses.dicece import DiceCE, DiceCEParameters


@dataclass(frozen=True)
class TargetAdaptiveParameters(DiceCEParameters):
    """Options of the target adaptive loss: those of Dice and cross-entropy.

    By default every structure of the label space has a class, and those that were not annotated are
    merged.
    """

    classes: str = "space"
    unannotated: str = "merge"

    UNANNOTATED: ClassVar[tuple[str, ...]] = ("merge",)


class TargetAdaptive(DiceCE):
    """Dice and cross-entropy of merged classes; terms ``dice`` and ``ce``.

    The loss sees an unannotated class only through the sum that it is part of: its value is the same
    however the members share that sum. The gradient of a member's logit is that of the sum, times
    the member's share; so an unannotated class is never told apart from the background, or from the
    annotated structure that contains it, but is not free of gradients either.
    """
