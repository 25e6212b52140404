"""Reports of an evaluation for other programs and for people: CSV of every score, one HTML page.

Called by the command.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING

from PartialSegTraining.report.charts import Bar, bar_chart
from PartialSegTraining.report.page import Section, page, table
from PartialSegTraining.scoretable import INTERVALS, ScoreTable

if TYPE_CHECKING:
    from PartialSegTraining.evaluation.comparison import Comparison
    from PartialSegTraining.evaluation.dodnet import DoDNetTable

_FIELDS = (
    "key", "dice", "hd95_mm", "surface_dice", "surface_distance_mm", "tolerance_mm", "prediction_ml", "reference_ml",
)  # fmt: skip


def csv_scores(scores: ScoreTable) -> str:
    """Return one line for each structure of each case; what is undefined or infinite is left empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("case", "structure", *_FIELDS[1:], "seconds"))
    for case in scores.cases:
        for score in case.scores:
            values = (asdict(score)[name] for name in _FIELDS)
            seconds = "" if case.seconds is None else f"{case.seconds:.3f}"
            writer.writerow((case.name, *(_cell(value) for value in values), seconds))
    return stream.getvalue()


def html_report(scores: ScoreTable, comparison: Comparison | None = None, dodnet: DoDNetTable | None = None) -> str:
    """Return a page with means, intervals, every case and the definitions of the figures.

    Parameters
    ----------
    scores : ScoreTable
        Of the model or segmentations.
    comparison : Comparison, optional
        With another model.
    dodnet : DoDNetTable, optional
        The same cases in DoDNet's metric.
    """
    from PartialSegLib.metrics import DEFINITIONS

    subject = ", ".join(f"{name} {value}" for name, value in scores.subject.items())
    sections = [Section("Means", bar_chart("Mean Dice with its 95 % interval", dice_bars(scores), "Dice"), markup=True)]
    sections.append(Section("", table(*scores.cells()), markup=True))
    if comparison is not None:
        from PartialSegTraining.evaluation.comparison import METHOD

        header, *rows = comparison.rows()
        sections += [Section("Comparison", table(header, rows), markup=True), Section("", METHOD)]
    if dodnet is not None:
        sections.append(Section("DoDNet's metric", f"<pre>{escape(dodnet.text())}</pre>", markup=True))
    sections.append(Section("Cases", _case_table(scores), markup=True))
    sections += [
        Section("Definitions" if not at else "", text) for at, text in enumerate((*DEFINITIONS.values(), INTERVALS))
    ]
    return page("Evaluation", subject, sections)


def dice_bars(scores: ScoreTable) -> list[Bar]:
    """Return a bar for the mean Dice of each structure, in its color."""
    spans, colors = scores.intervals(), {structure.key: structure.color for structure in scores.structures}
    bars = []
    for key, summary in scores.summaries().items():
        span = spans[key]
        ends = (span.low, span.high) if span.known else None
        bars.append(Bar(f"{summary.name} ({summary.cases})", summary.dice, ends, colors[key]))
    return bars


def _case_table(scores: ScoreTable) -> str:
    """Return the Dice of every structure of every case."""
    keys = list(scores.summaries())
    names = {structure.key: structure.name for structure in scores.structures}
    matrix = scores.dice_matrix([case.name for case in scores.cases], keys)
    rows = [
        [case.name, *("-" if math.isnan(value) else f"{value:.3f}" for value in row)]
        for case, row in zip(scores.cases, matrix, strict=True)
    ]
    return table(["Dice", *(names[key] for key in keys)], rows)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else ""
    return value
