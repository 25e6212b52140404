"""The training cases: corrected segmentations that are kept for fine-tuning, as folders on this computer.

They lie in ``cases`` beside the model folder; the environment variable ``PARTIALSEG_CASES`` moves them.
Names are numbers unless the user gives one, because names of volumes often name patients.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from PartialSegLib import catalog
from PartialSegLib.errors import SegmentationError
from PartialSegLib.sizes import folder_size
from PartialSegSlicer.cases import exportCase
from PartialSegSlicer.translation import tr as _

#: Environment variable that moves the folder of training cases.
FOLDER_VARIABLE = "PARTIALSEG_CASES"
_NAME = re.compile(r"[\w][\w .()+-]{0,99}")


@dataclass(frozen=True)
class TrainingCase:
    """One training case.

    Parameters
    ----------
    name : str
    folder : Path
    structures : tuple of str
        Keys of what was annotated; empty for a damaged case.
    created : datetime
        When it was saved, in local time.
    bytes : int
        What it takes on the disk.
    problem : str
        Why it cannot be used; empty for a good one.
    """

    name: str
    folder: Path
    structures: tuple[str, ...]
    created: datetime
    bytes: int
    problem: str = ""


class CaseStore:
    """The folder of training cases.

    Parameters
    ----------
    folder : Path, optional
        Another one than that of the user.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where the cases are; it need not exist."""
        moved = os.environ.get(FOLDER_VARIABLE)
        if self._folder is not None:
            return self._folder
        return Path(moved).expanduser() if moved else catalog.model_folder().parent / "cases"

    def save(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        structures: Iterable[str] | None = None,
        name: str | None = None,
        *,
        replace: bool = False,
    ) -> TrainingCase:
        """Save segments as a case; see :func:`PartialSegSlicer.cases.exportCase`.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
        segmentationNode : vtkMRMLSegmentationNode
        structures : iterable of str, optional
            IDs of the segments that were annotated; those marked "Completed" when left out.
        name : str, optional
            ``case-0001`` and so on without it.
        replace : bool
            Whether a case of that name is replaced.

        Raises
        ------
        ImageError, SegmentationError
            When it cannot be saved; an older case of the name stays as it was.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SegmentationError(
                _("The folder of training cases {folder} cannot be made: {reason}.").format(
                    folder=self.folder, reason=error.strerror or error
                ),
                _("Mend the permissions, or set {variable} to another folder.").format(variable=FOLDER_VARIABLE),
            ) from error
        folder = self.folder / (self._freeName() if name is None else _checked(name))
        exportCase(volumeNode, segmentationNode, folder, annotated=structures, replace=replace)
        return _read(folder)

    def all(self) -> list[TrainingCase]:
        """Return the cases by name; a damaged one says what is wrong with it.

        Raises
        ------
        SegmentationError
            When the folder cannot be read.
        """
        try:
            folders = [item for item in self.folder.iterdir() if item.is_dir() and not item.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise SegmentationError(
                _("The folder of training cases {folder} cannot be read: {reason}.").format(
                    folder=self.folder, reason=error.strerror or error
                ),
                _("Mend its permissions."),
            ) from error
        return [_read(folder) for folder in sorted(folders, key=lambda item: item.name)]

    def find(self, name: str) -> TrainingCase:
        """Return a case by its name; :class:`SegmentationError` names the known ones."""
        found = {case.name: case for case in self.all()}
        if name not in found:
            raise SegmentationError(
                _("There is no training case '{name}'.").format(name=name),
                _("There is: {names}.").format(names=", ".join(found) or _("none")),
            )
        return found[name]

    def remove(self, name: str) -> None:
        """Delete a case.

        Raises
        ------
        SegmentationError
            When there is none of this name, the folder is no case, or it cannot be deleted.
        """
        case = self.find(name)
        if not (case.folder / "case.json").is_file():
            raise SegmentationError(
                _("'{folder}' is no training case.").format(folder=case.folder),
                _("Delete it by hand if you do not need it."),
            )
        aside = case.folder.with_name(f".{case.folder.name}.{secrets.token_hex(4)}.removed")
        try:
            os.replace(case.folder, aside)
            shutil.rmtree(aside)
        except OSError as error:
            raise SegmentationError(
                _("The training case '{name}' could not be deleted: {reason}.").format(
                    name=name, reason=error.strerror or error
                ),
                _("Close what uses it, and mend the permissions of its folder."),
            ) from error

    @staticmethod
    def read(folder: Path) -> TrainingCase:
        """Return the case in a folder, wherever that lies."""
        return _read(folder)

    def _freeName(self) -> str:
        number = 1
        while (self.folder / f"case-{number:04d}").exists():
            number += 1
        return f"case-{number:04d}"


def _checked(name: str) -> str:
    """Return a name that is a folder on every platform."""
    if not _NAME.fullmatch(name) or name != name.rstrip(" ."):
        raise SegmentationError(
            _("'{name}' cannot be the name of a training case.").format(name=name),
            _("Use up to 100 letters, digits, spaces and . _ - + ( ), beginning with a letter or digit."),
        )
    return name


def _read(folder: Path) -> TrainingCase:
    try:
        created = datetime.fromtimestamp((folder / "case.json").stat().st_mtime)
        document = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        structures = tuple(str(key) for key in document["annotated"])
        return TrainingCase(folder.name, folder, structures, created, folder_size(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = _("{file} cannot be read: {reason}.").format(file=folder / "case.json", reason=error)
        return TrainingCase(folder.name, folder, (), datetime.fromtimestamp(0), 0, problem)


__all__ = ["FOLDER_VARIABLE", "CaseStore", "TrainingCase"]
