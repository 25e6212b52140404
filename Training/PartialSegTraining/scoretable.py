"""The table of an evaluation: means per structure, of organs and of findings, as text, Markdown and JSON.

``partialseg evaluate`` and the demo fill a :class:`ScoreTable` with the scores of cases and print it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import PartialSegLib
from PartialSegLib.terminal import table
from PartialSegTraining.confidence import DRAWS, FEW, Interval, mean_intervals

if TYPE_CHECKING:
    import numpy as np

    from PartialSegLib.metrics import Score
    from PartialSegLib.structures import Structure

_REPORT_FORMAT, _REPORT_VERSION = "partialseg-evaluation", 2

#: What an interval means; part of every report.
INTERVALS = (
    f"Intervals of means are 95 % percentile bootstraps over cases ({DRAWS} draws of whole cases, seeded); there is "
    f"none for a single case, and with fewer than {FEW} it is no more than a hint."
)


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case, and how long it took to segment."""

    name: str
    scores: tuple[Score, ...]
    seconds: float | None = None


@dataclass(frozen=True)
class Summary:
    """Means over the cases of one structure, or over the structures of a group.

    Parameters
    ----------
    name : str
        As shown.
    cases : int
        Cases in which prediction or reference has voxels.
    missed, invented : int
        Cases where only the reference, only the prediction has voxels.
    dice, surface_dice : float
        Means over `cases`; ``nan`` without any.
    hd95_mm, surface_distance_mm : float
        Means over the cases where both have voxels, in millimetres; ``nan`` without any.
    """

    name: str
    cases: int
    missed: int
    invented: int
    dice: float
    hd95_mm: float
    surface_dice: float
    surface_distance_mm: float

    @classmethod
    def of_structure(cls, name: str, scores: Iterable[Score]) -> Summary:
        """Average the scores of one structure over cases."""
        present = [score for score in scores if not score.empty]
        found = [score for score in present if score.found]
        return cls(
            name=name,
            cases=len(present),
            missed=sum(1 for score in present if not score.prediction_ml),
            invented=sum(1 for score in present if not score.reference_ml),
            dice=_mean(score.dice for score in present),
            hd95_mm=_mean(score.hd95_mm for score in found),
            surface_dice=_mean(score.surface_dice for score in present),
            surface_distance_mm=_mean(score.surface_distance_mm for score in found),
        )

    @classmethod
    def of_group(cls, name: str, members: Sequence[Summary]) -> Summary:
        """Average structures, each with the same weight; those without any case are left out."""
        return cls(
            name=name,
            cases=sum(member.cases for member in members),
            missed=sum(member.missed for member in members),
            invented=sum(member.invented for member in members),
            dice=_mean(member.dice for member in members),
            hd95_mm=_mean(member.hd95_mm for member in members),
            surface_dice=_mean(member.surface_dice for member in members),
            surface_distance_mm=_mean(member.surface_distance_mm for member in members),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the summary for a JSON report; undefined means become ``null``."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class ScoreTable:
    """What an evaluation found.

    Parameters
    ----------
    structures : tuple of Structure
        Rows, in order; a structure without a score is left out.
    cases : tuple of CaseScores
        Every score.
    tolerance_mm : float
        Tolerance of the surface Dice.
    subject : mapping
        What was evaluated (model and preset, or the two paths), for the report.
    """

    structures: tuple[Structure, ...]
    cases: tuple[CaseScores, ...]
    tolerance_mm: float
    subject: Mapping[str, str]

    def summaries(self) -> dict[str, Summary]:
        """Return the summary of each scored structure, by key."""
        scores: dict[str, list[Score]] = {structure.key: [] for structure in self.structures}
        for case in self.cases:
            for score in case.scores:
                scores[score.key].append(score)
        names = {structure.key: structure.name for structure in self.structures}
        return {key: Summary.of_structure(names[key], found) for key, found in scores.items() if found}

    def groups(self) -> dict[str, Summary]:
        """Return the means of organs (with vessels) and of findings (tumors, cysts), where there are any."""
        summaries = self.summaries()
        groups = {}
        for key, name, finding in (("organs", "Mean of organs", False), ("tumors", "Mean of tumors", True)):
            members = [
                summaries[structure.key]
                for structure in self.structures
                if structure.key in summaries and structure.is_finding == finding
            ]
            if members:
                groups[key] = Summary.of_group(name, members)
        return groups

    def dice_matrix(self, cases: Sequence[str], keys: Sequence[str], empty: float = math.nan) -> np.ndarray:
        """Return the Dice of cases and structures.

        Parameters
        ----------
        cases, keys : sequence of str
            Names of the rows, keys of the columns.
        empty : float
            What stands for a structure that is absent in prediction and reference.

        Returns
        -------
        numpy.ndarray
            (cases, keys) float64; ``nan`` where a case was not scored.
        """
        import numpy as np

        rows, columns = {name: at for at, name in enumerate(cases)}, {key: at for at, key in enumerate(keys)}
        matrix = np.full((len(rows), len(columns)), np.nan)
        for case in self.cases:
            for score in case.scores if case.name in rows else ():
                if score.key in columns:
                    matrix[rows[case.name], columns[score.key]] = empty if score.empty else score.dice
        return matrix

    def intervals(self) -> dict[str, Interval]:
        """Return the confidence interval of the mean Dice of each structure and group, by key."""
        keys = list(self.summaries())
        findings = {structure.key: structure.is_finding for structure in self.structures}
        members = {key: [at] for at, key in enumerate(keys)}
        for name, finding in (("organs", False), ("tumors", True)):
            members[name] = [at for at, key in enumerate(keys) if findings[key] == finding]
        members = {name: columns for name, columns in members.items() if columns}
        matrix = self.dice_matrix([case.name for case in self.cases], keys)
        return dict(zip(members, mean_intervals(matrix, list(members.values())), strict=True))

    def text(self) -> str:
        """Return the table for a terminal."""
        (header, *rows), means = self._rows()
        lines = table(header, [*rows, *means], right=range(1, len(header))).splitlines()
        lines.insert(2 + len(rows), lines[1])
        return "\n".join(lines)

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table's header, and the rows of structures and groups."""
        (header, *rows), means = self._rows()
        return header, [*rows, *means]

    def markdown(self) -> str:
        """Return the table for a README, with the definitions below it."""
        from PartialSegLib.metrics import DEFINITIONS

        rows, means = self._rows()
        lines = ["| " + " | ".join(row) + " |" for row in [*rows, *([f"**{cell}**" for cell in row] for row in means)]]
        lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
        subject = ", ".join(f"{name} {value}" for name, value in self.subject.items())
        notes = [f"- {text}" for text in (*DEFINITIONS.values(), INTERVALS)]
        return "\n".join([*lines, "", f"Evaluated: {subject}.", "", *notes]) + "\n"

    def report(self) -> dict[str, Any]:
        """Return everything as a JSON document: definitions, means, and each score of each case."""
        from PartialSegLib.metrics import DEFINITIONS

        spans = self.intervals()
        return {
            "format": _REPORT_FORMAT,
            "version": _REPORT_VERSION,
            "partialseg": PartialSegLib.__version__,
            "subject": dict(self.subject),
            "tolerance_mm": self.tolerance_mm,
            "definitions": {**DEFINITIONS, "interval": INTERVALS},
            "structures": {key: _entry(summary, spans[key]) for key, summary in self.summaries().items()},
            "groups": {key: _entry(summary, spans[key]) for key, summary in self.groups().items()},
            "cases": [
                {"name": case.name, "seconds": case.seconds, "scores": [score.to_json() for score in case.scores]}
                for case in self.cases
            ],
        }

    def figures(self) -> dict[str, Any]:
        """Return the mean Dice of groups and structures, for the card of a model."""
        dice = {key: summary.to_json()["dice"] for key, summary in (self.groups() | self.summaries()).items()}
        rounded = {key: value if value is None else round(value, 4) for key, value in dice.items()}
        return {"measured_on": "fully annotated test cases of the collection", **self.subject, "dice": rounded}

    def _rows(self) -> tuple[list[list[str]], list[list[str]]]:
        """Return the cells of header and structures, and those of the group means."""
        surface, spans = f"Surface Dice at {self.tolerance_mm:g} mm", self.intervals()
        header = ["Structure", "Cases", "Dice", "95 % interval", "HD95 (mm)", surface, "Missed", "Invented"]
        structures = [_row(summary, spans[key]) for key, summary in self.summaries().items()]
        return [header, *structures], [_row(summary, spans[key]) for key, summary in self.groups().items()]


def _entry(summary: Summary, span: Interval) -> dict[str, Any]:
    """Return a summary for the JSON report."""
    return {**summary.to_json(), "dice_interval": span.to_json()}


def _row(summary: Summary, span: Interval) -> list[str]:
    return [
        summary.name,
        str(summary.cases),
        _number(summary.dice, 3),
        f"{span.low:.3f} to {span.high:.3f}" if span.known else "-",
        _number(summary.hd95_mm, 1),
        _number(summary.surface_dice, 3),
        str(summary.missed),
        str(summary.invented),
    ]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _mean(values: Iterable[float]) -> float:
    """Return the mean of the defined values; ``nan`` when there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
