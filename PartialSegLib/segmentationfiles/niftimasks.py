"""One NIfTI file per structure, and an index that keeps what NIfTI cannot.

The masks are plain 0/1 images on the whole grid, which every tool reads. The index (JSON) holds
keys, names, codes, colors, containment and the exact grid, because NIfTI stores single precision.
:func:`PartialSegLib.segmentationfiles.write_segmentation` and ``read_segmentation`` call this
module.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import LabelSpaceError, SegmentationError
from PartialSegLib.images import Geometry, Image, read_labels, write_image
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.structures import Structure

INDEX_FORMAT = "PartialSeg segmentation"
INDEX_VERSION = 1
_ENDING = ".nii.gz"
#: Voxels that single precision may move the far corner of a grid by.
_TOLERANCE = 0.02


def is_pattern(path: Path) -> bool:
    """Whether a path stands for one file per structure: ``case_*.nii.gz``."""
    return path.name.endswith(_ENDING) and path.name.count("*") == 1


def index_path(target: Path) -> Path:
    """Return where the index of a folder or pattern lies.

    A folder means its ``*.nii.gz``. The index is named like the masks, with ``segmentation`` in
    the place of the key, so that several cases may share a folder.
    """
    if target.name.endswith(".json"):
        return target
    pattern = target if is_pattern(target) else target / f"*{_ENDING}"
    return pattern.with_name(pattern.name[: -len(_ENDING)].replace("*", "segmentation") + ".json")


def write_niftimasks(segmentation: Segmentation, target: Path) -> None:
    """Write one mask per structure, and the index last.

    Every mask is complete before the first one takes its name, so that a full disk leaves an older
    result as it was. Masks that an older index of this target names, and that are not written
    again, are removed.

    Parameters
    ----------
    segmentation : Segmentation
    target : Path
        A folder (made when it is missing, in an existing one), or a pattern such as
        ``folder/case_*.nii.gz``.

    Raises
    ------
    ImageError
        When the grid is sheared, which NIfTI cannot store.
    OSError
        When the folder cannot be written.
    """
    index = index_path(target)
    folder = index.parent
    if not is_pattern(target):
        folder.mkdir(exist_ok=True)
    pattern = target.name if is_pattern(target) else f"*{_ENDING}"
    files = _file_names(segmentation, pattern)
    outdated = _files_of(index) - set(files.values())
    with tempfile.TemporaryDirectory(prefix=".partialseg-", dir=folder) as unfinished:
        for key, name in files.items():
            mask = segmentation.array(key).view(np.uint8)
            write_image(Image(mask, segmentation.geometry), Path(unfinished) / name)
        for name in files.values():
            os.replace(Path(unfinished) / name, folder / name)
    document = {
        "format": INDEX_FORMAT,
        "version": INDEX_VERSION,
        "algorithm": segmentation.algorithm,
        "geometry": asdict(segmentation.geometry),
        "structures": [{"file": files[item.key], **item.to_json()} for item in segmentation.structures],
    }
    with atomic_write(index) as stream:
        stream.write((json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    for name in outdated:
        (folder / name).unlink(missing_ok=True)


def read_niftimasks(target: Path, geometry: Geometry | None = None) -> Segmentation:
    """Read the masks that an index lists.

    Parameters
    ----------
    target : Path
        The folder, the pattern or the index itself.
    geometry : Geometry, optional
        Grid to put the masks on; without it, the grid that the index names.

    Raises
    ------
    SegmentationError
        When there is no index, or it is damaged, or a mask lies on another grid.
    ImageError
        When a mask is missing or damaged.
    """
    index = index_path(target)
    document = _read_index(index)
    try:
        stored = _geometry(document["geometry"])
        entries = [(Path(entry["file"]).name, Structure.from_json(entry)) for entry in document["structures"]]
        algorithm = str(document["algorithm"])
    except (KeyError, TypeError, ValueError, LabelSpaceError) as error:
        raise SegmentationError(f"The index {index} is damaged: {error}.", "Write the masks again.") from error
    masks = {}
    for name, structure in entries:
        image = read_labels(index.parent / name)
        if not image.geometry.matches(stored, tolerance=_TOLERANCE):
            raise SegmentationError(
                f"The mask {index.parent / name} lies on another grid than {index.name} says.",
                "Save it on the grid of the image.",
            )
        masks[structure.key] = PackedMask.from_array(image.voxels)
    segmentation = Segmentation(stored, tuple(structure for _, structure in entries), masks, algorithm)
    return segmentation if geometry is None else segmentation.on(geometry)


def _file_names(segmentation: Segmentation, pattern: str) -> dict[str, str]:
    """Return the file name of each structure; characters that a file system may refuse become ``_``."""
    names: dict[str, str] = {}
    for key in segmentation.keys:
        safe = re.sub(r"[^\w-]", "_", key)
        while pattern.replace("*", safe) in names.values():
            safe += "_"
        names[key] = pattern.replace("*", safe)
    return names


def _read_index(index: Path) -> dict[str, Any]:
    try:
        document = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise SegmentationError(
            f"There is no index {index} ({error.strerror}).", "Choose a folder that write_segmentation made."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SegmentationError(f"The index {index} is damaged: {error}.", "Write the masks again.") from error
    if not isinstance(document, dict) or document.get("format") != INDEX_FORMAT:
        raise SegmentationError(f"{index} is no index of masks.", "Choose a folder that write_segmentation made.")
    if document.get("version") != INDEX_VERSION:
        raise SegmentationError(
            f"{index} has version {document.get('version')}, but version {INDEX_VERSION} is known.",
            "Update PartialSeg.",
        )
    return document


def _files_of(index: Path) -> set[str]:
    """Return the masks that an older index names; none when there is no valid one."""
    try:
        return {Path(entry["file"]).name for entry in _read_index(index)["structures"]}
    except (SegmentationError, KeyError, TypeError):
        return set()


def _geometry(entry: dict[str, Any]) -> Geometry:
    z, y, x = (int(value) for value in entry["shape"])
    sx, sy, sz = (float(value) for value in entry["spacing"])
    ox, oy, oz = (float(value) for value in entry["origin"])
    return Geometry((z, y, x), (sx, sy, sz), (ox, oy, oz), tuple(float(value) for value in entry["direction"]))
