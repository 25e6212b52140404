"""What every published checkpoint format offers: recognize its files, and turn them into a model.

One file of this room describes one format, as one :class:`PublishedFormat`; all are listed in
:data:`PartialSegLib.published.FORMATS` and pass one suite of tests. The importer
(:mod:`PartialSegLib.published.importing`) asks each in turn.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

import PartialSegLib
from PartialSegLib.card import Card

#: What the card says where the authors of published weights say nothing.
LICENSE_NOT_STATED = "not stated by the authors"
#: What published weights may be used for here.
INTENDED_USE = (
    "Research only. Not a medical device; not for diagnosis or treatment. Imported weights of others: cite their "
    "paper, and keep to their license and to those of the datasets."
)


@dataclass(frozen=True)
class ImportOptions:
    """What the user chose; ``None`` leaves the choice to the format.

    Parameters
    ----------
    name : str, optional
        Name of the model.
    spacing : str, optional
        Which of several stated spacings is right: ``author`` or ``paper``.
    network : str, optional
        Which network of a folder that holds several: ``unet``, ``resenc``.
    fold : str, optional
        Which fold of a cross-validation (``0``), or ``each`` for all of them.
    label_space : str, optional
        Name of a label space of the library, or a file: what the outputs of a fine-tuned network are.
    task : str, optional
        Key of one task, where every task becomes a model of its own.
    """

    name: str | None = None
    spacing: str | None = None
    network: str | None = None
    fold: str | None = None
    label_space: str | None = None
    task: str | None = None


class PublishedFormat(ABC):
    """One published checkpoint format."""

    #: One word for files and JSON (``dodnet``).
    key: ClassVar[str]
    #: What a person calls it.
    title: ClassVar[str]
    #: Fields of :class:`ImportOptions` that mean something here, besides the name.
    uses: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def detect(self, path: Path) -> bool:
        """Return whether a file or folder has this format; never raises, whatever it holds."""

    def choices(self, path: Path, options: ImportOptions) -> list[ImportOptions]:
        """Return one set of options for every model in `path` that `options` choose, at least one.

        Raises
        ------
        BundleError
            When nothing in it is what they choose.
        """
        return [options]

    @abstractmethod
    def read(self, path: Path, options: ImportOptions) -> tuple[Card, dict[str, Tensor]]:
        """Return the card and the weights of one model.

        Parameters
        ----------
        path : Path
            File or folder that :meth:`detect` knows.
        options : ImportOptions
            One of :meth:`choices`.

        Returns
        -------
        card, weights
            The weights are float32 and fit the card's network exactly.

        Raises
        ------
        BundleError
            When the file is damaged, refused, or its weights fit no network of this format.
        """


def provenance(key: str, files: Mapping[str, str], choices: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return what a card says about where imported weights come from.

    Parameters
    ----------
    key : str
        Of the format.
    files : mapping of str to str
        Name and SHA-256 of every file that was read.
    choices : mapping
        What was chosen at the import, each with its reason where the authors do not agree.
    more
        What the checkpoint itself says (epoch, trainer).
    """
    return {
        "imported_from": [{"file": name, "sha256": digest} for name, digest in files.items()],
        "format": key,
        "importer": f"PartialSeg {PartialSegLib.__version__}",
        "choices": dict(choices),
        **more,
    }


def digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Do the work once for each state of a file: every fold of a zip of gigabytes names it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
