"""Which Python the worker runs in: Slicer's own, or one that the user chose.

The choice is kept in Slicer's settings, because it belongs to the computer and not to a scene.
Outside the application (tests, notebooks) it is kept as long as the process lives.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import slicer  # type: ignore[import-untyped]
from slicer import util

from PartialSegSlicer.logic.errors import SettingError
from PartialSegSlicer.translation import tr as _
from PartialSegWorker.client import WorkerClient

#: Key of the settings.
SETTING = "PartialSeg/Python"


class Interpreter:
    """The Python of the worker.

    Parameters
    ----------
    chosen : str or Path, optional
        A Python to use in place of what the settings say.
    """

    def __init__(self, chosen: str | Path | None = None) -> None:
        self._chosen = str(chosen) if chosen is not None else None

    @property
    def chosen(self) -> str:
        """The Python that the user chose; empty for Slicer's own."""
        if self._chosen is not None:
            return self._chosen
        settings = _settings()
        return str(settings.value(SETTING, "") or "") if settings is not None else ""

    @property
    def path(self) -> str:
        """The Python to run."""
        return self.chosen or ownPython()

    @property
    def own(self) -> bool:
        """Whether it is Slicer's own, whose packages the module can install."""
        return not self.chosen

    def choose(self, python: str | Path) -> None:
        """Use another Python from now on; Slicer's own again with an empty text.

        Raises
        ------
        SettingError
            When there is no program of this name.
        """
        text = str(python).strip()
        if text and shutil.which(text) is None:
            raise SettingError(
                _("'{file}' is no program.").format(file=text), _("Choose the file 'python' of an environment.")
            )
        settings = _settings()
        if settings is not None and self._chosen is None:
            settings.setValue(SETTING, text)
        else:
            self._chosen = text

    def connect(self) -> WorkerClient:
        """Return the client of a worker in this Python."""
        # What Slicer's launcher found is the better start for a Python that is not Slicer's.
        known = hasattr(getattr(slicer, "app", None), "startupEnvironment")
        environment = util.startupEnvironment() if known and not self.own else None
        return WorkerClient(self.path, environment=environment)


def ownPython() -> str:
    """Return the Python of this process: in Slicer ``PythonSlicer``, because the process is the application itself."""
    application = getattr(slicer, "app", None)
    home = getattr(application, "slicerHome", None)
    if home:
        name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
        found = Path(str(home)) / "bin" / name
        if found.is_file():
            return str(found)
    return shutil.which("PythonSlicer") or sys.executable


def _settings() -> Any:
    """Return the settings of the user; ``None`` outside the application."""
    application: Any = getattr(slicer, "app", None)
    return application.userSettings() if hasattr(application, "userSettings") else None
