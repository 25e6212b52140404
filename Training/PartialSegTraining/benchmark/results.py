"""Runs put together: mean and spread over seeds, in the form of DoDNet's Table 6 and Figure 4.

Called by the documents of the benchmark and its command.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.benchmark.runs import RunResult
from PartialSegTraining.benchmark.systems import System


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds.

    Parameters
    ----------
    mean, deviation : float
        Mean and sample standard deviation; ``nan`` where there is none, the latter with one seed too.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimate from one value a seed; those that are not defined are left out."""
        known = [value for value in values if not math.isnan(value)]
        return cls(
            statistics.fmean(known) if known else math.nan, statistics.stdev(known) if len(known) > 1 else math.nan
        )

    def text(self, digits: int, scale: float = 1.0) -> str:
        """Return ``mean ± deviation``, without the latter where there is none."""
        if math.isnan(self.mean):
            return "-"
        mean = f"{self.mean * scale:.{digits}f}"
        return mean if math.isnan(self.deviation) else f"{mean} ± {self.deviation * scale:.{digits}f}"


@dataclass(frozen=True)
class SystemResult:
    """All runs of a system.

    Parameters
    ----------
    system : System
        What was trained.
    runs : tuple of RunResult
        One a seed, at least one.
    """

    system: System
    runs: tuple[RunResult, ...]

    @property
    def parameters(self) -> int:
        """Weights of the network."""
        return self.runs[0].parameters

    @property
    def passes(self) -> int:
        """How often features of a window are computed for all tasks."""
        return self.runs[0].passes

    @cached_property
    def average_dice(self) -> Estimate:
        """Mean Dice over all structures, as the last column of Table 6."""
        return Estimate.of([_mean(run.dice) for run in self.runs])

    @cached_property
    def average_hd95(self) -> Estimate:
        """Mean HD95 over the structures that were found in a case, in millimetres."""
        return Estimate.of([_mean(run.hd95_mm) for run in self.runs])

    @cached_property
    def case_seconds(self) -> Estimate:
        """Seconds to segment all structures of a case."""
        return self._over_seeds(lambda run: run.case_seconds)

    @cached_property
    def train_seconds(self) -> Estimate:
        """Seconds of the training."""
        return self._over_seeds(lambda run: run.train_seconds)

    def group_dice(self, keys: Sequence[str]) -> Estimate:
        """Return the mean Dice over some structures."""
        return Estimate.of([_mean({key: run.dice.get(key) for key in keys}) for run in self.runs])

    def dice(self, key: str) -> Estimate:
        """Return the Dice of a structure."""
        return self.group_dice([key])

    def hd95(self, key: str) -> Estimate:
        """Return the HD95 of a structure, in millimetres."""
        return self._over_seeds(lambda run: _number(run.hd95_mm.get(key)))

    def _over_seeds(self, value: Callable[[RunResult], float]) -> Estimate:
        return Estimate.of([value(run) for run in self.runs])


def collect(runs: Sequence[RunResult], systems: Sequence[System]) -> list[SystemResult]:
    """Put the runs of each system together; systems without a run are left out."""
    grouped = [(system, tuple(run for run in runs if run.system == system.key)) for system in systems]
    return [SystemResult(system, found) for system, found in grouped if found]


def structure_groups(space: LabelSpace) -> tuple[list[str], list[str]]:
    """Return the structures that are organs or vessels, and those that are findings, in task order."""
    keys = space.select()
    organs = [key for key in keys if not space.structure(key).is_finding]
    return organs, [key for key in keys if key not in organs]


def _mean(values: dict[str, float | None]) -> float:
    known = [value for value in values.values() if value is not None]
    return statistics.fmean(known) if known else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value
