"""Which environment variables the worker's Python gets, and where it finds our packages.

Slicer's launcher sets variables for Slicer's own Python that break every other one: a foreign Python
with Slicer's ``PYTHONHOME`` does not start, and with its library path it loads Slicer's libraries in
place of its own. The variables are set for the child alone, never in Slicer's own process. Called
by the client; imports no torch.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import PartialSegLib

#: Variables that tell Slicer's Python where it is. A foreign one must find that out for itself.
_SLICER_PYTHON = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__")
#: Variables that change any Python so that a resident process is of no use.
_NEVER = ("PYTHONINSPECT", "PYTHONIOENCODING")
#: Lists of folders into which Slicer's launcher puts its own: those of libraries, and of programs.
_FOLDER_LISTS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH", "PATH", "QT_PLUGIN_PATH")
#: Set by Slicer's launcher: its installation folder.
_SLICER_HOME = "SLICER_HOME"


def package_folders() -> tuple[Path, ...]:
    """Return the folders that hold the packages which the worker imports, each once."""
    folders = [Path(__file__).resolve().parents[1], Path(PartialSegLib.__file__).resolve().parents[1]]
    training = importlib.util.find_spec("PartialSegTraining")
    # Slicer's own process never imports it, and it lies elsewhere in a checkout than in an installation.
    if training is not None and training.submodule_search_locations:
        folders += [Path(folder).resolve().parent for folder in training.submodule_search_locations]
    return tuple(dict.fromkeys(folders))


def child_environment(
    python: str | Path, folders: Sequence[Path], variables: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a worker.

    Parameters
    ----------
    python : str or Path
        The Python that will run. When it lies in Slicer's own folder (``$SLICER_HOME``) it keeps what
        Slicer's launcher set, because it does not start without; any other is freed of it.
    folders : sequence of Path
        Where modules are looked for first.
    variables : mapping, optional
        What to start from: those of this process by default. In Slicer, for a Python of the user,
        ``slicer.util.startupEnvironment()`` is the better start: it is what Slicer's launcher found.
    """
    environment = dict(os.environ if variables is None else variables)
    home = environment.get(_SLICER_HOME)
    own = home is not None and _lies_in(str(python), home)
    for name in _NEVER if own else _NEVER + _SLICER_PYTHON:
        environment.pop(name, None)
    if home and not own:
        for name in _FOLDER_LISTS:
            _remove_folders(environment, name, home)
    paths = [str(folder) for folder in folders]
    if environment.get("PYTHONPATH"):
        paths.append(environment["PYTHONPATH"])
    return environment | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A file in the working folder must not pass for a module.
        "PYTHONSAFEPATH": "1",
        # Texts of the log are UTF-8, whatever the code page of the computer is.
        "PYTHONUTF8": "1",
        # The last lines before a crash are in the log, not in a buffer that died with the process.
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def _remove_folders(environment: dict[str, str], name: str, home: str) -> None:
    """Take the folders below `home` out of a list of folders; a list that becomes empty goes away."""
    if name not in environment:
        return
    kept = [item for item in environment[name].split(os.pathsep) if item and not _lies_in(item, home)]
    if kept:
        environment[name] = os.pathsep.join(kept)
    else:
        del environment[name]


def _lies_in(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it; links are not followed, as launchers do not either."""
    path, folder = (os.path.normcase(os.path.abspath(item)) for item in (path, folder))
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
