"""All that the module can do, without Slicer's base class: segmenting, models, training cases, fine-tuning, setup.

See :mod:`PartialSegSlicer.logic.segmenting` for how work is waited for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PartialSegLib.errors import PartialSegError
from PartialSegSlicer.logic import models
from PartialSegSlicer.logic.casestore import CaseStore, TrainingCase
from PartialSegSlicer.logic.console import codeOf
from PartialSegSlicer.logic.diagnostics import describe
from PartialSegSlicer.logic.errors import ConsentError
from PartialSegSlicer.logic.jobs import Listeners
from PartialSegSlicer.logic.learning import (
    CaseLike,
    FineTuneJob,
    FineTuneOutcome,
    FineTuneSettings,
    requireUndecided,
    waitingOutcomes,
)
from PartialSegSlicer.logic.questions import Question
from PartialSegSlicer.logic.segmenting import OnError, OnFinished, OnProgress, SegmentingLogic
from PartialSegSlicer.logic.setup import SetupQuestion, SetupState, install
from PartialSegSlicer.segments import markCompleted
from PartialSegSlicer.translation import tr as _
from PartialSegWorker.finetunework import DiscardParameters, KeepParameters
from PartialSegWorker.protocol import Message


class _Keep(Question):
    """Installs a new model; its result is the name of the model."""

    def read(self, answer: Message) -> str:
        """Return the name."""
        return str(answer["model"])


class HeadlessLogic(SegmentingLogic):
    """What the module can do.

    Parameters
    ----------
    python : str or Path, optional
        Python of the worker; what the settings say without it, and Slicer's own without those.
    casesFolder : Path, optional
        Where training cases are kept, in place of the user's folder.
    """

    def __init__(self, python: str | Path | None = None, casesFolder: Path | None = None) -> None:
        super().__init__(python)
        self.cases = CaseStore(casesFolder)
        self._made: list[FineTuneOutcome] = []

    # ---- models

    def models(self) -> dict[str, Any]:
        """Return the models that are there and those that can be downloaded, as :func:`~.models.listModels` does."""
        return models.listModels()

    def importModel(
        self,
        path: str | Path,
        name: str | None = None,
        overwrite: bool = False,
        onProgress: OnProgress = None,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> Any:
        """Turn a published checkpoint, or a model that somebody shared, into installed models; return their names."""
        listeners = Listeners(onProgress, onFinished, onError)
        return self._asked(models.ImportJob(path, name, overwrite, listeners), job=True)

    def downloadModel(
        self,
        name: str,
        licenseAccepted: bool = False,
        onProgress: OnProgress = None,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> Any:
        """Download a published model and install it; return its name.

        Raises
        ------
        LicenseError
            When the license was not accepted; nothing is fetched then.
        """
        listeners = Listeners(onProgress, onFinished, onError)
        return self._asked(models.DownloadJob(name, licenseAccepted, listeners), job=True)

    def removableModel(self, name: str) -> str:
        """Return what :meth:`removeModel` would delete, for the question that is asked before."""
        return models.describeRemoval(name)

    def removeModel(self, name: str) -> None:
        """Delete an installed model.

        Raises
        ------
        BundleError
            When there is none of this name, or it came with the library.
        BusyError
            When a job is running.
        """
        self.session.requireIdle(_("Deleting a model has to wait: another job ({job}) is running."))
        # Windows deletes no file that the worker has mapped.
        self.unload()
        models.removeModel(name)

    # ---- training cases

    def markCorrected(self, segmentationNode: Any, segmentID: str, corrected: bool = True) -> None:
        """Mark a segment as corrected by a person, or take the mark back; no run changes a marked one."""
        markCompleted(segmentationNode, segmentID, corrected)

    def saveTrainingCase(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        structures: Sequence[str] | None = None,
        name: str | None = None,
        replace: bool = False,
    ) -> TrainingCase:
        """Keep corrected segments for training; see :meth:`CaseStore.save`."""
        return self.cases.save(volumeNode, segmentationNode, structures, name, replace=replace)

    def trainingCases(self) -> list[TrainingCase]:
        """Return the training cases by name."""
        return self.cases.all()

    def removeTrainingCase(self, name: str) -> None:
        """Delete a training case; :class:`SegmentationError` when there is none of this name."""
        self.cases.remove(name)

    # ---- fine-tuning

    @property
    def canFineTune(self) -> bool:
        """Whether the training library is there, as the worker says while one is running."""
        hello = self.session.client.hello if self.session.running else None
        if hello is not None:
            return "finetune" in hello.get("capabilities", ())
        return importlib.util.find_spec("PartialSegTraining") is not None

    def fineTune(
        self,
        cases: Iterable[CaseLike],
        mode: str = "quick",
        heldOut: Iterable[CaseLike] = (),
        model: str | None = None,
        name: str | None = None,
        structures: Sequence[str] | None = None,
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
        replay: Iterable[CaseLike] | None = None,
        onProgress: OnProgress = None,
        onLoss: Callable[[int, float], object] | None = None,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> Any:
        """Make a model from training cases; it waits for :meth:`keepModel` or :meth:`discardModel`.

        Parameters
        ----------
        cases : iterable
            Names of training cases, their folders, or what :meth:`trainingCases` returned.
        mode : str
            ``quick`` (the head alone, a minute) or ``full`` (the whole network).
        heldOut : iterable
            Cases that both models are judged by.
        model : str, optional
            The parent; the default model without it.
        name : str, optional
            Of the new model.
        structures : sequence of str, optional
            Keys of the structures to learn; all that the cases annotate without it. One that the
            parent does not know becomes a task of its own.
        device : str
            As for :meth:`segment`.
        options : dict, optional
            Further ``FineTuneOptions`` of the training library by their names: ``steps``, ``batch`` ...
        replay : iterable, optional
            Cases that ``full`` goes through again so that other tasks do not fade; all other training
            cases without it.
        onLoss : callable, optional
            Called with step and loss.

        Returns
        -------
        FineTuneOutcome or Job
        """
        settings = FineTuneSettings(mode, model, name, structures, device, options, replay)
        listeners = Listeners(onProgress, onFinished, onError)
        job = FineTuneJob(self.cases, cases, heldOut, settings, listeners, onLoss, self._made.append)
        return self._asked(job, job=True)

    @property
    def undecided(self) -> tuple[FineTuneOutcome, ...]:
        """The new models that wait for :meth:`keepModel` or :meth:`discardModel`, also from earlier days."""
        # Those that could not be written beside the installed models are known to this logic alone.
        known = {outcome.bundle: outcome for outcome in (*waitingOutcomes(), *self._made)}
        return tuple(outcome for outcome in known.values() if outcome.bundle.is_dir())

    def keepModel(
        self,
        outcome: FineTuneOutcome,
        overwrite: bool = False,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> Any:
        """Install a new model, so that it can be chosen; return its name.

        Raises
        ------
        SegmentationError
            When it does not wait for a decision any more.
        WorkerError
            When a model of its name is installed and is not to be replaced; it then goes on waiting.
        BusyError
            When a job is running.
        """
        requireUndecided(outcome)
        wanted = KeepParameters(str(outcome.bundle), overwrite)
        return self._asked(_Keep("keep", wanted, Listeners(None, onFinished, onError)), job=True)

    def discardModel(self, outcome: FineTuneOutcome, onFinished: OnFinished = None, onError: OnError = None) -> Any:
        """Delete a new model.

        Raises
        ------
        SegmentationError
            When it does not wait for a decision any more.
        BusyError
            When a job is running.
        """
        requireUndecided(outcome)
        wanted = DiscardParameters(str(outcome.bundle))
        return self._asked(Question("discard", wanted, Listeners(None, onFinished, onError)), job=True)

    # ---- setup

    @property
    def python(self) -> str:
        """Python of the worker."""
        return self.interpreter.path

    def setPython(self, python: str | Path = "") -> None:
        """Run the worker in another Python from now on; in Slicer's own again with an empty text.

        Raises
        ------
        SettingError
            When there is no such program.
        BusyError
            When a job is running.
        """
        self.session.requireIdle(_("Another Python has to wait: another job ({job}) is running."))
        self.interpreter.choose(python)
        self.session.close()

    def setupState(self, onFinished: OnFinished = None, onError: OnError = None) -> Any:
        """Return whether the worker's Python has what it needs, as that Python itself says: a :class:`SetupState`."""
        return self._asked(SetupQuestion(self.interpreter, Listeners(None, onFinished, onError)))

    def repair(
        self,
        consent: bool = False,
        log: Callable[[str], object] | None = None,
        progress: bool = False,
    ) -> SetupState:
        """Install what is missing into Slicer's own Python; return how it is afterwards.

        Parameters
        ----------
        consent : bool
            Whether the user has agreed to what :meth:`setupState` says is missing.
        log : callable, optional
            Called with a line before each step.
        progress : bool
            Whether Slicer may show its window with the progress of pip; without it no window is shown.

        Raises
        ------
        ConsentError
            When something is missing and nobody agreed; nothing was installed then.
        SetupError
            When it could not be installed.
        BusyError
            When a job is running.
        """
        state: SetupState = self.setupState()
        if state.ready:
            return state
        if not consent:
            raise ConsentError(
                _("{reason} Nothing was installed.").format(reason=state.sentence), _("Agree to it (consent=True).")
            )
        # The worker holds files of torch, which Windows replaces only when nobody does.
        self.session.close()
        install(state, log, progress=progress)
        after: SetupState = self.setupState()
        return after

    # ---- for people

    def copyAsPython(self, parameterNode: Any) -> str:
        """Return code for the console that does what the panel would do now."""
        return codeOf(parameterNode)

    def diagnostics(self, error: PartialSegError | None = None) -> str:
        """Return the text that a report of a problem needs: of `error`, or else of that of the last job."""
        client = self.session.client if self.session.running else None
        return describe(self.interpreter, client, self.session.job, error)
