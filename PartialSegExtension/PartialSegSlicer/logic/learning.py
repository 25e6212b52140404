"""Fine-tuning: training cases to the worker, and a new model that is kept or discarded.

The new model waits until somebody decides, also when Slicer is closed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PartialSegLib import catalog
from PartialSegLib.errors import SegmentationError
from PartialSegSlicer.logic.casestore import CaseStore, TrainingCase
from PartialSegSlicer.logic.errors import SettingError
from PartialSegSlicer.logic.jobs import Listeners
from PartialSegSlicer.logic.questions import Question
from PartialSegSlicer.translation import tr as _
from PartialSegWorker import undecided
from PartialSegWorker.finetunework import FineTuneParameters
from PartialSegWorker.protocol import Message

#: Ways to fine-tune that the module offers: the head alone, or the whole network.
MODES = ("quick", "full")

#: A training case, by its name, its folder or itself.
CaseLike = str | Path | TrainingCase


@dataclass(frozen=True)
class FineTuneOutcome:
    """A model that was made from corrected cases and waits for a decision.

    Parameters
    ----------
    name : str
        Of the model.
    bundle : Path
        Where it waits.
    mode : str
        One of :data:`MODES`.
    trained : tuple of str
        Structures that were trained.
    before, after : dict of str to float
        Mean Dice of the parent and of the new model by structure.
    regressions : tuple of str
        Other structures that became worse by more than a point.
    better : bool or None
        Whether it became better on cases that it did not learn from; ``None`` without such a case.
    judgedBy : str
        ``held-out``, ``leave-one-out`` or ``nothing``.
    verdict : str
        All of this as a sentence or two, in English, as it is written on the model's card.
    seconds : float
        How long it took.
    """

    name: str
    bundle: Path
    mode: str
    trained: tuple[str, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    regressions: tuple[str, ...]
    better: bool | None
    judgedBy: str
    verdict: str
    seconds: float


@dataclass(frozen=True)
class FineTuneSettings:
    """What is learned; see ``PartialSegLogic.fineTune``."""

    mode: str = "quick"
    model: str | None = None
    name: str | None = None
    structures: Sequence[str] | None = None
    device: str = "auto"
    options: Mapping[str, Any] | None = None
    replay: Iterable[CaseLike] | None = None


class FineTuneJob(Question):
    """Makes a model; its result is a :class:`FineTuneOutcome`.

    Parameters
    ----------
    store : CaseStore
        Where names of cases are looked up.
    cases, heldOut : iterable
        Cases to learn from, and those that both models are judged by.
    settings : FineTuneSettings
    listeners : Listeners, optional
    onLoss : callable, optional
        Called with step and loss after each step.
    onMade : callable, optional
        Called with the outcome, before anybody else.

    Raises
    ------
    PartialSegError
        When a case, the mode or the model does not exist, or a case is in both lists.
    """

    def __init__(
        self,
        store: CaseStore,
        cases: Iterable[CaseLike],
        heldOut: Iterable[CaseLike],
        settings: FineTuneSettings,
        listeners: Listeners | None = None,
        onLoss: Callable[[int, float], object] | None = None,
        onMade: Callable[[FineTuneOutcome], object] | None = None,
    ) -> None:
        if settings.mode not in MODES:
            raise SettingError(
                _("There is no mode '{name}'.").format(name=settings.mode),
                _("Choose from: {names}.").format(names=", ".join(MODES)),
            )
        learned, judged = _found(store, cases), _found(store, heldOut)
        if not learned:
            raise SegmentationError(
                _("There is no training case to learn from."), _("Save corrected segments as one first.")
            )
        both = sorted({case.name for case in learned} & {case.name for case in judged})
        if both:
            raise SettingError(
                _("Cases cannot be learned from and judged by at once: {names}.").format(names=", ".join(both)),
                _("Take them from one list."),
            )
        wanted = FineTuneParameters(
            cases=[str(case.folder) for case in learned],
            model=str(catalog.find(settings.model or None).folder),
            held_out=[str(case.folder) for case in judged],
            replay=[str(case.folder) for case in _replayed(store, settings, [*learned, *judged])],
            mode=settings.mode,
            structures=list(settings.structures or dict.fromkeys(key for case in learned for key in case.structures)),
            name=settings.name or None,
            device=settings.device,
            options=None if settings.options is None else dict(settings.options),
        )
        super().__init__("finetune", wanted, listeners)
        self._onLoss, self._onMade = onLoss, onMade

    def listen(self, event: Message) -> None:
        """Pass the loss of a step on."""
        if self._onLoss is not None and event.get("event") == "loss" and event["loss"] is not None:
            self._onLoss(int(event["step"]), float(event["loss"]))

    def read(self, answer: Message) -> FineTuneOutcome:
        """Return what was made."""
        outcome = _outcome(answer)
        if self._onMade is not None:
            self._onMade(outcome)
        return outcome


def waitingOutcomes() -> list[FineTuneOutcome]:
    """Return the models on which nobody has decided yet, the oldest first, whoever made them."""
    found = []
    for told in undecided.waiting():
        # Of another version of the module: there is nothing to show of it.
        with suppress(KeyError, TypeError, ValueError):
            found.append(_outcome(told))
    return found


def requireUndecided(outcome: FineTuneOutcome) -> None:
    """Refuse a model that nobody can decide on any more.

    Raises
    ------
    SegmentationError
        When it was kept or discarded: its folder is gone then.
    """
    if not outcome.bundle.is_dir():
        raise SegmentationError(
            _("The model '{name}' does not wait for a decision any more.").format(name=outcome.name),
            _("It was kept or discarded since: fine-tune again."),
        )


def _outcome(told: Message) -> FineTuneOutcome:
    return FineTuneOutcome(
        name=str(told["name"]),
        bundle=Path(told["bundle"]),
        mode=str(told["mode"]),
        trained=tuple(told["trained"]),
        before=dict(told["before"]),
        after=dict(told["after"]),
        regressions=tuple(told["regressions"]),
        better=told["better"],
        judgedBy=str(told["judged_by"]),
        verdict=str(told["verdict"]),
        seconds=float(told["seconds"]),
    )


def _replayed(store: CaseStore, settings: FineTuneSettings, used: Sequence[TrainingCase]) -> list[TrainingCase]:
    """Return the earlier cases that a full fine-tuning goes through again."""
    if settings.mode != "full":
        return []
    if settings.replay is not None:
        return _found(store, settings.replay)
    folders = {case.folder for case in used}
    return [case for case in store.all() if case.folder not in folders and not case.problem]


def _found(store: CaseStore, cases: Iterable[CaseLike]) -> list[TrainingCase]:
    found = [_case(store, case) for case in cases]
    damaged = next((case for case in found if case.problem), None)
    if damaged is not None:
        raise SegmentationError(
            _("The training case '{name}' is damaged: {problem}").format(name=damaged.name, problem=damaged.problem),
            _("Remove it."),
        )
    return found


def _case(store: CaseStore, case: CaseLike) -> TrainingCase:
    if isinstance(case, TrainingCase):
        return case
    return store.find(case) if isinstance(case, str) and not Path(case).is_dir() else CaseStore.read(Path(case))
