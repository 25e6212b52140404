"""Requests that bring models: importing a published file, downloading a published model.

The worker does this, and not Slicer's own process: importing needs torch, and both can be stopped
between two pieces. The server calls it, in its main thread. Imports no torch by itself.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from PartialSegLib import catalog
from PartialSegLib.atomic import replacing_folder
from PartialSegLib.bundle import CARD, WEIGHTS, ModelBundle
from PartialSegLib.bundlearchive import archived_name, install_archive
from PartialSegLib.errors import BundleError
from PartialSegLib.progress import Monitor
from PartialSegWorker.parameters import Parameters
from PartialSegWorker.protocol import Message


@dataclass(frozen=True)
class ImportParameters(Parameters):
    """What is to become a model.

    Parameters
    ----------
    path : str
        A checkpoint, a zip or a results folder; a zip or a folder of a finished model too.
    name : str, optional
        Of the new model; that of the published one without it.
    overwrite : bool
        Whether an installed model of that name is replaced.
    """

    path: str
    name: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._check("path", str)
        self._check("name", str, NoneType)
        self._check("overwrite", bool)


@dataclass(frozen=True)
class DownloadParameters(Parameters):
    """Which published model is to be downloaded.

    Parameters
    ----------
    name : str
        Of the catalog of downloads.
    license_accepted : bool
        Whether the user has read its license and accepted it.
    """

    name: str
    license_accepted: bool = False

    def __post_init__(self) -> None:
        self._check("name", str)
        self._check("license_accepted", bool)


def import_model(wanted: ImportParameters, monitor: Monitor) -> Message:
    """Turn a published file into installed models; a finished model that somebody shared is installed as it is.

    Returns
    -------
    dict
        ``models``: their names.

    Raises
    ------
    BundleError
        When it cannot be imported; nothing is installed then.
    """
    monitor.step("import", 0, 1)
    own = _install_own(Path(wanted.path), wanted)
    if own is not None:
        return {"models": [own]}
    from PartialSegLib.published import ImportOptions
    from PartialSegLib.published.importing import import_models

    bundles = import_models(Path(wanted.path), ImportOptions(name=wanted.name), overwrite=wanted.overwrite)
    return {"models": [bundle.card.name for bundle in bundles]}


def _install_own(path: Path, wanted: ImportParameters) -> str | None:
    """Install a model of ours, a folder or a zip of one; return its name, or ``None`` when it is something else."""
    models = catalog.model_folder()
    try:
        if (path / CARD).is_file():
            name = _free_name(ModelBundle.open(path).card.name, wanted)
            models.mkdir(parents=True, exist_ok=True)
            with replacing_folder(models / name) as unfinished:
                for file in (CARD, WEIGHTS):
                    shutil.copyfile(path / file, unfinished / file)
            return name
        packed = archived_name(path) if path.is_file() else None
        if packed is None:
            return None
        name = _free_name(packed, wanted)
        models.mkdir(parents=True, exist_ok=True)
        return install_archive(path, models / name).card.name
    except OSError as error:
        raise BundleError(
            f"'{path}' could not be installed in {models}: {error.strerror or error}.",
            "Check that the model folder may be written and has space.",
        ) from error


def _free_name(name: str, wanted: ImportParameters) -> str:
    """Return the name that a finished model is installed under, its own; refuse any other, and a taken one."""
    if wanted.name not in (None, name):
        raise BundleError(
            f"The model is named '{name}' on its card, not '{wanted.name}'.", "Import it under its own name."
        )
    if not wanted.overwrite and any(entry.name == name for entry in catalog.models()):
        raise BundleError(f"There is a model '{name}' already.", "Remove it first, or allow that it is replaced.")
    return name


def download_model(wanted: DownloadParameters, monitor: Monitor) -> Message:
    """Download a published model and install it.

    Returns
    -------
    dict
        ``model``: its name, and ``notes``: what happened on the way.

    Raises
    ------
    LicenseError, DownloadError, BundleError, CancelledError
        As :func:`PartialSegLib.downloads.download`; what was received is kept.
    """
    from PartialSegLib import downloads

    notes: list[str] = []
    bundle = downloads.download(
        wanted.name, license_accepted=wanted.license_accepted, monitor=monitor, say=notes.append
    )
    return {"model": bundle.card.name, "notes": notes}
