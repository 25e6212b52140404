"""Is the new model better, and does it cost anything: Dice before and after, the gate, and a verdict in words.

Called by :mod:`PartialSegTraining.finetuning.session`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.inference import Predictor
from PartialSegLib.metrics import dice
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import PackedMask
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cases import Case
from PartialSegTraining.finetuning.contract import TOLERANCE


@dataclass(frozen=True)
class Judgment:
    """What became of the structures.

    Parameters
    ----------
    before, after : dict of str to float
        Mean Dice by structure.
    regressions : tuple of str
        Structures that were not trained and lost more than the tolerance.
    better : bool or None
        Whether the trained ones gained; ``None`` when no case could tell.
    judged_by : str
        ``held-out``, ``leave-one-out`` or ``nothing``.
    verdict : str
        In words.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    regressions: tuple[str, ...]
    better: bool | None
    judged_by: str
    verdict: str


def mean_dice(
    bundle: ModelBundle,
    cases: Sequence[Case],
    structures: Collection[str],
    *,
    device: str = "auto",
    preset: str = "standard",
    monitor: Monitor | None = None,
    stage: str = "judge",
) -> dict[str, float]:
    """Segment whole cases and return the mean Dice of each structure.

    Parameters
    ----------
    bundle : ModelBundle
        The model.
    cases : sequence of Case
        Each is judged by the structures that it annotates; where one is absent and not found either, it
        says nothing.
    structures : collection of str
        Those of interest; what the model does not know is left out.
    device, preset : str
        As :class:`Predictor` takes them.
    monitor : Monitor, optional
        Told about every case.
    stage : str
        Name of the work for it.
    """
    space = bundle.card.label_space
    wanted = [key for key in space.select() if key in structures]
    judged = [case for case in cases if case.annotated.intersection(wanted)]
    if not judged:
        return {}
    monitor, predictor = monitor or Monitor(), Predictor(bundle, device)
    found: dict[str, list[float]] = {}
    monitor.step(stage, 0, len(judged))
    for done, case in enumerate(judged, 1):
        image, masks = case.load()
        keys = [key for key in wanted if key in masks]
        segmentation = predictor.segment(image, keys, preset, monitor=monitor.silent()).segmentation
        unknown = case.unknown(image.geometry)
        if unknown is not None:
            segmentation = segmentation.without(PackedMask.from_array(unknown))
        for key in keys:
            truth = PackedMask.from_array(masks[key])
            if truth.count or segmentation.masks[key].count:
                found.setdefault(key, []).append(dice(segmentation.masks[key], truth))
        monitor.step(stage, done, len(judged))
    return {key: round(fmean(found[key]), 4) for key in wanted if key in found}


def judge(
    space: LabelSpace,
    trained: Sequence[str],
    before: Mapping[str, float],
    after: Mapping[str, float],
    judged_by: str,
    *,
    kept: bool = False,
) -> Judgment:
    """Weigh what was gained and what was lost.

    Parameters
    ----------
    space : LabelSpace
        For the names of structures.
    trained : sequence of str
        Structures that were trained.
    before, after : mapping of str to float
        Mean Dice; a new structure is in `after` only.
    judged_by : str
        What the trained structures were judged by.
    kept : bool
        Whether all other tasks answer with the same bits as before.
    """
    gains = {key: after[key] - before.get(key, 0.0) for key in trained if key in after}
    others = {key: after[key] - before[key] for key in after if key in before and key not in trained}
    regressions = tuple(key for key in space.select() if others.get(key, 0.0) < -TOLERANCE)
    better = None if not gains or judged_by == "nothing" else fmean(gains.values()) > 0.0
    words = [_of_trained(space, trained, before, after, better, judged_by)]
    if regressions:
        lost = ", ".join(f"{space.structure(key).name} {100 * others[key]:+.1f}" for key in regressions)
        words.append(f"It costs other structures Dice points: {lost}; the parent stays the better choice for those.")
    elif kept:
        words.append("Every other task answers as before, bit for bit.")
    elif others:
        words.append(f"No other structure lost more than {100 * TOLERANCE:.0f} Dice point.")
    else:
        words.append("Nobody knows what became of other structures: no case shows them.")
    return Judgment(dict(before), dict(after), regressions, better, judged_by, " ".join(words))


def _of_trained(
    space: LabelSpace,
    trained: Sequence[str],
    before: Mapping[str, float],
    after: Mapping[str, float],
    better: bool | None,
    judged_by: str,
) -> str:
    """Say what became of the structures that were trained."""
    if better is None:
        return "Whether it became better is not known: no case was held out that shows what was trained."
    figures = []
    for key in trained:
        if key in after:
            now, name = f"{after[key]:.3f}", space.structure(key).name
            figures.append(f"{name} {before[key]:.3f} to {now}" if key in before else f"{name} {now} (new)")
    cases = "cases left out in turn" if judged_by == "leave-one-out" else "held-out cases"
    outcome = "Better" if better else "WORSE"
    return f"{outcome} than its parent on {cases}, by Dice: {', '.join(figures)}."
