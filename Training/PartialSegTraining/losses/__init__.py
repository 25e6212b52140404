"""What a prediction costs when only some of its structures were annotated; one family a file.

:func:`make_loss` is the door: the trainer chooses a loss by the name in the recipe. ``contract`` is
what all of them offer, ``registry`` knows them by name.
"""

from __future__ import annotations

from PartialSegTraining.losses.contract import (
    UNKNOWN,
    UNKNOWN_VOXEL,
    Loss,
    LossParameters,
    LossTerms,
    ReduceSums,
    SegmentationLoss,
    known_channels,
)
from PartialSegTraining.losses.dodnet import DoDNetLoss, dodnet_loss
from PartialSegTraining.losses.registry import LOSSES, make_loss
from PartialSegTraining.losses.supervision import deep_supervision_weights

__all__ = [
    "LOSSES",
    "UNKNOWN",
    "UNKNOWN_VOXEL",
    "DoDNetLoss",
    "Loss",
    "LossParameters",
    "LossTerms",
    "ReduceSums",
    "SegmentationLoss",
    "deep_supervision_weights",
    "dodnet_loss",
    "known_channels",
    "make_loss",
]
