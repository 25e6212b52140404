"""The models: which there are, and bringing and removing them.

The list is made in Slicer's own process, because it reads cards only; importing and downloading are
the worker's (:mod:`PartialSegWorker.modelwork`). Nothing is fetched without an accepted license.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PartialSegLib import catalog, downloads
from PartialSegLib.commands.models import describe_download, describe_model
from PartialSegLib.errors import BundleError, LicenseError
from PartialSegLib.sizes import readable
from PartialSegLib.structures import Code, LabelSpace, Structure
from PartialSegSlicer.logic.jobs import Listeners
from PartialSegSlicer.logic.questions import Question
from PartialSegSlicer.translation import tr as _
from PartialSegWorker.modelwork import DownloadParameters, ImportParameters
from PartialSegWorker.protocol import Message


class ImportJob(Question):
    """Makes models of a published file; its result is the list of their names."""

    def __init__(self, path: str | Path, name: str | None, overwrite: bool, listeners: Listeners | None) -> None:
        path = Path(path).expanduser()
        if not path.exists():
            raise BundleError(
                _("There is no file or folder '{path}'.").format(path=path), _("Choose a published checkpoint.")
            )
        super().__init__("import", ImportParameters(str(path.absolute()), name, overwrite), listeners)

    def read(self, answer: Message) -> list[str]:
        """Return the names."""
        return [str(name) for name in answer["models"]]


class DownloadJob(Question):
    """Downloads a published model; its result is the name of the model."""

    def __init__(self, name: str, licenseAccepted: bool, listeners: Listeners | None) -> None:
        entry = downloads.find(name)
        if downloads.installed(entry) is None and not licenseAccepted:
            raise LicenseError(
                _("The license of '{name}' ({license}) was not accepted, and nothing was downloaded.").format(
                    name=name, license=entry.license.name
                ),
                _("Read it, and pass licenseAccepted=True if you agree."),
            )
        super().__init__("download", DownloadParameters(name, licenseAccepted), listeners)

    def read(self, answer: Message) -> str:
        """Return the name."""
        return str(answer["model"])


def listModels() -> dict[str, Any]:
    """Return the installed and bundled models and those that can be downloaded, as plain values.

    Returns
    -------
    dict
        ``model_folder``; ``models``, as the worker's request of this name gives them, each structure
        with its ``color`` (0 to 255) and its ``codes`` as well; ``default``, the name of the one that is
        used when none is chosen; ``downloads``.

    Raises
    ------
    BundleError
        When the model folder cannot be read.
    """
    listed = []
    for entry in catalog.models():
        described = describe_model(entry)
        if entry.bundle is not None:
            for task in described["tasks"]:
                for item in task["structures"]:
                    item |= _looks(entry.bundle.card.label_space, item["key"])
        listed.append(described)
    return {
        "model_folder": str(catalog.model_folder()),
        "models": listed,
        "default": _default(),
        "downloads": [describe_download(entry) for entry in downloads.available()],
    }


def _default() -> str:
    """Return the name of the model that is used when none is chosen; empty when there is none."""
    try:
        return catalog.find(None).card.name
    except BundleError:
        return ""


@dataclass(frozen=True)
class Removal:
    """What :func:`removeModel` would delete.

    Parameters
    ----------
    name : str
        Of the model.
    folder : Path
    size : str
        On the disk, as a person reads it; empty when it is not known.
    """

    name: str
    folder: Path
    size: str


def removalOf(name: str) -> Removal:
    """Return what :func:`removeModel` would delete.

    Raises
    ------
    BundleError
        When it cannot be removed.
    """
    entry = catalog.removable(name)
    size = entry.disk_use()
    return Removal(entry.name, entry.folder, "" if size is None else readable(size))


def describeRemoval(name: str) -> str:
    """Return what :func:`removeModel` would delete, for the question that is asked before.

    Raises
    ------
    BundleError
        When it cannot be removed.
    """
    found = removalOf(name)
    text = _("the model '{name}' in {folder} ({size})") if found.size else _("the model '{name}' in {folder}")
    return text.format(**asdict(found))


def removeModel(name: str) -> None:
    """Delete an installed model; :class:`BundleError` when there is none, or it cannot be deleted."""
    catalog.remove(catalog.removable(name))


def _looks(space: LabelSpace, key: str) -> dict[str, Any]:
    structure: Structure = space.structure(key)
    codes: list[Code | None] = [structure.type, structure.type_modifier, structure.region, structure.region_modifier]
    return {"color": list(structure.color), "codes": [f"{code.scheme} {code.value}" for code in codes if code]}
