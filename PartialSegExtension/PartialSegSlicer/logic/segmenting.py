"""Segmenting for the panel, the console and scripts: runs, forecasts, folders, undo; and how work is waited for.

Every method that takes long either waits and returns its result, or, when one of ``onProgress``,
``onFinished`` and ``onError`` is given, returns a :class:`~PartialSegSlicer.logic.jobs.Job` at once and
goes on whenever :meth:`SegmentingLogic.poll` is called. No method shows a dialog; what is wrong with a
call is raised as a :class:`~PartialSegLib.errors.PartialSegError`, with a hint what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PartialSegLib import catalog
from PartialSegLib.batch.contract import Outcome as ScanOutcome
from PartialSegLib.batch.reports import BatchReport
from PartialSegLib.errors import PartialSegError
from PartialSegLib.progress import Progress
from PartialSegSlicer.logic.errors import EditsError
from PartialSegSlicer.logic.folders import FolderJob
from PartialSegSlicer.logic.interpreter import Interpreter
from PartialSegSlicer.logic.jobs import Job, Listeners
from PartialSegSlicer.logic.questions import Question
from PartialSegSlicer.logic.regions import regionOfNode
from PartialSegSlicer.logic.results import SegmentResult, StructureRow
from PartialSegSlicer.logic.runs import RunSettings, SegmentRun
from PartialSegSlicer.logic.sequencerun import SequenceResult, SequenceRun
from PartialSegSlicer.logic.session import Session
from PartialSegSlicer.logic.settings import chosenTasks, presetOf
from PartialSegSlicer.logic.undoing import UndoneRuns
from PartialSegSlicer.translation import tr as _
from PartialSegWorker.parameters import ForecastParameters
from PartialSegWorker.protocol import Message

OnProgress = Callable[[Progress], object] | None
OnFinished = Callable[[Any], object] | None
OnError = Callable[[PartialSegError], object] | None
Outcome = TypeVar("Outcome")


class _Unload(Question):
    """Frees the memory of the worker; where there is no worker, none is started for it."""

    def begin(self, session: Session) -> None:
        """Send the request."""
        self._session = session
        if session.running:
            super().begin(session)

    def look(self) -> None:
        """End when there is nobody to ask."""
        if self._request is None and not self.ended:
            self._answered({})

    def read(self, answer: Message) -> Message:
        """Delete the copy of the volume, which nobody asks about any more."""
        assert self._session is not None
        self._session.forgetScans()
        return answer


class SegmentingLogic:
    """The part of the logic that segments.

    Parameters
    ----------
    python : str or Path, optional
        Python of the worker; what the settings say without it, and Slicer's own without those.
    """

    def __init__(self, python: str | Path | None = None) -> None:
        self.interpreter = Interpreter(python)
        self.session = Session(self.interpreter.connect)
        self._undoable = UndoneRuns()

    # ---- work in general

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self.session.busy

    @property
    def job(self) -> Job[Any] | None:
        """The job that runs, or the one that ran last."""
        return self.session.job

    def poll(self) -> None:
        """Take what the worker sent, and call the callbacks. Called by a timer; never waits."""
        self.session.poll()

    def cancel(self) -> None:
        """Stop the running job, if there is one; it ends through :meth:`poll` within a second or a window."""
        self.session.cancel()

    def close(self) -> None:
        """End the worker; a running job ends as cancelled, and takes back what it had begun."""
        self.session.close()

    def unload(self, onFinished: OnFinished = None, onError: OnError = None) -> Any:
        """Free the memory of the worker (its model, its volume and its features), and the copy of the volume.

        Raises
        ------
        BusyError
            When a job is running.
        """
        return self._asked(_Unload("unload", None, Listeners(None, onFinished, onError)), job=True)

    # ---- segmenting

    def segment(
        self,
        volumeNode: Any,
        tasks: Sequence[str] | str | None = None,
        segmentationNode: Any = None,
        model: str | None = None,
        device: str = "auto",
        quality: str = "standard",
        region: Any = None,
        overlap: str = "keep",
        uncertainty: bool = False,
        preview: bool = False,
        onProgress: OnProgress = None,
        onPartial: Callable[[StructureRow], object] | None = None,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> SegmentResult | Job[SegmentResult]:
        """Segment a volume.

        Segments of the chosen structures are replaced in place; all others, and those that are marked
        as completed or edited meanwhile, keep every voxel unless `overlap` says otherwise. A run that
        does not come to its end changes nothing.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
            Any orientation; under any linear transform.
        tasks : sequence of str, optional
            Keys of tasks or structures; all of the model without it.
        segmentationNode : vtkMRMLSegmentationNode, optional
            Where to; a new one beside the volume without it.
        model : str, optional
            Name or folder of a model; the default one without it.
        device : str
            ``auto``, ``cpu``, ``cuda:0`` ...
        quality : str
            ``fast``, ``standard`` or ``best``.
        region : vtkMRMLMarkupsROINode, optional
            Look only here; outside, segments keep their voxels.
        overlap : str
            ``keep``, ``replace others`` or ``only unlocked``.
        uncertainty : bool
            Also measure how sure the network is of each structure, as a volume node too.
        preview : bool
            Show voxels as they are found, slab by slab and not yet mended, in a segmentation of their own
            that goes when the result comes.
        onProgress, onFinished, onError : callable, optional
            See the module; `onFinished` gets the :class:`SegmentResult`.
        onPartial : callable, optional
            Called with a :class:`StructureRow` when a structure has appeared before the others.

        Returns
        -------
        SegmentResult or Job

        Raises
        ------
        PartialSegError
            When the call is wrong; when it waits, also when the run fails or is cancelled.
        """
        settings = RunSettings(tasks, model or None, device, quality, overlap, uncertainty, preview)
        listeners = Listeners(onProgress, self._undoable.noting(onFinished), onError)
        run = SegmentRun(volumeNode, segmentationNode, settings, region, listeners, onPartial)
        self.session.start(run)
        return self._waited(run, onProgress, onFinished, onError)

    def segmentSequence(
        self,
        volumeNode: Any,
        tasks: Sequence[str] | str | None = None,
        model: str | None = None,
        device: str = "auto",
        quality: str = "standard",
        region: Any = None,
        onProgress: OnProgress = None,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> SequenceResult | Job[SequenceResult]:
        """Segment all frames of the sequence that a volume shows (4D CT), one after another.

        The segmentations become a sequence of their own, in step with the volumes in the same browser; a
        frame that is corrected keeps its corrections. Everything else in the scene stays as it is, and
        :meth:`undoLastRun` removes all frames again. A run that does not come to its end leaves nothing.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
            Proxy of the sequence; all frames lie on one grid.
        tasks, model, device, quality, region, onProgress, onFinished, onError
            As for :meth:`segment`.

        Returns
        -------
        SequenceResult or Job

        Raises
        ------
        ImageError
            When the volume shows no sequence, or a frame cannot be segmented.
        PartialSegError
            As :meth:`segment`.
        """
        settings = RunSettings(tasks, model or None, device, quality)
        listeners = Listeners(onProgress, self._undoable.noting(onFinished), onError)
        run = SequenceRun(volumeNode, settings, region, listeners)
        self.session.start(run)
        return self._waited(run, onProgress, onFinished, onError)

    @property
    def canUndo(self) -> bool:
        """Whether there is a run that :meth:`undoLastRun` can take back."""
        return self._undoable.possible

    def undoLastRun(self, discardEdits: bool = False) -> None:
        """Put back what was there before the last run, be it over one volume or over all frames of a sequence.

        Parameters
        ----------
        discardEdits : bool
            Whether segments that somebody edited since the run are put back too.

        Raises
        ------
        EditsError
            When segments were edited since the run; it names them. Nothing has changed then.
        SegmentationError
            When there is no run to undo, or its segmentation was removed.
        BusyError
            When a job is running.
        """
        self.session.requireIdle(_("Undo has to wait: another job ({job}) is running."))
        edited = self._undoable.edited()
        if edited and not discardEdits:
            raise EditsError(
                _("Edited since the run: {names}. An undo would lose these edits.").format(names=", ".join(edited)),
                _("Mark those that are to stay as completed, or undo nevertheless."),
                edited,
            )
        self._undoable.undo()

    def forecast(
        self,
        volumeNode: Any,
        tasks: Sequence[str] | str | None = None,
        model: str | None = None,
        device: str = "auto",
        quality: str = "standard",
        region: Any = None,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> Any:
        """Return the memory and the time that a run would take, and how it would be run.

        Returns
        -------
        dict
            ``device``, ``plan``, ``windows``, ``seconds``, ``host_bytes``, ``device_bytes``.
        """
        self.session.requireIdle(_("A forecast has to wait: another job ({job}) is running."))
        chosen = chosenTasks(tasks)
        bundle = catalog.find(model or None)
        bundle.card.label_space.select(chosen)
        box = None if region is None else list(regionOfNode(region))
        file = self.session.scans.of(volumeNode).file
        keys = None if chosen is None else list(chosen)
        wanted = ForecastParameters(str(file), str(bundle.folder), keys, presetOf(quality), device, region=box)
        return self._asked(Question("forecast", wanted, Listeners(None, onFinished, onError)))

    def devices(self, onFinished: OnFinished = None, onError: OnError = None) -> Any:
        """Return the devices that a run can use.

        Returns
        -------
        dict
            ``torch`` (its version) and ``devices``: ``key``, ``name`` and ``free_bytes`` of each.

        Raises
        ------
        WorkerError
            With the code ``installation`` when torch cannot be loaded: see :meth:`setupState`.
        """
        return self._asked(Question("devices", None, Listeners(None, onFinished, onError)))

    def segmentFolder(
        self,
        inputFolder: str | Path,
        outputFolder: str | Path,
        tasks: Sequence[str] | str | None = None,
        model: str | None = None,
        device: str = "auto",
        quality: str = "standard",
        overwrite: bool = False,
        onProgress: OnProgress = None,
        onCase: Callable[[ScanOutcome], object] | None = None,
        onFinished: OnFinished = None,
        onError: OnError = None,
    ) -> BatchReport | Job[BatchReport]:
        """Segment every scan of a folder to files; done ones are skipped, broken ones reported.

        It is the batch of the command line: each can go on where the other stopped.

        Parameters
        ----------
        inputFolder : str or Path
            Image files, and folders with one DICOM series each.
        outputFolder : str or Path
            Made when missing; takes ``NAME.seg.nrrd``, ``report.csv`` and ``report.json``.
        tasks, model, device, quality
            As for :meth:`segment`.
        overwrite : bool
            Whether results that are there, and that these settings did not make, are replaced.
        onCase : callable, optional
            Called with an :class:`~PartialSegLib.batch.Outcome` after each scan.

        Returns
        -------
        BatchReport or Job
        """
        settings = RunSettings(tasks, model or None, device, quality)
        listeners = Listeners(onProgress, onFinished, onError)
        job = FolderJob(inputFolder, outputFolder, settings, overwrite, listeners, onCase)
        self.session.start(job)
        return self._waited(job, onProgress, onFinished, onError)

    # ---- waiting or not

    def _asked(self, question: Question, *, job: bool = False) -> Any:
        """Ask a question, which takes the worker for itself when it is a job."""
        if job:
            self.session.start(question)
        else:
            self.session.ask(question)
        return question if question.heard else self.session.finish(question)

    def _waited(self, job: Job[Outcome], *callbacks: object) -> Outcome | Job[Outcome]:
        if any(callback is not None for callback in callbacks):
            return job
        return self.session.finish(job)
