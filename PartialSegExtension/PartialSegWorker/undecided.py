"""New models on which nobody has decided yet: they wait beside the installed ones, and outlive worker and Slicer.

The worker puts them there; the front end lists them, and has the worker install or delete them. Each has a
folder of its own, with what became of its training. Imports no torch.
"""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from PartialSegLib import catalog
from PartialSegLib.atomic import replacing_folder
from PartialSegWorker.protocol import Message

#: File with what the worker told of the training.
_OUTCOME = "outcome.json"


def home() -> Path:
    """Return the folder in which new models wait; it need not exist."""
    return catalog.model_folder() / ".undecided"


def put(bundle: Path, told: Message) -> Path:
    """Copy a finished model to where it waits.

    Parameters
    ----------
    bundle : Path
        Folder of the model.
    told : dict
        What became of its training.

    Returns
    -------
    Path
        The folder in which it waits.

    Raises
    ------
    OSError
        When it cannot be written; nothing is left there then.
    """
    home().mkdir(parents=True, exist_ok=True)
    place = home() / secrets.token_hex(4)
    with replacing_folder(place) as unfinished:
        shutil.copytree(bundle, unfinished / bundle.name)
        (unfinished / _OUTCOME).write_text(json.dumps(told | {"bundle": bundle.name}), encoding="utf-8")
    return place / bundle.name


def waiting() -> list[Message]:
    """Return what was told of each model that waits, ``bundle`` being its folder; the oldest first."""
    found = []
    # Hidden folders are unfinished writes.
    for file in (file for file in home().glob(f"*/{_OUTCOME}") if not file.parent.name.startswith(".")):
        # What somebody else deletes or has damaged is nothing to decide on.
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(file.read_text(encoding="utf-8"))
            bundle = file.parent / Path(told["bundle"]).name
            if bundle.is_dir():
                found.append((file.stat().st_mtime_ns, told | {"bundle": str(bundle)}))
    return [told for _time, told in sorted(found, key=lambda item: item[0])]


def forget(place: Path) -> None:
    """Delete a place of one model; the folder around it goes with the last."""
    shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        home().rmdir()
