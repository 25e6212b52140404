"""The client's private folder: voxels on their way, and the worker's log. Called by the client; imports no torch."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

#: Lines of the log that an error carries: Python's account of a crash lists every thread.
LOG_LINES = 100
#: Bytes from the end of the log that are looked at for them.
_LOG_BYTES = 32 * 1024


class PrivateFolder:
    """A folder that nobody else may enter, made when it is needed.

    Parameters
    ----------
    log : Path, optional
        File for the worker's log, where it is not to lie in the folder.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._log = log
        self._path: Path | None = None
        self._remove: Callable[[], object] = lambda: None

    @property
    def path(self) -> Path:
        """The folder."""
        # What cleans up temporary files may have removed it.
        if self._path is None or not self._path.is_dir():
            # Mode 0700, on Windows below the user's own folder for temporary files.
            self._path = Path(tempfile.mkdtemp(prefix="partialseg-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._path, ignore_errors=True)
        return self._path

    @property
    def log(self) -> Path:
        """File of the worker's log."""
        return self._log or self.path / "worker.log"

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """Return the last lines of the log; empty when there is none."""
        log = self._log or (self._path and self._path / "worker.log")
        if log is None:
            return ""
        try:
            with log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, 2) - _LOG_BYTES))
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def remove(self) -> None:
        """Delete the folder; another one is made when it is needed again."""
        self._remove()
        self._path = None
