"""The session: one worker, one job at a time, and small questions in between.

The module's logic keeps one for as long as it lives. The panel calls :meth:`Session.poll` from a
timer and nothing else does; a script that gave no callbacks waits in :meth:`Session.finish`. No
thread, no Qt, no dialog.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PartialSegSlicer.logic.errors import BusyError
from PartialSegSlicer.logic.jobs import Job
from PartialSegSlicer.logic.questions import Question
from PartialSegSlicer.logic.scanfiles import ScanFiles
from PartialSegSlicer.translation import tr as _
from PartialSegWorker.client import WorkerClient

Outcome = TypeVar("Outcome")

#: Seconds between two looks at the worker while something is waited for.
_TICK = 0.02


class Session:
    """What lives as long as the module.

    Parameters
    ----------
    connect : callable
        Makes the client of a worker, when the first one is needed and after :meth:`close`: so another
        Python takes effect without a restart.
    """

    def __init__(self, connect: Callable[[], WorkerClient]) -> None:
        self._connect = connect
        self._client: WorkerClient | None = None
        self._scans: ScanFiles | None = None
        self._questions: list[Question] = []
        self._numbers = 0
        #: The job that runs, or the one that ran last.
        self.job: Job | None = None

    @property
    def client(self) -> WorkerClient:
        """The client, made when it is needed."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    @property
    def scans(self) -> ScanFiles:
        """Files of the volumes that were sent to the worker."""
        folder = self.client.folder
        if self._scans is None or self._scans.folder != folder:
            self._scans = ScanFiles(folder)
        return self._scans

    def forgetScans(self) -> None:
        """Delete the copy of the volume that was sent to the worker."""
        if self._scans is not None:
            self._scans.forget()

    @property
    def running(self) -> bool:
        """Whether a worker process is there."""
        return self._client is not None and self._client.running

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self.job is not None and not self.job.ended

    @property
    def active(self) -> bool:
        """Whether there is anything to poll for."""
        return self.busy or any(not item.ended for item in self._questions)

    def requireIdle(self, sentence: str = "") -> None:
        """Refuse what needs the worker for itself while a job runs.

        Parameters
        ----------
        sentence : str
            What to say then, with the placeholder ``job``.

        Raises
        ------
        BusyError
        """
        if self.busy:
            assert self.job is not None
            sentence = sentence or _("This has to wait: another job ({job}) is running.")
            raise BusyError(sentence.format(job=_called(self.job.kind)), _("Wait for it, or cancel it."))

    def privateFile(self, ending: str) -> Path:
        """Return a new name in the folder that only this user may enter."""
        self._numbers += 1
        return self.client.folder / f"{self._numbers}{ending}"

    def start(self, job: Job[Outcome]) -> Job[Outcome]:
        """Start a job; return at once.

        Questions that were not answered yet are withdrawn: what somebody waits for goes first.

        Raises
        ------
        BusyError
            When a job runs.
        PartialSegError
            When something is wrong with what was asked; nothing was begun then.
        """
        self.requireIdle()
        for question in self._questions:
            question.cancel()
        self.job = job
        job.start(self)
        return job

    def ask(self, question: Question) -> Question:
        """Ask the worker something that takes a moment; an older question of its kind is withdrawn.

        Raises
        ------
        BusyError
            When a job runs.
        """
        self.requireIdle()
        for older in self._questions:
            if older.kind == question.kind and not older.ended:
                older.cancel()
        self._questions = [item for item in self._questions if not item.ended]
        self._questions.append(question)
        question.start(self)
        return question

    def finish(self, job: Job[Outcome]) -> Outcome:
        """Wait for the end of a job or a question, and return its result.

        Raises
        ------
        PartialSegError
            When it failed or was cancelled.
        """
        try:
            while not job.ended:
                self.poll()
                if not job.ended:
                    time.sleep(_TICK)
        except BaseException:
            # Ctrl+C, or a callback that raised: nobody waits for this job any more. The worker stays, and with
            # it its folder, where a new model may wait for a decision.
            if not job.ended:
                job.cancel()
                job.abandon(_("Stopped: it was interrupted."))
            raise
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    def poll(self) -> None:
        """Take what the worker sent and call the callbacks; never wait for it."""
        if self._client is not None:
            self._client.poll()
        for job in (*self._questions, *([self.job] if self.job is not None else [])):
            if not job.ended:
                job.look()

    def cancel(self) -> None:
        """Ask the running job to stop, if there is one."""
        if self.busy:
            assert self.job is not None
            self.job.cancel()

    def close(self) -> None:
        """End the worker, and with it whatever runs; voxels that were sent to it are deleted.

        The session may be used again.
        """
        job, client, self._client, self._scans = self.job, self._client, None, None
        if client is not None:
            client.close()
        for question in self._questions:
            question.abandon(_("Stopped: the worker was closed."))
        self._questions.clear()
        if job is not None and not job.ended:
            job.abandon(_("Stopped: the worker was closed."))


def _called(kind: str) -> str:
    """Return what people call a job."""
    known = {
        "segment": _("segmenting"),
        "folder": _("segmenting a folder"),
        "finetune": _("fine-tuning"),
        "import": _("importing a model"),
        "download": _("downloading a model"),
        "keep": _("installing the new model"),
        "discard": _("deleting the new model"),
        "unload": _("freeing memory"),
    }
    return known.get(kind, kind)
