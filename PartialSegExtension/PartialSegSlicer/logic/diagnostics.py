"""What a report of a problem needs: versions, the worker, the last error.

It names a volume only where the last error does. The report is in English on purpose: developers read it.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import slicer  # type: ignore[import-untyped]

import PartialSegLib
from PartialSegLib import catalog
from PartialSegLib.errors import PartialSegError
from PartialSegSlicer.logic.interpreter import Interpreter
from PartialSegSlicer.logic.jobs import Job
from PartialSegWorker.client import WorkerClient
from PartialSegWorker.errors import WorkerError


def describe(
    interpreter: Interpreter,
    client: WorkerClient | None,
    job: Job[Any] | None,
    shown: PartialSegError | None = None,
) -> str:
    """Return the text that "Copy diagnostics" copies, with the error that is `shown`, or else that of the job.

    The folder of the user, whose name may be a person's, is written as ``~``.
    """
    application = getattr(slicer, "app", None)
    facts = {
        "PartialSeg": PartialSegLib.__version__,
        "Slicer": str(getattr(application, "applicationVersion", "")) or "no application",
        "System": f"{platform.platform()} {platform.machine()}",
        "Python of Slicer": sys.version.split()[0],
        "Python of the worker": interpreter.path + ("" if interpreter.own else " (chosen by the user)"),
        "Model folder": str(catalog.model_folder()),
        "Worker": _worker(client),
        "Last job": "none" if job is None else f"{job.kind}: {job.state}",
    }
    parts = ["\n".join(f"{name}: {value}" for name, value in facts.items())]
    error = shown or (job.error if job is not None else None)
    if error is not None:
        parts.append(_error(error))
    tail = client.log_tail(30) if client is not None else ""
    if tail and not (isinstance(error, WorkerError) and error.log):
        parts.append(f"Worker log:\n{tail}")
    return "\n\n".join(parts).replace(str(Path.home()), "~") + "\n"


def _worker(client: WorkerClient | None) -> str:
    hello = client.hello if client is not None else None
    if hello is None:
        return "not running"
    return f"Python {hello.get('python')}, knows {', '.join(hello.get('capabilities', []))}"


def _error(error: PartialSegError) -> str:
    if isinstance(error, WorkerError):
        return error.diagnostics()
    # What pip printed, where it was pip that failed.
    parts = (f"[{error.code}] {error.message}", error.hint, getattr(error, "log", ""))
    return "\n\n".join(part for part in parts if part)
