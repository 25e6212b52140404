"""The trained model on test cases: scores, and pictures of the case that went best and the one that went worst.

Called by the command of the report.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PartialSegLib.errors import MissingExtraError
from PartialSegLib.progress import Monitor
from PartialSegTraining.scoretable import CaseScores, ScoreTable

if TYPE_CHECKING:
    from PartialSegLib.images import Image
    from PartialSegLib.inference import Predictor
    from PartialSegLib.segmentation import Segmentation
    from PartialSegTraining.cases import Case

#: Pixels of a picture: small enough for a page with four of them.
_SIZE = (1280, 720)


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows."""

    path: Path
    caption: str


@dataclass
class Measured:
    """What the test cases told.

    Parameters
    ----------
    table : ScoreTable
        Scores of every case.
    pictures : list of Picture
        Of the best and the worst case, what was found and what is true.
    notes : list of str
        What could not be drawn, and why.
    """

    table: ScoreTable
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def measure(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    *,
    preset: str = "standard",
    pictures: bool = True,
    footer: str = "",
    monitor: Monitor | None = None,
) -> Measured:
    """Run a model over cases, score it, and draw two of them.

    Parameters
    ----------
    predictor : Predictor
        The model, loaded.
    cases : sequence of Case
        At least one.
    folder : Path
        Where pictures are drawn.
    preset : str
        ``fast``, ``standard`` or ``paper``.
    pictures : bool
        Whether to draw any; it needs the extra ``render``.
    footer : str
        Below the pictures, such as ``"Synthetic phantom, not a patient"``.
    monitor : Monitor, optional
        Progress and cancellation.
    """
    from PartialSegTraining.evaluation.scoring import score_model

    monitor = monitor or Monitor()
    monitor.step("measure", 0, len(cases))
    scored: list[CaseScores] = []
    for case in score_model(predictor, cases, preset=preset):
        scored.append(case)
        monitor.step("measure", len(scored), len(cases))
    subject = {"model": predictor.bundle.card.name, "preset": preset, "cases": str(len(cases))}
    found = Measured(ScoreTable(predictor.label_space.structures, tuple(scored), 2.0, subject))
    if pictures:
        by_name = {case.name: case for case in cases}
        for word, name, dice in extremes(scored):
            _draw(predictor, by_name[name], f"{word} case, {name}: mean Dice {dice:.3f}", folder, preset, footer, found)
    return found


def extremes(scored: Sequence[CaseScores]) -> list[tuple[str, str, float]]:
    """Return word, name and mean Dice of the best and the worst case; a single one is both.

    Structures that are rightly absent do not count.
    """
    means = {
        case.name: statistics.fmean(score.dice for score in case.scores if not score.empty)
        for case in scored
        if any(not score.empty for score in case.scores)
    }
    if not means:
        return []
    best, worst = max(means, key=lambda name: means[name]), min(means, key=lambda name: means[name])
    if best == worst:
        return [("Only", best, means[best])]
    return [("Best", best, means[best]), ("Worst", worst, means[worst])]


def _draw(
    predictor: Predictor, case: Case, caption: str, folder: Path, preset: str, footer: str, found: Measured
) -> None:
    """Draw what was found in a case, and what is true; the case is segmented again, not kept in memory."""
    from PartialSegTraining.evaluation.scoring import score_model

    def witness(case: Case, image: Image, prediction: Segmentation, reference: Segmentation) -> None:
        for kind, segmentation in (("found", prediction), ("true", reference)):
            path = folder / f"{case.name}-{kind}.png"
            _render(image, segmentation, path, f"{case.name}, {kind}", footer, found)
            if path.is_file():
                found.pictures.append(Picture(path, f"{caption} ({kind})"))

    for _ in score_model(predictor, [case], preset=preset, witness=witness):
        pass


def _render(image: Image, segmentation: Segmentation, path: Path, title: str, footer: str, found: Measured) -> None:
    from PartialSegLib.rendering import render_overview

    try:
        notes = render_overview(image, segmentation, path, title=title, footer=footer, size=_SIZE)
    except MissingExtraError as error:
        notes = (str(error),)
    found.notes += [note for note in notes if note not in found.notes]
