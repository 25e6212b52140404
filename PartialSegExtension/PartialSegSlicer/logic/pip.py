"""Running pip in Slicer's own Python: what it printed is kept, and told with what to do about it."""

from __future__ import annotations

import importlib
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from slicer import util  # type: ignore[import-untyped]

from PartialSegSlicer.logic.errors import SetupError
from PartialSegSlicer.translation import tr as _

#: Lines of pip that are kept.
_LAST = 30


class PipError(SetupError):
    """An installation that failed on the way.

    Parameters
    ----------
    message, hint : str
    log : str
        The last lines of pip; empty where it said nothing.
    """

    def __init__(self, message: str, hint: str, log: str) -> None:
        super().__init__(message, hint)
        self.log = log


@contextmanager
def explained() -> Iterator[None]:
    """Keep what is printed meanwhile.

    Raises
    ------
    PipError
        When the installation within fails: why, what to do, and the last lines.
    """
    printed = _Tee(sys.stdout)
    try:
        with redirect_stdout(printed):
            yield
    except (RuntimeError, OSError, ImportError, subprocess.CalledProcessError) as error:
        lines = printed.getvalue().splitlines()[-_LAST:]
        raise PipError(
            _("The installation failed: {reason}").format(reason=_reason(error, lines)),
            _advice("\n".join([*lines, str(error)])),
            "\n".join(lines),
        ) from error


def ensure(requirements: Sequence[str], constraints: Path, progress: bool) -> None:
    """Install what is missing by ``slicer.packaging`` (Slicer 5.11 and later), or else by ``slicer.util``.

    Parameters
    ----------
    requirements : sequence of str
        As ``scipy>=1.13``.
    constraints : Path
        File of versions that are kept.
    progress : bool
        Whether Slicer may show a window.
    """
    packaging = module("slicer.packaging")
    if packaging is None or "constraints" not in inspect.signature(packaging.pip_ensure).parameters:
        install(requirements, constraints, progress)
        return
    requirement = importlib.import_module("packaging.requirements").Requirement
    # The panel has asked already, and the worker needs no restart of Slicer.
    packaging.pip_ensure(
        [requirement(item) for item in requirements],
        constraints=constraints,
        requester="PartialSeg",
        prompt_install=False,
        prompt_restart=False,
        show_progress=progress,
    )


def install(arguments: Sequence[str], constraints: Path, progress: bool) -> None:
    """Run ``pip install`` with arguments of its own; the others are those of :func:`ensure`."""
    pipInstall = getattr(module("slicer.packaging"), "pip_install", util.pip_install)
    # Without show_progress a window would come, and another one when pip fails.
    options = {"show_progress": progress, "requester": "PartialSeg"}
    known = inspect.signature(pipInstall).parameters
    pipInstall(
        [*arguments, "-c", str(constraints)], **{name: value for name, value in options.items() if name in known}
    )


def module(name: str) -> Any:
    """Return a module that only some Slicers have, or ``None``."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


class _Tee(io.StringIO):
    """Keeps what is printed, and prints it to a stream."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._stream.flush()


def _reason(error: Exception, lines: Sequence[str]) -> str:
    """Return why an installation failed: what pip says last, where it is pip that failed, or else the error."""
    if isinstance(error, subprocess.CalledProcessError):
        # What it says of a conflict stands before the first of these; the second is no failure.
        said = r"\s*ERROR: (?!ResolutionImpossible|pip's dependency resolver)(.+)"
        found = [match[1] for line in lines if (match := re.match(said, line))]
        if found:
            return found[-1]
    return str(error)


def _advice(text: str) -> str:
    """Return what to do about a failed installation, by what pip and the system said."""
    causes = (
        (
            r"No space left on device|WinError 112\b|not enough space on the disk",
            _("The disk is full. Make room on the disk of Slicer and on that of temporary files, and repair again."),
        ),
        (
            r"enable-long-paths|Windows Long Path support|WinError 206\b|File name too long",
            _("A path is too long. Allow long paths in Windows, or install Slicer into a folder with a short path."),
        ),
        (
            r"WinError 5\b|WinError 32\b|Permission denied|Access is denied",
            _(
                "A file is in use, or you may not write it. Close every Slicer, start one, and repair at once. If it "
                "fails again, install Slicer into a folder of your own."
            ),
        ),
        (
            r"ProxyError|Tunnel connection failed|SSLError|CERTIFICATE_VERIFY_FAILED|connection broken|timed out"
            r"|Max retries exceeded|Failed to establish a new connection|IncompleteRead|incomplete-download"
            r"|WinError 100\d\d\b",
            _(
                "Slicer's Python does not reach the package index. Check the connection; behind a proxy, set "
                "HTTPS_PROXY, and PIP_CERT to the certificate of your institution, and restart Slicer. The "
                "documentation says how to install without internet."
            ),
        ),
        (
            r"ResolutionImpossible|conflicting dependencies",
            _(
                "What is missing does not fit the packages that Slicer has, which are not replaced. Take a newer "
                "Slicer, or choose another Python for the worker."
            ),
        ),
        (
            r"Could not find a version|No matching distribution found|Failed building wheel|Failed to build"
            r"|metadata-generation-failed|Microsoft Visual C\+\+",
            _(
                "There is no ready-made package for this version of Python on this computer. Take another version "
                "of Slicer, or choose another Python for the worker."
            ),
        ),
    )
    unknown = _("Check the connection, the proxy and the free disk space; Slicer's error log has the lines of pip.")
    return next((hint for pattern, hint in causes if re.search(pattern, text, re.IGNORECASE)), unknown)
