"""How the chosen structures are divided into passes when not all of them fit into memory at once.

Used by the planner, which forecasts what a division costs, and by the passes, which follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from PartialSegLib.networks.contract import PartialLabelNetwork


@dataclass(frozen=True)
class Division:
    """The chosen structures in units that are never separated.

    Parameters
    ----------
    units : tuple of tuple of str
        One structure each; or all chosen structures of one task, where features depend on the task
        and would have to be computed again for the rest of it.
    by_task : bool
        Whether features depend on the task.
    """

    units: tuple[tuple[str, ...], ...]
    by_task: bool = False

    @classmethod
    def of(cls, network: PartialLabelNetwork, structures: Sequence[str]) -> Division:
        """Return the units of `structures` for a network; their order stays."""
        if not network.features_depend_on_task:
            return cls(tuple((key,) for key in structures))
        tasks: dict[str, list[str]] = {}
        for key in structures:
            tasks.setdefault(network.label_space.task_of(key).key, []).append(key)
        return cls(tuple(tuple(keys) for keys in tasks.values()), by_task=True)

    def groups(self, count: int) -> list[list[str]]:
        """Divide the structures evenly into at most `count` groups, one for each pass over the image."""
        parts = np.array_split(np.arange(len(self.units)), min(count, len(self.units)))
        return [[key for unit in part for key in self.units[unit]] for part in parts]

    def widest(self, count: int) -> int:
        """Return the structures of the largest of `count` groups."""
        return max(len(group) for group in self.groups(count))

    def encodings(self, count: int) -> int:
        """Return how often the features of each window are computed in `count` groups."""
        return len(self.units) if self.by_task else min(count, len(self.units))
