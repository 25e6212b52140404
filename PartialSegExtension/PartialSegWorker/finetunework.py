"""Requests that make a model from corrected cases, and that keep or discard it.

The new model is made in the client's private folder, and waits beside the installed models
(:mod:`~PartialSegWorker.undecided`). ``keep`` installs it where the picker shows it, in one step;
``discard`` deletes it. The server calls this in its main thread. Imports no torch by itself, and the
training library only when it is asked to train.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType, NoneType
from typing import TYPE_CHECKING, Any

from PartialSegLib import catalog
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import BundleError, CollectionError
from PartialSegLib.progress import Monitor
from PartialSegWorker import undecided
from PartialSegWorker.errors import InstallationError, ProtocolError
from PartialSegWorker.modelwork import ImportParameters, import_model
from PartialSegWorker.parameters import Parameters
from PartialSegWorker.protocol import Message

if TYPE_CHECKING:
    from PartialSegTraining.cases import Case
    from PartialSegTraining.finetuning import FineTuneEvent, FineTuneOptions

_logger = logging.getLogger(__name__)
#: Folder of new models in the client's private folder.
_MADE = "finetuned"


@dataclass(frozen=True)
class FineTuneParameters(Parameters):
    """What is to be learned, from which cases.

    Parameters
    ----------
    cases : list of str
        Case folders to learn from.
    model : str, optional
        Name or folder of the parent; the default one without it.
    held_out : list of str, optional
        Case folders that both models are judged by, and that neither learns from.
    replay : list of str, optional
        Earlier case folders, with all that they annotate, that ``full`` goes through again so that other
        tasks do not fade.
    mode : str
        ``quick`` (the head alone) or ``full``.
    structures : list of str, optional
        Only these annotations of `cases` are used; all without it. One that the parent does not know
        becomes a task of its own.
    name : str, optional
        Of the new model.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...
    options : dict, optional
        Further :class:`PartialSegTraining.finetuning.FineTuneOptions` by their names.
    """

    cases: list[str]
    model: str | None = None
    held_out: list[str] | None = None
    replay: list[str] | None = None
    mode: str = "quick"
    structures: list[str] | None = None
    name: str | None = None
    device: str = "auto"
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("mode", "device"):
            self._check(name, str)
        for name in ("model", "name"):
            self._check(name, str, NoneType)
        for name in ("cases", "held_out", "replay", "structures"):
            self._check_list(name, str)
        if not self.cases:
            raise ValueError("'cases' is empty")
        if self.options is not None and not isinstance(self.options, dict):
            raise ValueError(f"'options' is {self.options!r}, not names with values")


@dataclass(frozen=True)
class KeepParameters(Parameters):
    """Which undecided model is installed.

    Parameters
    ----------
    bundle : str
        Its folder, as the result of ``finetune`` names it.
    overwrite : bool
        Whether an installed model of that name is replaced.
    """

    bundle: str
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._check("bundle", str)
        self._check("overwrite", bool)


@dataclass(frozen=True)
class DiscardParameters(Parameters):
    """Which undecided model is deleted.

    Parameters
    ----------
    bundle : str
        Its folder, as the result of ``finetune`` names it.
    """

    bundle: str

    def __post_init__(self) -> None:
        self._check("bundle", str)


def training_installed() -> bool:
    """Whether this Python has the training library; nothing is imported to find out."""
    return importlib.util.find_spec("PartialSegTraining") is not None


def fine_tune(
    wanted: FineTuneParameters, private: Path, monitor: Monitor, emit: Callable[[str, Message], None]
) -> Message:
    """Make a model from cases, and judge it.

    Parameters
    ----------
    wanted : FineTuneParameters
        What is to be learned.
    private : Path
        The client's private folder.
    monitor : Monitor
        Progress and cancellation.
    emit : callable
        Called with ``loss`` and its fields after each step.

    Returns
    -------
    dict
        What :meth:`PartialSegTraining.finetuning.FineTuneResult.to_json` gives, and ``name`` of the new
        model, which waits in the folder ``bundle`` to be kept or discarded. Where it cannot be written
        beside the installed models it waits in the private folder, with which it goes.

    Raises
    ------
    InstallationError
        When the training library is not there.
    ProtocolError
        When there is no such option.
    PartialSegError
        Whatever the library raises; nothing is left of the new model then.
    """
    finetuning = _finetuning()
    parent = catalog.find(wanted.model)
    cases = [_case(path, wanted, finetuning) for path in wanted.cases]
    # Whole: what they show beside what is learned tells what the new model costs.
    held_out = [finetuning.read_case_folder(path) for path in wanted.held_out or ()]
    options = _options(wanted, parent, cases, finetuning)

    def tell(event: FineTuneEvent) -> None:
        loss = event.loss if math.isfinite(event.loss) else None
        emit("loss", {"step": event.step, "total": event.total, "loss": loss, "phase": event.phase})

    folder = private / _MADE / secrets.token_hex(4)
    folder.mkdir(parents=True)
    try:
        result = finetuning.finetune(
            parent,
            cases,
            folder,
            mode=wanted.mode,
            held_out=held_out,
            replay=[finetuning.read_case_folder(path) for path in wanted.replay or ()],
            device=wanted.device,
            monitor=monitor,
            options=options,
            listener=tell,
        )
        name = ModelBundle.open(result.bundle).card.name
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    told: Message = _without_nan(result.to_json()) | {"name": name}
    try:
        bundle = undecided.put(result.bundle, told)
    except OSError as error:
        _logger.warning("The new model waits in %s only: %s", folder, error)
        return told
    shutil.rmtree(folder, ignore_errors=True)
    return told | {"bundle": str(bundle)}


def keep_model(wanted: KeepParameters, private: Path, monitor: Monitor) -> Message:
    """Install an undecided model.

    Returns
    -------
    dict
        ``model``: its name.

    Raises
    ------
    BundleError
        When there is no such undecided model, or one of its name is installed; it then stays undecided.
    """
    folder = _undecided(wanted.bundle, private)
    told = import_model(ImportParameters(str(folder), overwrite=wanted.overwrite), monitor)
    undecided.forget(folder.parent)
    return {"model": told["models"][0]}


def discard_model(wanted: DiscardParameters, private: Path) -> Message:
    """Delete an undecided model.

    Raises
    ------
    BundleError
        When there is no such undecided model.
    """
    undecided.forget(_undecided(wanted.bundle, private).parent)
    return {}


def _finetuning() -> ModuleType:
    try:
        from PartialSegTraining import finetuning
    except ImportError as error:
        raise InstallationError(
            f"Models are trained by the training library, which cannot be loaded: {error}.",
            "Install 'partialseg[train]' for the worker's Python, or repair it in the settings.",
        ) from error
    return finetuning


def _options(
    wanted: FineTuneParameters, parent: ModelBundle, cases: Sequence[Case], finetuning: ModuleType
) -> FineTuneOptions:
    """Return the options of a request; structures of the cases that the parent does not know are added to it."""
    known = {field.name for field in fields(finetuning.FineTuneOptions)}
    given = dict(wanted.options or {})
    for name in given:
        if name not in known:
            raise ProtocolError(f"Fine-tuning has no option '{name}'.", f"Options: {', '.join(sorted(known))}.")
    if wanted.name is not None:
        given["name"] = wanted.name
    new = {key for case in cases for key in case.annotated} - set(parent.card.label_space.select())
    given.setdefault("add_structures", sorted(new))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    options: FineTuneOptions = finetuning.FineTuneOptions(**values)
    return options


def _case(path: str, wanted: FineTuneParameters, finetuning: ModuleType) -> Case:
    """Read a case folder to learn from, with the wanted annotations alone."""
    case: Case = finetuning.read_case_folder(path)
    if wanted.structures is None:
        return case
    if not case.annotated & set(wanted.structures):
        raise CollectionError(
            f"Case {path} annotates none of {', '.join(wanted.structures)}.",
            f"Leave it out, or choose from: {', '.join(sorted(case.annotated))}.",
        )
    chosen: Case = finetuning.only_structures(case, wanted.structures)
    return chosen


def _undecided(bundle: str, private: Path) -> Path:
    """Return the folder of an undecided model; refuse any other, because it may be deleted."""
    folder, homes = Path(bundle).resolve(), [home.resolve() for home in (undecided.home(), private / _MADE)]
    if folder.parent.parent not in homes or not folder.is_dir():
        raise BundleError(f"'{bundle}' is no model that waits for a decision.", "Fine-tune again.")
    return folder


def _without_nan(value: Any) -> Any:
    """Return JSON in which what is no number is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
