"""What a validation during training says; made by the validators, judged and logged by the loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Validation:
    """How well a network does on held-out cases.

    Parameters
    ----------
    dice : mapping of str to float
        Dice (0 to 1) of each structure that a held-out case annotates and shows.
    cases : mapping of str to mapping
        Dice of each annotated structure of each case, by name, ``None`` where neither the case nor
        the prediction has any voxel of it; empty where windows were measured, not cases.
    """

    dice: Mapping[str, float]
    cases: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def mean_dice(self) -> float:
        """Mean over the structures; 0 when there is none."""
        return round(math.fsum(self.dice.values()) / max(1, len(self.dice)), 4)

    def to_log(self, *, best: bool) -> dict[str, Any]:
        """Return the line of the log (:mod:`PartialSegTraining.runlog`)."""
        line = {"validation": dict(self.dice), "mean_dice": self.mean_dice, "best": best}
        return {**line, "cases": {name: dict(dice) for name, dice in self.cases.items()}} if self.cases else line
