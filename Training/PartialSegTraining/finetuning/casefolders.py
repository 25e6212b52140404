"""Reading the case folders that Slicer's side exports, and phantoms' test cases, for fine-tuning.

Both hold ``image.nii.gz`` and ``segmentations/KEY.nii.gz``. An exported case also has ``case.json``,
which says what was annotated and describes the structures; without it every mask counts. Called by the
command line and the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PartialSegLib.errors import CollectionError, LabelSpaceError
from PartialSegLib.structures import Structure
from PartialSegTraining.cases import Case, MaskFiles, MissingFileError, read_json

_CASE, _IMAGE, _MASKS, _ENDING = "case.json", "image.nii.gz", "segmentations", ".nii.gz"
_VERSION = 1


@dataclass(frozen=True)
class DescribedMasks(MaskFiles):
    """Mask files whose structures the case itself describes.

    Parameters
    ----------
    described : tuple of Structure
        Of its masks; what the files contain does not depend on it.
    """

    described: tuple[Structure, ...] = ()


def read_case_folder(path: str | Path, structures: Iterable[str] | None = None) -> Case:
    """Read one case folder.

    Parameters
    ----------
    path : str or Path
        Folder with ``image.nii.gz``, ``segmentations/KEY.nii.gz`` and perhaps ``case.json``.
    structures : iterable of str, optional
        Only these annotations are used; all when not given. Whatever is left out is unknown.

    Raises
    ------
    CollectionError
        When a file is missing, ``case.json`` is incomplete or of another version, or the case does not
        annotate one of `structures`.
    """
    folder = Path(path)
    if not (folder / _IMAGE).is_file():
        raise MissingFileError(f"{folder / _IMAGE} does not exist.", "A case is a folder with an image and masks.")
    masks = _listed(folder) if (folder / _CASE).is_file() else _found(folder)
    if structures is None:
        return Case(folder.name, folder / _IMAGE, masks)
    wanted = frozenset(structures)
    missing = sorted(wanted - masks.structures)
    if missing or not wanted:
        raise CollectionError(
            f"Case {folder} does not annotate {missing[0] if missing else 'anything that was asked for'}.",
            f"It annotates: {', '.join(sorted(masks.structures))}.",
        )
    return only_structures(Case(folder.name, folder / _IMAGE, masks), wanted)


def only_structures(case: Case, structures: Iterable[str]) -> Case:
    """Return a case of mask files without the annotations of other structures; ``case`` itself if there are none.

    Raises
    ------
    CollectionError
        When the case has another kind of annotation.
    """
    wanted, masks = frozenset(structures), case.annotation
    if case.annotated <= wanted:
        return case
    if not isinstance(masks, MaskFiles):
        raise CollectionError(
            f"Case '{case.name}' annotates {', '.join(sorted(case.annotated - wanted))} too, in one label map.",
            "Say in its manifest which labels are which structures.",
        )
    kept = replace(
        masks,
        paths=tuple(entry for entry in masks.paths if entry[0] in wanted),
        absent=tuple(key for key in masks.absent if key in wanted),
    )
    return replace(case, annotation=kept)


def descriptions(cases: Sequence[Case]) -> dict[str, Structure]:
    """Return the structures that cases describe themselves, by key; the first description of each."""
    found: dict[str, Structure] = {}
    for case in cases:
        if isinstance(case.annotation, DescribedMasks):
            for structure in case.annotation.described:
                found.setdefault(structure.key, structure)
    return found


def _found(folder: Path) -> MaskFiles:
    """Take every mask of a folder that has no list of them."""
    files = sorted((folder / _MASKS).glob(f"*{_ENDING}"))
    if not files:
        raise CollectionError(f"{folder / _MASKS} has no mask.", f"Masks are named by structure, as liver{_ENDING}.")
    return MaskFiles(tuple((file.name.removesuffix(_ENDING), file) for file in files))


def _listed(folder: Path) -> DescribedMasks:
    """Take the masks that ``case.json`` lists."""
    path = folder / _CASE
    document = read_json(path, "")
    version = document.get("version") if isinstance(document, Mapping) else None
    if version != _VERSION:
        raise CollectionError(f"{path} has version {version}, but {_VERSION} is known.", "Export the case again.")
    try:
        files = {key: folder / str(document["masks"][key]["file"]) for key in document["annotated"]}
        described = tuple(_structure(entry) for entry in document.get("structures", ()))
    except (KeyError, TypeError, AttributeError, LabelSpaceError) as error:
        raise CollectionError(f"{path} is incomplete: {error}.", "Export the case again.") from error
    for file in files.values():
        # A list may be written by anyone; it names files of its own case only.
        if not file.resolve().is_relative_to(folder.resolve()):
            raise CollectionError(f"{path} names {file}, which is not in the case.", "Export the case again.")
        if not file.is_file():
            raise MissingFileError(f"{file} does not exist.", f"It is listed in {path}.")
    if not files:
        raise CollectionError(f"{path} says that nothing was annotated.", "Mark corrected segments as 'Completed'.")
    return DescribedMasks(tuple(sorted(files.items())), described=described)


def _structure(entry: Any) -> Structure:
    return Structure.from_json(entry)
