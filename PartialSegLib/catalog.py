"""Which models there are: those that the user installed, and the one that the library brings.

A model is found by its name or its folder. The command line, the worker and the task picker call
this; it reads cards only, and imports no torch. A damaged model is listed with what is wrong with
it, so that one bad folder hides no other.
"""

from __future__ import annotations

import difflib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PartialSegLib.bundle import CARD, WEIGHTS, ModelBundle
from PartialSegLib.errors import BundleError
from PartialSegLib.sizes import folder_size

#: Environment variable that moves the folder of installed models.
FOLDER_VARIABLE = "PARTIALSEG_MODELS"
#: Environment variable that names the model to use when none is chosen.
MODEL_VARIABLE = "PARTIALSEG_MODEL"
#: The model that comes with the library; ``demo`` is a short name for it.
BUNDLED = "phantom-dodnet"
DEMO = "demo"

_BUNDLED_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Entry:
    """One model folder of the catalog.

    Parameters
    ----------
    name : str
        What :func:`find` takes: the name on the card, or of the folder where the card is damaged.
    folder : Path
        Where it lies.
    origin : str
        ``installed`` (by the user) or ``bundled`` (with the library).
    bundle : ModelBundle, optional
        The model; ``None`` when it is damaged.
    problem : str
        Why :func:`find` does not take it by its name, and what to do; empty for a good one.
    """

    name: str
    folder: Path
    origin: str
    bundle: ModelBundle | None
    problem: str = ""

    def disk_use(self) -> int | None:
        """Return the bytes of all its files; ``None`` when the folder cannot be read."""
        try:
            return folder_size(self.folder)
        except OSError:
            return None


def model_folder() -> Path:
    """Return the folder of installed models, which need not exist.

    It is ``$PARTIALSEG_MODELS``, or else the platform's folder for the user's data:
    ``~/.local/share/partialseg/models`` (``$XDG_DATA_HOME``) on Linux, ``~/Library/Application
    Support`` on macOS, ``%LOCALAPPDATA%`` on Windows.
    """
    moved = os.environ.get(FOLDER_VARIABLE)
    if moved:
        return Path(moved).expanduser()
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "partialseg" / "models"


def models() -> list[Entry]:
    """Return every model folder: installed ones first, then the bundled, each sorted by name.

    The first good model of a name answers to it; others of that name are listed with this as their
    problem. Hidden folders are unfinished writes and are left out.

    Raises
    ------
    BundleError
        When the folder of installed models cannot be read.
    """
    listed: list[Entry] = []
    answering: dict[str, Path] = {}
    for folder, origin in ((model_folder(), "installed"), (_BUNDLED_FOLDER, "bundled")):
        for entry in sorted(_entries(folder, origin), key=lambda entry: (entry.name, entry.folder)):
            other = answering.get(entry.name)
            if entry.bundle is not None and other is not None:
                entry = replace(entry, problem=f"{other} has the same name. Choose this one by its folder.")
            elif entry.bundle is not None:
                answering[entry.name] = entry.folder
            listed.append(entry)
    return listed


def find(name_or_path: str | Path | None = None) -> ModelBundle:
    """Return a model by its name or its folder.

    Parameters
    ----------
    name_or_path : str or Path, optional
        Name of the catalog, ``demo`` for the bundled model, or a model folder. Without it
        ``$PARTIALSEG_MODEL`` decides, and without that it is the bundled model.

    Raises
    ------
    BundleError
        When there is no such model, with the names that come close, or it is damaged.
    """
    if isinstance(name_or_path, Path):
        return ModelBundle.open(name_or_path)
    wanted = name_or_path or os.environ.get(MODEL_VARIABLE) or DEMO
    entries = models()
    names = [entry.name for entry in entries]
    name = BUNDLED if wanted == DEMO and DEMO not in names else wanted
    named = sorted((entry for entry in entries if entry.name == name), key=lambda entry: bool(entry.problem))
    if named:
        # Where the only one is damaged, this raises with the reason that the list gives.
        return named[0].bundle or ModelBundle.open(named[0].folder)
    path = Path(wanted).expanduser()
    if path.is_dir() or len(path.parts) > 1:
        return ModelBundle.open(path)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if close:
        hint = f"Did you mean {' or '.join(dict.fromkeys(close))}?"
    else:
        hint = f"Known: {', '.join(dict.fromkeys(names)) or 'none'}. Models are installed in {model_folder()}."
    raise BundleError(f"There is no model '{name}'.", hint)


def removable(name_or_path: str | Path) -> Entry:
    """Return the installed model that :func:`remove` would delete, damaged or not.

    Parameters
    ----------
    name_or_path : str or Path
        Name of the catalog, or the model's folder where a name is not enough.

    Raises
    ------
    BundleError
        When there is no such model, it came with the library, several have the name, or the folder is
        no model at all and must not be deleted by a program.
    """
    entries = models()
    path = Path(name_or_path).expanduser().resolve()
    named = [entry for entry in entries if entry.name == str(name_or_path) or entry.folder.resolve() == path]
    own = [entry for entry in named if entry.origin == "installed"]
    if named and not own:
        raise BundleError(f"'{name_or_path}' comes with the library and cannot be removed.", "It takes little space.")
    if not own:
        known = ", ".join(entry.name for entry in entries if entry.origin == "installed")
        raise BundleError(f"There is no installed model '{name_or_path}'.", f"Installed: {known or 'none'}.")
    if len(own) > 1:
        folders = " or ".join(str(entry.folder) for entry in own)
        raise BundleError(f"{len(own)} models are named '{name_or_path}'.", f"Name the folder: {folders}.")
    if own[0].bundle is None and not any((own[0].folder / file).is_file() for file in (CARD, WEIGHTS)):
        raise BundleError(
            f"{own[0].folder} holds neither {CARD} nor {WEIGHTS}: it is no model, and may be something else of yours.",
            "Delete it by hand if you do not need it.",
        )
    return own[0]


def remove(entry: Entry) -> None:
    """Delete the folder of an installed model, which :func:`removable` returned.

    Raises
    ------
    BundleError
        When it cannot be deleted.
    """
    aside = entry.folder.with_name(f".{entry.folder.name}.{secrets.token_hex(4)}.removed")
    try:
        if entry.folder.is_symlink():
            # The user linked a folder from elsewhere: the link is ours to remove, its target is not.
            entry.folder.unlink()
            return
        # Out of the catalog in one step: a kill while files are deleted leaves no half model.
        os.replace(entry.folder, aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise BundleError(
            f"{entry.folder} could not be deleted: {error.strerror or error}.",
            "Close what uses the model, and mend the permissions of the model folder.",
        ) from error


def _entries(folder: Path, origin: str) -> Iterator[Entry]:
    try:
        folders = [item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise BundleError(
            f"The model folder {folder} cannot be read: {error.strerror}.",
            f"Mend its permissions, or set {FOLDER_VARIABLE} to another folder.",
        ) from error
    for item in folders:
        try:
            bundle = ModelBundle.open(item)
        except BundleError as error:
            yield Entry(item.name, item, origin, None, str(error))
        else:
            yield Entry(bundle.card.name, item, origin, bundle)
