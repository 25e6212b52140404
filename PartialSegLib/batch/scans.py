"""Which scans a folder holds, and which of them belong to one of several shards.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PartialSegLib.batch.contract import BatchError, Scan
from PartialSegLib.images import READABLE

#: Results of segmentation, which are no scans although they are images.
_SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
#: So many files of a folder are looked at for DICOM.
_LOOKED_AT = 20


@dataclass(frozen=True)
class Shard:
    """One of several parts of a batch, each of which runs on its own.

    Parameters
    ----------
    number : int
        1 to `count`.
    count : int
        How many there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``; ValueError when it is nothing like that."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(*map(int, match.groups())) if match else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise ValueError(f"'{text}' is no shard: 2/4 is the second of four")
        return shard

    def of(self, scans: Sequence[Scan]) -> list[Scan]:
        """Return the scans of this shard: every `count`-th by name, so that all shards are alike in size."""
        return sorted(scans, key=lambda scan: scan.name)[self.number - 1 :: self.count]


def is_batch_folder(path: Path) -> bool:
    """Tell whether a folder is one of many scans, not that of one DICOM series.

    It is when image files lie in it, and no DICOM files do.
    """
    return path.is_dir() and any(_is_image(item) for item in path.iterdir()) and not _has_dicom(path, deep=False)


def find_scans(folder: str | Path) -> list[Scan]:
    """Return the scans in a folder, by name.

    These are its image files; its sub-folders with a file ``image`` of any readable ending, as cases
    of a collection have it; and its sub-folders with DICOM files, each of which is one series.

    Parameters
    ----------
    folder : path
        What else lies in it is left alone.

    Raises
    ------
    BatchError
        When there is no scan, or two would have results of one name.
    """
    # Workers may start in another folder than the one that was typed from.
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise BatchError(f"There is no folder '{folder}'.", "Give the folder of the scans.")
    scans = [scan for item in sorted(folder.iterdir()) if (scan := _scan_at(item)) is not None]
    if not scans:
        raise BatchError(
            f"The folder '{folder}' holds no scan.",
            f"Scans are files that end in {', '.join(READABLE)}, and sub-folders with DICOM files.",
        )
    names = [scan.name for scan in scans]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        files = " and ".join(f"'{scan.path.name}'" for scan in scans if scan.name == twice)
        raise BatchError(f"{files} in '{folder}' would both give a result named '{twice}'.", "Rename one of them.")
    return scans


def _scan_at(item: Path) -> Scan | None:
    """Return the scan that a file or sub-folder is, or ``None``."""
    if item.name.startswith("."):
        return None
    if _is_image(item):
        return Scan(_stem(item), item)
    if not item.is_dir():
        return None
    image = next((file for file in sorted(item.iterdir()) if _is_image(file) and _stem(file) == "image"), None)
    if image is not None:
        return Scan(item.name, image)
    return Scan(item.name, item) if _has_dicom(item, deep=True) else None


def _is_image(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(READABLE) and not name.endswith(_SEGMENTATIONS) and path.is_file()


def _has_dicom(folder: Path, *, deep: bool) -> bool:
    """Tell whether one of the first files of a folder, or below it, is DICOM."""
    from PartialSegLib.imagefiles.dicomheaders import is_dicom_file

    files = (item for item in (folder.rglob("*") if deep else folder.iterdir()) if item.is_file())
    return any(is_dicom_file(item) for item in islice(files, _LOOKED_AT))


def _stem(path: Path) -> str:
    ending = next(item for item in READABLE if path.name.lower().endswith(item))
    return path.name[: -len(ending)]
