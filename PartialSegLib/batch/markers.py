"""Done-markers: what says that a scan is done, and is written in one step when it is.

A marker lies in ``OUTPUT/.partialseg/NAME.json``. It counts while the job and the scan are what they
were and the result is still there; otherwise the scan is done again. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PartialSegLib.atomic import atomic_write
from PartialSegLib.batch.contract import BatchError, BatchJob, Outcome, Scan

#: Folder of the markers in that of the results.
FOLDER = ".partialseg"
_VERSION = 1


def read_marker(job: BatchJob, scan: Scan) -> Outcome | None:
    """Return what an earlier run made of a scan, or ``None`` when it has to be done."""
    try:
        marker = json.loads(marker_path(job, scan).read_text(encoding="utf-8"))
        if (marker["version"], marker["job"], marker["scan"]) != (_VERSION, job.digest, _trace(scan)):
            return None
        outcome = Outcome(**marker["outcome"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return replace(outcome, earlier=True) if job.target(scan).exists() else None


def write_marker(job: BatchJob, scan: Scan, outcome: Outcome) -> None:
    """Say that a scan is done; its result has to be complete.

    Raises
    ------
    BatchError
        When the marker cannot be written.
    """
    path = marker_path(job, scan)
    marker = {"version": _VERSION, "job": job.digest, "scan": _trace(scan), "outcome": outcome.to_json()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(marker, indent=1).encode())
    except OSError as error:
        raise BatchError(
            f"{path} cannot be written: {error.strerror}.", "Make room, or choose another folder."
        ) from error


def marker_path(job: BatchJob, scan: Scan) -> Path:
    """Return where the marker of a scan lies."""
    return job.output / FOLDER / f"{scan.name}.json"


def _trace(scan: Scan) -> list[object]:
    """Return what changes when the files of a scan do: place, number, size and time."""
    sizes = [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in _files(scan.path))]
    newest = max((time for _, time in sizes), default=0)
    return [str(scan.path.resolve()), len(sizes), sum(size for size, _ in sizes), newest]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (item for item in path.rglob("*") if item.is_file())
    else:
        yield path
