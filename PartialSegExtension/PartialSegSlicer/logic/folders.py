"""A folder of scans: one run after the other, each result a file, and a report that says what became of each.

A case that cannot be read or segmented is reported and does not stop the others. The report is
written after every case; the next call with the same settings goes on where the last one stopped.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PartialSegLib import catalog
from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import ImageError, SegmentationError
from PartialSegLib.images import READABLE
from PartialSegLib.progress import Progress
from PartialSegSlicer.logic.jobs import Job, Listeners
from PartialSegSlicer.logic.runs import RunSettings
from PartialSegSlicer.logic.session import Session
from PartialSegSlicer.logic.settings import chosenTasks, presetOf
from PartialSegWorker.errors import CANCELLED, WORKER_START, InstallationError, ProtocolVersionError, WorkerError
from PartialSegWorker.parameters import SegmentParameters
from PartialSegWorker.protocol import Message
from PartialSegWorker.request import Request

#: Name of the reports, without ending.
REPORT = "partialseg-report"
#: Problems that every further case would have as well.
_HOPELESS = (InstallationError.code, ProtocolVersionError.code, WORKER_START)
_ENDING = ".seg.nrrd"
_COLUMNS = ("case", "state", "structure", "name", "voxels", "volume_ml", "seconds", "message")


@dataclass(frozen=True)
class CaseRow:
    """What became of one case.

    Parameters
    ----------
    case : str
        Name of its file or folder, without ending.
    source, output : str
        Paths of the scan and of the result.
    state : str
        ``finished``, ``failed``, or ``skipped`` (finished by an earlier call).
    structures : list of dict
        ``key``, ``name``, ``voxels``, ``volume_ml`` of each.
    seconds : float
        Time of the run.
    message, hint : str
        Why it failed, and what to do.
    """

    case: str
    source: str
    output: str
    state: str
    structures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    message: str = ""
    hint: str = ""


@dataclass(frozen=True)
class FolderReport:
    """What became of a folder.

    Parameters
    ----------
    cases : tuple of CaseRow
        In the order of their names.
    csv, json : Path
        The reports that were written.
    """

    cases: tuple[CaseRow, ...]
    csv: Path
    json: Path

    def count(self, state: str) -> int:
        """Return how many cases are in a state."""
        return sum(row.state == state for row in self.cases)


class FolderJob(Job[FolderReport]):
    """Segments every scan of a folder.

    Parameters
    ----------
    inputFolder : str or Path
        Files of images, and folders with a DICOM series each; or one DICOM series.
    outputFolder : str or Path
        Made when missing; takes ``NAME.seg.nrrd`` and the reports.
    settings : RunSettings
    overwrite : bool
        Whether finished cases, and results of other settings, are made anew.
    listeners : Listeners, optional
    onCase : callable, optional
        Called with a :class:`CaseRow` after each case.
    """

    kind = "folder"

    def __init__(
        self,
        inputFolder: str | Path,
        outputFolder: str | Path,
        settings: RunSettings,
        overwrite: bool = False,
        listeners: Listeners | None = None,
        onCase: Callable[[CaseRow], object] | None = None,
    ) -> None:
        super().__init__(listeners)
        self._input, self._output = Path(inputFolder).expanduser(), Path(outputFolder).expanduser()
        self._settings, self._overwrite, self._onCase = settings, overwrite, onCase
        self._session: Session | None = None
        self._request: Request | None = None
        self._sources: dict[str, Path] = {}
        self._rows: dict[str, CaseRow] = {}
        self._described: dict[str, Any] = {}
        self._model = ""
        self._started = 0.0
        self._stopped = False

    def prepare(self, session: Session) -> None:
        """Check the settings, and find the cases and what is finished of them."""
        self._session = session
        bundle = catalog.find(self._settings.model)
        keys = bundle.card.label_space.select(chosenTasks(self._settings.tasks))
        self._model = str(bundle.folder)
        self._described = {
            "model": bundle.card.name,
            "weights": bundle.card.weights["sha256"],
            "structures": list(keys),
            "quality": presetOf(self._settings.quality),
        }
        self._sources = findCases(self._input)
        _makeFolder(self._output)
        self._rows = {row.case: row for row in self._earlier() if row.case in self._sources}

    def begin(self, session: Session) -> None:
        """Write the report once, so that a folder that cannot take it is found now; then begin."""
        self._save()
        self._next()

    def cancel(self) -> None:
        """Stop the case that runs; those that are finished stay."""
        self._stopped = True
        if self._session is not None and self._request is not None and not self.ended:
            self._session.client.cancel(self._request)

    def _next(self) -> None:
        """Send the next case that is not finished, or end."""
        waiting = [case for case in self._sources if case not in self._rows]
        done, total = len(self._sources) - len(waiting), len(self._sources)
        self.report(Progress("cases", done, total, None))
        if not waiting:
            self.succeed(self._report())
            return
        assert self._session is not None
        case = waiting[0]
        self._started = time.monotonic()
        tasks = chosenTasks(self._settings.tasks)
        self._request = self._session.client.request(
            "segment",
            SegmentParameters(
                image=str(self._sources[case].absolute()),
                model=self._model,
                tasks=None if tasks is None else list(tasks),
                preset=presetOf(self._settings.quality),
                device=self._settings.device,
                output=str(self._target(case).absolute()),
            ),
            done=lambda answer: self._finished(case, answer),
            failed=lambda error: self._failed(case, error),
            progress=self.report,
        )
        if self._stopped:
            self.cancel()

    def _finished(self, case: str, answer: Message) -> None:
        self._took(case, state="finished", structures=list(answer["structures"]))

    def _failed(self, case: str, error: WorkerError) -> None:
        if error.code == CANCELLED or error.code in _HOPELESS:
            self.fail(error)
        else:
            self._took(case, state="failed", message=error.message, hint=error.hint)

    def _took(self, case: str, **fields: Any) -> None:
        """Note what became of a case, and go on, whatever the listener does."""
        seconds = round(time.monotonic() - self._started, 2)
        row = CaseRow(case, str(self._sources[case]), str(self._target(case)), seconds=seconds, **fields)
        self._rows[case] = row
        with self.step():
            self._save()
        try:
            if self._onCase is not None:
                self._onCase(row)
        finally:
            if not self.ended:
                self._next()

    def _target(self, case: str) -> Path:
        return self._output / f"{case}{_ENDING}"

    def _earlier(self) -> list[CaseRow]:
        """Return the cases that an earlier call finished; failed ones are tried again.

        Raises
        ------
        SegmentationError
            When the folder holds results of other settings, or of no call of ours.
        """
        taken = [case for case in self._sources if self._target(case).exists()]
        if self._overwrite or not taken:
            return []
        file = self._output / f"{REPORT}.json"
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            rows = [CaseRow(**row) for row in document["cases"]]
            settings = document["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            rows, settings = [], None
        if settings != self._described:
            raise SegmentationError(
                f"'{self._output}' has results already ({self._target(taken[0]).name}), made with other settings.",
                "Choose an empty folder, or allow that they are replaced (overwrite=True).",
            )
        done = [row for row in rows if row.state in ("finished", "skipped") and row.case in taken]
        return [CaseRow(**{**asdict(row), "state": "skipped"}) for row in done]

    def _report(self) -> FolderReport:
        rows = tuple(self._rows[case] for case in self._sources if case in self._rows)
        return FolderReport(rows, self._output / f"{REPORT}.csv", self._output / f"{REPORT}.json")

    def _save(self) -> None:
        """Write both reports as they stand.

        Raises
        ------
        SegmentationError
            When the folder cannot take them.
        """
        report = self._report()
        document = {"settings": self._described, "cases": [asdict(row) for row in report.cases]}
        texts = {report.json: json.dumps(document, indent=1, ensure_ascii=False) + "\n", report.csv: _table(report)}
        try:
            for file, text in texts.items():
                with atomic_write(file) as stream:
                    stream.write(text.encode("utf-8"))
        except OSError as error:
            raise SegmentationError(
                f"The report could not be written to '{self._output}': {error.strerror or error}.",
                "Choose a folder that may be written and has space.",
            ) from error


def findCases(folder: Path) -> dict[str, Path]:
    """Return the scans of a folder by their names: image files, and folders of one DICOM series each.

    Raises
    ------
    ImageError
        When there is no such folder, or no scan in it.
    """
    if not folder.is_dir():
        raise ImageError(f"There is no folder '{folder}'.", "Choose the folder that holds the scans.")
    items = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    files = [item for item in items if item.is_file()]
    images = [item for item in files if _ending(item) and not item.name.lower().endswith(_ENDING)]
    series = [item for item in items if item.is_dir() and any(part.is_file() for part in item.rglob("*"))]
    if not images and not series and files:
        # The slices of one series lie in the folder itself.
        return {folder.absolute().name: folder}
    cases: dict[str, Path] = {}
    for item in [*images, *series]:
        short = item.name[: len(item.name) - len(_ending(item))] if item.is_file() else item.name
        cases[item.name if short in cases else short] = item
    if not cases:
        raise ImageError(
            f"'{folder}' holds no scan.", f"Images end in {', '.join(READABLE)}; DICOM series are folders."
        )
    return cases


def _ending(file: Path) -> str:
    name = file.name.lower()
    return next((item for item in READABLE if name.endswith(item)), "")


def _makeFolder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegmentationError(
            f"The folder '{folder}' cannot be made: {error.strerror or error}.", "Choose another one."
        ) from error
    if not os.access(folder, os.W_OK):
        raise SegmentationError(f"The folder '{folder}' may not be written.", "Choose another one.")


def _table(report: FolderReport) -> str:
    """Return the report as a table: a line for each structure, one for a case without any."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in report.cases:
        told = {
            "case": row.case,
            "state": row.state,
            "seconds": row.seconds,
            "message": f"{row.message} {row.hint}".strip(),
        }
        for found in row.structures or [{}]:
            names = {"structure": found.get("key", ""), "name": found.get("name", "")}
            writer.writerow(told | names | {key: found.get(key, "") for key in ("voxels", "volume_ml")})
    return text.getvalue()


__all__ = ["REPORT", "CaseRow", "FolderJob", "FolderReport", "findCases"]
