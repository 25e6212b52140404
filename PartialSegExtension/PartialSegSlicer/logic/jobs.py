"""A job: one piece of long work, what is known of it, and whom to tell.

A job is started by :class:`~PartialSegSlicer.logic.session.Session`, goes on whenever the session is
polled, and ends exactly once: finished, failed or cancelled. Whatever happens in its own steps, it
ends with an error that can be shown, and the next job can begin.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from PartialSegLib.errors import CancelledError, PartialSegError
from PartialSegLib.progress import Progress
from PartialSegSlicer.translation import translate
from PartialSegWorker.errors import CANCELLED, DEFECT, WorkerError
from PartialSegWorker.texts import CONTEXT, DEFECT_HINT

if TYPE_CHECKING:
    from PartialSegSlicer.logic.session import Session

Outcome = TypeVar("Outcome")


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Listeners:
    """Whom a job tells, in the thread that polls; each may be left out.

    Parameters
    ----------
    onProgress : callable, optional
        Called with each :class:`~PartialSegLib.progress.Progress`.
    onFinished : callable, optional
        Called with the result.
    onError : callable, optional
        Called with the :class:`~PartialSegLib.errors.PartialSegError`; its code is ``cancelled`` when
        the user stopped the job.
    """

    onProgress: Callable[[Progress], object] | None = None
    onFinished: Callable[[Any], object] | None = None
    onError: Callable[[PartialSegError], object] | None = None

    @property
    def any(self) -> bool:
        """Whether somebody listens: then the work is not waited for."""
        return any(item is not None for item in (self.onProgress, self.onFinished, self.onError))


class Job(Generic[Outcome]):
    """Base of all jobs.

    Parameters
    ----------
    listeners : Listeners, optional
        Whom to tell.
    """

    #: What it is, in a word.
    kind = "job"

    def __init__(self, listeners: Listeners | None = None) -> None:
        self.state = JobState.WAITING
        self.progress: Progress | None = None
        self.result: Outcome | None = None
        self.error: PartialSegError | None = None
        self._listeners = listeners or Listeners()

    @property
    def heard(self) -> bool:
        """Whether somebody listens: then nobody waits for it."""
        return self._listeners.any

    @property
    def ended(self) -> bool:
        """Whether it is finished, failed or cancelled."""
        return self.state in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)

    def prepare(self, session: Session) -> None:
        """Check everything that can be checked now; called before anything else, and may raise."""

    def begin(self, session: Session) -> None:
        """Send the first request. What it raises ends the job."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Ask it to stop; it ends through :meth:`Session.poll` within a second or a window."""
        raise NotImplementedError

    def look(self) -> None:
        """Do what is due; the session calls this at every poll."""

    def release(self, *, succeeded: bool) -> None:
        """Let go of files and observers, and take back what was begun unless it succeeded; called once."""

    def start(self, session: Session) -> None:
        """Prepare and begin; for the session.

        Raises
        ------
        PartialSegError
            When something is wrong with what was asked. The job has ended then, and tells nobody.
        """
        try:
            self.prepare(session)
            self.state = JobState.RUNNING
            self.begin(session)
        except PartialSegError as error:
            self._end(JobState.FAILED, error)
            raise
        except Exception as error:
            # A defect is the caller's to see, but the next job must be able to begin.
            self._end(JobState.FAILED, _defect(error))
            raise

    def report(self, progress: Progress) -> None:
        """Take note of progress, and tell it."""
        if self.ended:
            return
        self.progress = progress
        if self._listeners.onProgress is not None:
            self._listeners.onProgress(progress)

    def succeed(self, result: Outcome) -> None:
        """End well, unless it has ended already."""
        if self.ended:
            return
        self.result = result
        self._end(JobState.FINISHED, None)
        if self._listeners.onFinished is not None:
            self._listeners.onFinished(result)

    def fail(self, error: PartialSegError) -> None:
        """End with an error, unless it has ended already."""
        if self.ended:
            return
        self._end(JobState.CANCELLED if error.code == CANCELLED else JobState.FAILED, error)
        if self._listeners.onError is not None:
            self._listeners.onError(error)

    def abandon(self, reason: str) -> None:
        """End as cancelled at once; whatever the worker still answers is not looked at."""
        self.fail(CancelledError(reason))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Make an error of the steps within the error of the job; a defect too, with its traceback.

        Callbacks are called outside of it: what they raise is their caller's to see.
        """
        problem: PartialSegError
        try:
            yield
            return
        except PartialSegError as error:
            problem = error
        except Exception as error:
            # Nothing may leave a job that never ends: the cause is reported, not lost.
            problem = _defect(error)
        self.fail(problem)

    def _end(self, state: JobState, error: PartialSegError | None) -> None:
        self.state, self.error = state, error
        if isinstance(error, WorkerError):
            error.translate(partial(translate, CONTEXT))
        try:
            self.release(succeeded=state is JobState.FINISHED)
        except PartialSegError as problem:
            # What could not be taken back is said with what went wrong first.
            if error is not None:
                error.hint = f"{error.hint} {problem}".strip()
            if isinstance(error, WorkerError):
                error.original = f"{error.original} {problem}"


def _defect(error: Exception) -> WorkerError:
    return WorkerError(
        DEFECT,
        f"{type(error).__name__}: {error}",
        DEFECT_HINT,
        traceback="".join(traceback.format_exception(error)),
    )
