"""A folder of scans in the module's worker: the batch of the library, worked on by what Slicer has running.

Scans, done-markers and reports are those of :mod:`PartialSegLib.batch`, so that a folder that was begun
here can be finished on the command line, and the other way round. One broken scan stops no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from PartialSegLib import catalog
from PartialSegLib.batch.contract import BatchError, BatchJob, Outcome, Scan
from PartialSegLib.batch.markers import read_marker, write_marker
from PartialSegLib.batch.reports import BatchReport, write_report
from PartialSegLib.batch.scans import Shard, find_scans
from PartialSegLib.progress import Progress
from PartialSegSlicer.logic.jobs import Job, Listeners
from PartialSegSlicer.logic.runs import RunSettings
from PartialSegSlicer.logic.session import Session
from PartialSegSlicer.logic.settings import chosenTasks, presetOf
from PartialSegSlicer.translation import tr as _
from PartialSegWorker.errors import CANCELLED, WORKER_START, InstallationError, ProtocolVersionError, WorkerError
from PartialSegWorker.parameters import SegmentParameters
from PartialSegWorker.protocol import Message
from PartialSegWorker.request import Request

#: Problems that every further scan would have as well.
_HOPELESS = (InstallationError.code, ProtocolVersionError.code, WORKER_START)


class FolderJob(Job[BatchReport]):
    """Segments every scan of a folder, one after the other.

    Parameters
    ----------
    inputFolder : str or Path
        See :func:`PartialSegLib.batch.find_scans`.
    outputFolder : str or Path
        Made when missing; takes ``NAME.seg.nrrd``, ``report.csv`` and ``report.json``.
    settings : RunSettings
    overwrite : bool
        Whether results that are there, and that these settings did not make, are replaced.
    listeners : Listeners, optional
    onCase : callable, optional
        Called with an :class:`~PartialSegLib.batch.Outcome` after each scan.
    """

    kind = "folder"

    def __init__(
        self,
        inputFolder: str | Path,
        outputFolder: str | Path,
        settings: RunSettings,
        overwrite: bool = False,
        listeners: Listeners | None = None,
        onCase: Callable[[Outcome], object] | None = None,
    ) -> None:
        super().__init__(listeners)
        self._input, self._output = Path(inputFolder).expanduser(), Path(outputFolder).expanduser()
        self._settings, self._overwrite, self._onCase = settings, overwrite, onCase
        self._session: Session | None = None
        self._request: Request | None = None
        self._batch: BatchJob | None = None
        self._scans: list[Scan] = []
        self._tasks: list[str] = []
        self._outcomes: dict[str, Outcome] = {}
        self._started = 0.0
        self._stopped = False

    def prepare(self, session: Session) -> None:
        """Check the settings, and find the scans and what is done of them."""
        self._session = session
        bundle = catalog.find(self._settings.model)
        space = bundle.card.label_space
        keys = space.select(chosenTasks(self._settings.tasks))
        self._tasks = list(space.exactly(keys))
        preset = presetOf(self._settings.quality)
        self._batch = BatchJob.of(bundle, self._output, tuple(keys), preset=preset, device=self._settings.device)
        self._scans = find_scans(self._input)
        earlier = {scan.name: read_marker(self._batch, scan) for scan in self._scans}
        self._outcomes = {name: outcome for name, outcome in earlier.items() if outcome is not None}
        self._requireFree()
        try:
            self._output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BatchError(
                _("{folder} cannot be made: {reason}.").format(folder=self._output, reason=error.strerror),
                _("Choose another folder."),
            ) from error

    def begin(self, session: Session) -> None:
        """Write the report once, so that a folder that cannot take it is found now; then begin."""
        write_report(self._report())
        self._next()

    def cancel(self) -> None:
        """Stop the scan that runs; those that are done stay."""
        self._stopped = True
        if self._session is not None and self._request is not None and not self.ended:
            self._session.client.cancel(self._request)

    def _requireFree(self) -> None:
        """Refuse to replace what these settings did not make.

        Raises
        ------
        BatchError
        """
        assert self._batch is not None
        targets = [self._batch.target(scan) for scan in self._scans if scan.name not in self._outcomes]
        taken = next((target for target in targets if target.exists()), None)
        if taken is not None and not self._overwrite:
            raise BatchError(
                _("'{file}' is there already, made with other settings, of another scan, or by somebody else.").format(
                    file=taken
                ),
                _("Choose an empty folder, or allow that such results are replaced (overwrite=True)."),
            )

    def _next(self) -> None:
        """Send the next scan that is not done, or end."""
        waiting = [scan for scan in self._scans if scan.name not in self._outcomes]
        self.report(Progress("scans", len(self._scans) - len(waiting), len(self._scans), None))
        if self.ended:
            return
        if not waiting:
            self.succeed(self._report())
            return
        assert self._session is not None
        assert self._batch is not None
        scan = waiting[0]
        self._started = time.monotonic()
        self._request = self._session.client.request(
            "segment",
            SegmentParameters(
                image=str(scan.path),
                model=str(self._batch.model),
                tasks=self._tasks,
                preset=self._batch.preset,
                device=self._batch.device,
                output=str(self._batch.target(scan)),
            ),
            done=lambda answer: self._done(scan, answer),
            failed=lambda error: self._failed(scan, error),
            progress=self.report,
        )
        if self._stopped:
            self.cancel()

    def _done(self, scan: Scan, answer: Message) -> None:
        assert self._batch is not None
        volumes = {item["key"]: item["volume_ml"] for item in answer["structures"]}
        output = str(self._batch.target(scan))
        outcome = Outcome(scan.name, str(scan.path), True, output, self._since(), volumes)
        with self.step():
            write_marker(self._batch, scan, outcome)
        self._took(outcome)

    def _failed(self, scan: Scan, error: WorkerError) -> None:
        if error.code == CANCELLED or error.code in _HOPELESS:
            self.fail(error)
        else:
            self._took(Outcome.failed(scan, error.code, str(error), self._since()))

    def _took(self, outcome: Outcome) -> None:
        """Note what became of a scan, and go on, whatever the listener does."""
        self._outcomes[outcome.scan] = outcome
        with self.step():
            write_report(self._report())
        try:
            if self._onCase is not None:
                self._onCase(outcome)
        finally:
            if not self.ended:
                self._next()

    def _report(self) -> BatchReport:
        assert self._batch is not None
        known = (self._outcomes[scan.name] for scan in self._scans if scan.name in self._outcomes)
        return BatchReport(self._batch, Shard(), tuple(known))

    def _since(self) -> float:
        return round(time.monotonic() - self._started, 2)


__all__ = ["FolderJob"]
