"""Which published models can be downloaded, and how one becomes an installed model.

``partialseg models``, ``partialseg download`` and the task picker call this. The list is
``data/models.json``. Nothing is fetched but by :func:`download`, and only after the user accepted the
license; the room that talks to other machines (:mod:`PartialSegLib.fetching`) is imported only then.
Imports neither torch nor numpy.

What is being downloaded lies in ``.downloads`` of the folder of installed models until it is imported.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PartialSegLib import catalog
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import DownloadError, LicenseError, PartialSegError
from PartialSegLib.progress import Monitor
from PartialSegLib.structures import LabelSpace

if TYPE_CHECKING:
    from PartialSegLib.fetching.transfer import Patience

_MODELS = Path(__file__).parent / "data" / "models.json"


@dataclass(frozen=True)
class License:
    """What the user must accept: a name, and the text that is shown."""

    name: str
    text: str


@dataclass(frozen=True)
class Measured:
    """How long segmenting one scan took, in seconds, and on what."""

    seconds: float
    on: str


@dataclass(frozen=True)
class Download:
    """A published model that the library knows of; see ``data/models.schema.json``.

    Parameters
    ----------
    name : str
        Of the model, once it is installed.
    title, description, reference : str
        For people: what it is, what it does, and the paper to cite.
    label_space : str
        What it segments: a name that :meth:`~PartialSegLib.structures.LabelSpace.named` takes.
    license : License
        What the user must accept.
    format : str
        ``checkpoint`` (imported by :mod:`PartialSegLib.published`) or ``bundle`` (a zip of a model folder).
    options : mapping
        Which of several models in a checkpoint it is: fields of
        :class:`PartialSegLib.published.ImportOptions`.
    file : str
        Name of the file.
    address, page : str or None
        Where the file is fetched from, and the page for people about it.
    by_hand : str or None
        How a person gets the file.
    bytes : int or None
        Size of the file, where it is known.
    sha256 : str or None
        Checksum of the file, where it is known.
    measured : Measured or None
        Time of a run, where it was measured.
    """

    name: str
    title: str
    description: str
    reference: str
    label_space: str
    license: License
    format: Literal["checkpoint", "bundle"]
    options: Mapping[str, str]
    file: str
    address: str | None
    page: str | None
    by_hand: str | None
    bytes: int | None
    sha256: str | None
    measured: Measured | None

    @property
    def structures(self) -> tuple[str, ...]:
        """Keys of the structures that it segments."""
        return LabelSpace.named(self.label_space).select()


@cache
def available() -> tuple[Download, ...]:
    """Return every model that the library knows how to get, in the order of ``data/models.json``."""
    document = json.loads(_MODELS.read_text(encoding="utf-8"))
    return tuple(_entry(item) for item in document["models"])


def find(name: str) -> Download:
    """Return a model of :func:`available` by its name.

    Raises
    ------
    DownloadError
        When there is none, with the names that come close.
    """
    names = [entry.name for entry in available()]
    if name in names:
        return available()[names.index(name)]
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(names)}."
    raise DownloadError(f"There is no model '{name}' to download.", hint)


def installed(entry: Download) -> ModelBundle | None:
    """Return the model that is installed under the name of `entry` and not damaged, if there is one."""
    found = (item for item in catalog.models() if item.name == entry.name and item.origin == "installed")
    return next((item.bundle for item in found if item.bundle is not None), None)


def obtainable(entry: Download) -> bool:
    """Whether there is an address to fetch the file of `entry` from, or a mirror that may have it."""
    from PartialSegLib.fetching.addresses import MIRROR_VARIABLE

    return entry.address is not None or bool(os.environ.get(MIRROR_VARIABLE))


def address_of(entry: Download) -> str:
    """Return where the file of `entry` is fetched from: its own address, or ``$PARTIALSEG_MIRROR``.

    Raises
    ------
    DownloadError
        When it has no address and there is no mirror, with how to get it by hand; when the mirror is
        no address.
    """
    from PartialSegLib.fetching.addresses import MIRROR_VARIABLE, check, mirrored

    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        return mirrored(mirror, entry.file)
    if entry.address is None:
        raise DownloadError(
            f"'{entry.name}' cannot be downloaded: it has no public address. {entry.by_hand}",
            f"When you have it, run 'partialseg import {entry.file}'.",
        )
    check(entry.address, http=False)
    return entry.address


def download(
    name: str,
    *,
    license_accepted: bool,
    keep: Path | None = None,
    monitor: Monitor | None = None,
    say: Callable[[str], None] = lambda line: None,
    patience: Patience | None = None,
) -> ModelBundle:
    """Download a model and install it; it is installed complete and checked, or not at all.

    Parameters
    ----------
    name : str
        Of :func:`available`.
    license_accepted : bool
        Whether the user has read the license of the entry and accepted it.
    keep : Path, optional
        Keep the file under this name (or in this folder). A file that is there already is used instead
        of downloading it: so the two models of one file cost one download.
    monitor : Monitor, optional
        Gets the stages ``download`` and ``verify``, in bytes, and cancels within a second.
    say : callable, optional
        Gets lines for the user: what is tried again, what was found.
    patience : Patience, optional
        How long a bad connection is put up with.

    Returns
    -------
    ModelBundle
        The installed model; without a download when it was installed already.

    Raises
    ------
    LicenseError
        When the license was not accepted. Nothing was fetched.
    DownloadError
        When there is no such model, or its file cannot be had. What was received is kept, and the next
        call goes on there.
    BundleError
        When the file cannot be imported. It is kept.
    CancelledError
        When the monitor was cancelled. What was received is kept, and the next call goes on there.
    """
    from PartialSegLib.fetching.transfer import fetch

    entry = find(name)
    there = installed(entry)
    if there is not None:
        say(f"'{name}' is installed already.")
        return there
    if not license_accepted:
        raise LicenseError(
            f"The license of '{name}' was not accepted, and nothing was downloaded.",
            "Read it with 'partialseg download', and add --accept-license if you agree.",
        )
    address = address_of(entry)
    target = _kept(keep, entry) if keep is not None else _waiting(entry)
    digest = fetch(address, target, size=entry.bytes, sha256=entry.sha256, monitor=monitor, say=say, patience=patience)
    if entry.sha256 is None:
        say(f"The catalog knows no checksum of {entry.file}. The SHA-256 of what came is {digest}.")
    bundle = _install(entry, target)
    if keep is None:
        target.unlink()
    return bundle


def leftover(entry: Download) -> int:
    """Return how many bytes of an unfinished or not yet imported download of `entry` lie here."""
    from PartialSegLib.fetching.partfile import unfinished

    target = _waiting_folder() / entry.file
    return target.stat().st_size if target.is_file() else unfinished(target)


def discard(entry: Download) -> None:
    """Delete what is left of a download of `entry`.

    Raises
    ------
    DownloadError
        When another process is downloading it, or it cannot be deleted.
    """
    from PartialSegLib.fetching.transfer import delete

    if _waiting_folder().is_dir():
        delete(_waiting_folder() / entry.file)


def _waiting_folder() -> Path:
    return catalog.model_folder() / ".downloads"


def _waiting(entry: Download) -> Path:
    """Return where the file lies until it is imported; makes the folder."""
    folder = _waiting_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"The folder {folder} cannot be made: {error.strerror or error}.",
            f"Mend the permissions of the folders above it, or set {catalog.FOLDER_VARIABLE} to another folder.",
        ) from error
    return folder / entry.file


def _kept(keep: Path, entry: Download) -> Path:
    """Return the name under which the user wants to keep the file."""
    if keep.is_dir():
        return keep / entry.file
    if not keep.parent.is_dir():
        raise DownloadError(f"There is no folder '{keep.parent}' to keep the file in.", "Make it first.")
    return keep


def _install(entry: Download, file: Path) -> ModelBundle:
    """Import a complete file; when that fails the file stays, because it may be large."""
    try:
        if entry.format == "bundle":
            from PartialSegLib.bundlearchive import install_archive

            return install_archive(file, catalog.model_folder() / entry.name)
        from PartialSegLib.published import ImportOptions
        from PartialSegLib.published.importing import import_models

        # A good model of this name would have ended the download before it began; a damaged one is replaced.
        (bundle,) = import_models(file, ImportOptions(name=entry.name, **entry.options), overwrite=True)
    except PartialSegError as error:
        error.hint = f"{error.hint} {file} is kept: the next download uses it, unless you delete it.".lstrip()
        raise
    return bundle


def _entry(item: Mapping[str, Any]) -> Download:
    """Return one entry of ``data/models.json``, which fits its schema: a test holds it to that."""
    plain = {name: value for name, value in item.items() if name not in ("license", "import", "measured")}
    return Download(
        **plain,
        license=License(**item["license"]),
        options=dict(item.get("import", {})),
        measured=Measured(**item["measured"]) if item["measured"] else None,
    )
