"""What a training report shows: curves from the log, scores and pictures from the test cases.

Called by the command of the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import CollectionError
from PartialSegTraining.report import page
from PartialSegTraining.report.charts import Axis, Series, axis_around, bar_chart, line_chart
from PartialSegTraining.report.page import Section
from PartialSegTraining.runlog import read_log

if TYPE_CHECKING:
    from PartialSegLib.card import Card
    from PartialSegLib.structures import LabelSpace
    from PartialSegTraining.report.measuring import Measured

#: Numbers of a training line that are no terms of the loss.
_NO_TERMS = frozenset(("step", "loss", "lr", "seconds_per_step", "waiting"))
#: Where the mean of the Dice of all structures is drawn among theirs.
_MEAN = "mean"
# A chart with more lines than this cannot be read; the others are in the table.
_MOST_LINES = 8


@dataclass(frozen=True)
class Run:
    """A training as its folder tells of it.

    Parameters
    ----------
    folder : Path
        Of the training.
    lines : tuple of dict
        Of its log, see :mod:`PartialSegTraining.runlog`.
    """

    folder: Path
    lines: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the log of a training.

        Raises
        ------
        CollectionError
            When there is none.
        """
        lines = read_log(folder / "log.jsonl")
        if not lines:
            raise CollectionError(
                f"{folder} has no log of a training.", "Give the folder that 'partialseg train' had as --output."
            )
        return cls(folder, tuple(lines))

    @property
    def training(self) -> list[dict[str, Any]]:
        """Lines with a loss."""
        return [line for line in self.lines if "loss" in line]

    @property
    def validations(self) -> list[dict[str, Any]]:
        """Lines with the Dice of held-out cases."""
        return [line for line in self.lines if "validation" in line]

    @property
    def steps(self) -> int:
        """Steps that the log tells of."""
        return int(self.lines[-1]["step"])

    def bundles(self) -> list[Path]:
        """Return the model folders in the run, the one that was written last first."""
        found = [path.parent for path in self.folder.glob("*/card.json")]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def sections(run: Run, space: LabelSpace | None, card: Card | None, measured: Measured | None) -> list[Section]:
    """Return the parts of the page, from top to bottom.

    Parameters
    ----------
    run : Run
        The training.
    space : LabelSpace or None
        For the names of structures.
    card : Card or None
        Of its model.
    measured : Measured or None
        Test cases; ``None`` when there were none.
    """
    parts = [Section("", _facts(run, card), markup=True)]
    parts.append(Section("Training", page.row(_training_charts(run)), markup=True))
    parts += [Section("", f"The training ended early: {line['stopped']}.") for line in run.lines if "stopped" in line]
    if run.validations:
        parts.append(Section("Validation on held-out cases", page.row(_validation_charts(run, space)), markup=True))
    if measured is None:
        parts.append(Section("Test cases", "None were given: name a collection with --collection."))
        return parts
    from PartialSegTraining.evaluation.documents import dice_bars

    table = measured.table
    chart = bar_chart("Mean Dice with its 95 % interval", dice_bars(table), "Dice")
    parts.append(Section(f"Test cases ({len(table.cases)})", chart, markup=True))
    parts.append(Section("", page.table(*table.cells()), markup=True))
    if measured.pictures:
        figures = [page.figure(picture.path, picture.caption) for picture in measured.pictures]
        parts.append(Section("Best and worst case", "\n".join(figures), markup=True))
    parts += [Section("", note) for note in measured.notes]
    return parts


def _facts(run: Run, card: Card | None) -> str:
    """Return the table of what was trained."""
    seconds = sum(_steps_of(run, line) * line.get("seconds_per_step", 0.0) for line in run.training)
    rows = [["Steps", f"{run.steps:,}"], ["Time of all steps", f"{seconds / 3600:.2f} h"]]
    if card is not None:
        told = card.provenance
        rows = [
            ["Model", f"{card.title} ({card.name} {card.version})"],
            ["Network", card.network],
            ["Recipe", f"{told.get('recipe', '-')} ({told.get('recipe_digest', '-')})"],
            ["Steps", f"{run.steps:,} of {told.get('total_steps', run.steps):,}"],
            ["Training cases", str(told.get("training_cases", "-"))],
            *rows[1:],
        ]
    return page.table((), rows)


def _steps_of(run: Run, line: Mapping[str, Any]) -> int:
    """Return how many steps a training line is the mean of."""
    earlier = [other["step"] for other in run.training if other["step"] < line["step"]]
    return int(line["step"]) - int(max(earlier, default=0))


def _training_charts(run: Run) -> list[str]:
    """Return charts of the loss with its terms, of the learning rate, and of the time of a step."""
    lines = run.training
    if not lines:
        return []
    terms = [name for name, value in lines[-1].items() if name not in _NO_TERMS and isinstance(value, float)]
    return [
        _curves("Loss", lines, ["loss", *terms], lambda line, name: line.get(name), "mean since the last line"),
        _curves("Learning rate", lines, ["lr"], lambda line, name: line.get(name), ""),
        _curves("Time of a step", lines, ["seconds_per_step"], lambda line, name: line.get(name), "seconds"),
    ]


def _validation_charts(run: Run, space: LabelSpace | None) -> list[str]:
    """Return charts of the Dice of organs and of findings."""
    lines = run.validations
    keys = list(dict.fromkeys(key for line in lines for key in line["validation"]))
    known = {} if space is None else {structure.key: structure for structure in space.structures}
    findings = [key for key in keys if key in known and known[key].is_finding]
    organs = [key for key in keys if key not in findings]
    scale = Axis("Dice", 0.0, 1.0)

    def value(line: Mapping[str, Any], key: str) -> float | None:
        if key == _MEAN:
            mean = line.get("mean_dice")
            return None if mean is None else float(mean)
        return line["validation"].get(key)

    charts = []
    for title, chosen in (("Organs", organs), ("Tumors", findings)):
        for start in range(0, len(chosen), _MOST_LINES):
            part = chosen[start : start + _MOST_LINES]
            names = {key: known[key].name if key in known else key for key in part}
            charts.append(_curves(title, lines, part, value, "", scale, names))
    if any("mean_dice" in line for line in lines):
        charts.append(_curves("Mean of all structures", lines, [_MEAN], value, "", scale))
    return charts


def _curves(
    title: str,
    lines: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    value: Callable[[Mapping[str, Any], str], float | None],
    unit: str,
    scale: Axis | None = None,
    names: Mapping[str, str] | None = None,
) -> str:
    """Draw values over steps; a value that is not there is left out."""
    series = []
    for key in keys:
        points = [(float(line["step"]), value(line, key)) for line in lines]
        known = [(step, float(found)) for step, found in points if found is not None and math.isfinite(found)]
        series.append(Series((names or {}).get(key, key), known))
    last = float(lines[-1]["step"])
    if scale is None:
        values = [found for line in series for _, found in line.points]
        around = axis_around(unit, values)
        # From zero, so that a curve does not look steeper than it is.
        scale = Axis(unit, min(0.0, around.low), around.high)
    return line_chart(title, series, Axis("step", 0.0, max(1.0, last)), scale)
