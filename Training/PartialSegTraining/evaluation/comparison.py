"""Two models on the same cases: which is better, by how much, and whether that could be chance.

For each structure and each group: the mean difference of Dice over the cases that both models were
measured on, its bootstrap interval, and Wilcoxon's signed-rank test over cases, corrected for the
number of structures (Holm). Called by the command.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from PartialSegLib.errors import CollectionError
from PartialSegTraining.confidence import Interval, holm, mean_intervals, mean_over_columns, wilcoxon_p
from PartialSegTraining.scoretable import ScoreTable

#: What the figures of a comparison mean; part of its report.
METHOD = (
    "Differences are second model minus first, over the cases in which either mask of a model or the reference has "
    "voxels. Intervals: percentile bootstrap over cases, 95 %. p: Wilcoxon signed-rank test over cases, two-sided, "
    "corrected by Holm for the structures; not given for fewer than 6 cases. Group means: one weight a structure "
    "within each case, not corrected."
)


@dataclass(frozen=True)
class Difference:
    """How two models differ in the Dice of a structure or group.

    Parameters
    ----------
    name : str
        As shown.
    cases : int
        That both were measured on.
    first, second : float
        Mean Dice of each on these cases.
    interval : Interval
        Of the mean difference, second minus first.
    p : float
        Corrected p-value; ``nan`` where there are too few cases.
    """

    name: str
    cases: int
    first: float
    second: float
    interval: Interval
    p: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a JSON report; undefined figures become ``null``."""
        values = {key: None if value != value else value for key, value in asdict(self).items() if key != "interval"}
        difference = None if math.isnan(self.difference) else self.difference
        return {**values, "difference": difference, "interval": self.interval.to_json()}


@dataclass(frozen=True)
class Comparison:
    """Two models on the same cases.

    Parameters
    ----------
    names : tuple of str
        Of the first and the second model.
    structures, groups : mapping of str to Difference
        By key.
    """

    names: tuple[str, str]
    structures: dict[str, Difference]
    groups: dict[str, Difference]

    def rows(self) -> list[list[str]]:
        """Return the cells of a table, the header first, groups last."""
        header = ["Structure", "Cases", self.names[0], self.names[1], "Difference", "95 % interval", "p"]
        return [header, *(_row(item) for item in (*self.structures.values(), *self.groups.values()))]

    def text(self) -> str:
        """Return the table for a terminal."""
        from PartialSegLib.terminal import table

        header, *rows = self.rows()
        return table(header, rows, right=range(1, len(header)))

    def markdown(self) -> str:
        """Return the table for a README, with its method below."""
        header, *rows = self.rows()
        lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
        lines.insert(1, "|---|" + "---:|" * (len(header) - 1))
        return "\n".join([*lines, "", METHOD]) + "\n"

    def report(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "first": self.names[0],
            "second": self.names[1],
            "method": METHOD,
            "structures": {key: item.to_json() for key, item in self.structures.items()},
            "groups": {key: item.to_json() for key, item in self.groups.items()},
        }


def compare_tables(first: ScoreTable, second: ScoreTable, names: tuple[str, str]) -> Comparison:
    """Compare two models case by case.

    Parameters
    ----------
    first, second : ScoreTable
        Of the same cases; structures that only one of them scored are left out.
    names : tuple of str
        Of the models.

    Raises
    ------
    CollectionError
        When they have no case or no structure in common.
    """
    keys = [item.key for item in first.structures if item.key in {other.key for other in second.structures}]
    shared = [case.name for case in first.cases if case.name in {other.name for other in second.cases}]
    if not keys or not shared:
        raise CollectionError(
            f"{names[0]} and {names[1]} have no {'case' if keys else 'structure'} in common.",
            "Only models that know the same structures can be compared, on the same cases.",
        )
    # A structure that is absent in the reference and in one model's answer alone says something about the other.
    one, two = (table.dice_matrix(shared, keys, empty=1.0) for table in (first, second))
    both_absent = np.isnan(first.dice_matrix(shared, keys)) & np.isnan(second.dice_matrix(shared, keys))
    one, two = (np.where(both_absent, np.nan, values) for values in (one, two))
    columns = [index for index in range(len(keys)) if not np.isnan(one[:, index] + two[:, index]).all()]
    findings = {item.key: item.is_finding for item in first.structures}
    structure_names = {item.key: item.name for item in first.structures}
    alone = _differences([structure_names[keys[at]] for at in columns], [[at] for at in columns], one, two)
    corrected = holm([item.p for item in alone])
    structures = {
        keys[at]: Difference(item.name, item.cases, item.first, item.second, item.interval, p)
        for at, item, p in zip(columns, alone, corrected, strict=True)
    }
    members = {
        key: [at for at in columns if findings[keys[at]] == finding]
        for key, finding in (("organs", False), ("tumors", True))
    }
    present = {key: members[key] for key in members if members[key]}
    groups = _differences([f"Mean of {key}" for key in present], list(present.values()), one, two)
    return Comparison(names, structures, dict(zip(present, groups, strict=True)))


def _differences(
    names: Sequence[str], groups: Sequence[Sequence[int]], one: np.ndarray, two: np.ndarray
) -> list[Difference]:
    """Compare the means over the columns of each group."""
    found = []
    intervals = mean_intervals(two - one, [list(columns) for columns in groups])
    for name, columns, span in zip(names, groups, intervals, strict=True):
        known = ~np.isnan(one[:, columns] + two[:, columns])
        first, second = (np.where(known, values[:, columns], np.nan) for values in (one, two))
        means = [float(np.mean([np.nanmean(column) for column in values.T])) for values in (first, second)]
        p = wilcoxon_p(mean_over_columns(second - first))
        found.append(Difference(name, int(known.any(axis=1).sum()), means[0], means[1], span, p))
    return found


def _row(item: Difference) -> list[str]:
    span = f"{item.interval.low:+.3f} to {item.interval.high:+.3f}" if item.interval.known else "-"
    chance = "-" if math.isnan(item.p) else ("< 0.001" if item.p < 0.001 else f"{item.p:.3f}")
    return [
        item.name,
        str(item.cases),
        f"{item.first:.3f}",
        f"{item.second:.3f}",
        f"{item.difference:+.3f}",
        span,
        chance,
    ]
