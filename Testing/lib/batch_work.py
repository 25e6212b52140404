"""Work on the scans of a batch that takes no time and needs no model: its workers are real processes.

What a scan says is what becomes of it: ``fine``, ``broken``, ``kills once`` or ``kills`` the process
that works on it. Every begin is written down, so that a test can tell what was done twice. Workers
of every kind import this file by name.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from PartialSegLib.batch import BatchJob, Outcome, Scan
from PartialSegLib.batch.markers import read_marker, write_marker


def work(job: BatchJob, scan: Scan) -> Outcome:
    """Copy a scan to its result, in the steps of :func:`PartialSegLib.batch.segment_scan`."""
    earlier = read_marker(job, scan)
    if earlier is not None:
        return earlier
    begun(job.output.parent, scan.name)
    fate = scan.path.read_text()
    first = not (job.output.parent / f"{scan.name}.killed").exists()
    if fate == "kills" or (fate == "kills once" and first):
        (job.output.parent / f"{scan.name}.killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "broken":
        return Outcome.failed(scan, "image", f"'{scan.path}' is damaged.")
    job.target(scan).write_text(fate)
    outcome = Outcome(scan.name, str(scan.path), True, str(job.target(scan)), 0.1, {"liver": 1.5})
    write_marker(job, scan, outcome)
    return outcome


def begun(folder: Path, name: str) -> None:
    """Write down that somebody began a scan."""
    with (folder / "begun.txt").open("a") as file:
        file.write(f"{name}\n")


def begins(folder: Path) -> list[str]:
    """Return the scans that were begun, as often as they were, by name."""
    path = folder / "begun.txt"
    return sorted(path.read_text().split()) if path.exists() else []


def make_scans(folder: Path, **fates: str) -> list[Scan]:
    """Write a scan for each name, which says what becomes of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, fate in fates.items():
        (folder / f"{name}.nii.gz").write_text(fate)
    return [Scan(name, folder / f"{name}.nii.gz") for name in sorted(fates)]


def make_job(folder: Path, **options: Any) -> BatchJob:
    """A job whose results lie in ``results`` of a folder, of one thread a scan; its device needs no torch."""
    settings = {"device": "cpu", "threads": 1} | options
    return BatchJob(folder / "model", "0" * 64, folder / "results", ("liver",), **settings)
