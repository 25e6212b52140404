"""From a manifest to cases in their splits; the door for whoever trains, fine-tunes or checks.

:func:`open_collection` gathers what is wrong, for the check; :func:`training_cases` refuses the
first thing that is, before any training starts. Both take the folders with ``collection.json``
that PartialSeg writes for its phantoms as well as manifests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cases import Case, MissingFileError, read_collection, read_json, read_mask_folders
from PartialSegTraining.datasets.layouts import LAYOUTS
from PartialSegTraining.datasets.manifest import Dataset, Manifest, read_manifest
from PartialSegTraining.datasets.splits import assign

#: What makes a folder a collection of its own.
FOLDER_INDEX = "collection.json"
#: Label space of a folder that does not name one.
_FIRST_SPACE = "mots"


@dataclass(frozen=True)
class Member:
    """A case in its place in a collection.

    Parameters
    ----------
    dataset, split : str
        Where it belongs.
    case : Case
        Its name begins with that of the dataset, so that it is unique.
    """

    dataset: str
    split: str
    case: Case


@dataclass(frozen=True)
class Collection:
    """Every case of a collection.

    Parameters
    ----------
    name : str
        For people.
    space : LabelSpace
        Describes its structures.
    members : tuple of Member
        Its cases, in the order of datasets and names.
    problems : tuple of (str, CollectionError)
        What is wrong with it, and in which dataset, as far as can be told without reading images.
    """

    name: str
    space: LabelSpace
    members: tuple[Member, ...]
    problems: tuple[tuple[str, CollectionError], ...] = ()

    def cases(self, split: str) -> list[Case]:
        """Return the cases of a split."""
        return [member.case for member in self.members if member.split == split]


def open_collection(path: str | Path, *, root: str | Path | None = None, space: LabelSpace | None = None) -> Collection:
    """Find every case of a collection, without reading images.

    Parameters
    ----------
    path : path
        Manifest (TOML), name of a preset, or folder with ``collection.json``.
    root : path, optional
        Folder of the datasets, in place of the one that the manifest names.
    space : LabelSpace, optional
        Of a folder with ``collection.json``, in place of the one that it names.

    Raises
    ------
    CollectionError
        When the manifest itself cannot be read; what is wrong with a dataset is in
        :attr:`Collection.problems`.
    """
    if (Path(path) / FOLDER_INDEX).is_file():
        return _open_folder(Path(path), space)
    return open_manifest(read_manifest(path, root))


def open_manifest(manifest: Manifest) -> Collection:
    """Find every case of a manifest; see :func:`open_collection`."""
    members: list[Member] = []
    problems: list[tuple[str, CollectionError]] = []
    for dataset in manifest.datasets:
        try:
            found, wrong = _members(manifest, dataset)
        except CollectionError as error:
            found, wrong = [], [error]
        members += found
        problems += [(dataset.name, error) for error in wrong]
    return Collection(manifest.name, manifest.space, tuple(members), tuple(problems))


def training_cases(path: str | Path, space: LabelSpace) -> tuple[list[Case], list[Case]]:
    """Return the cases to train on, and those to validate on where the collection names some.

    Parameters
    ----------
    path : path
        Folder with ``collection.json``, or a manifest (TOML).
    space : LabelSpace
        Of the recipe; has to know every annotated structure.

    Raises
    ------
    CollectionError
        When anything is wrong with the collection, or a file is missing.
    LabelSpaceError
        When the recipe does not know a structure.
    """
    if Path(path).is_dir():
        return read_collection(path, space), []
    collection = open_collection(path)
    for _, error in collection.problems:
        raise error
    training, validation = collection.cases("train"), collection.cases("validation")
    if not training:
        raise CollectionError(f"{path} has no case to train on.", "Its splits put all of them elsewhere.")
    for case in (*training, *validation):
        for key in sorted(case.annotated):
            space.structure(key)
        for error in missing_files(case):
            raise error
    return training, validation


def missing_files(case: Case) -> Iterator[MissingFileError]:
    """Yield an error for each file of a case that is not there."""
    for file in (case.image_path, *case.annotation.files):
        if not file.exists():
            yield MissingFileError(f"{file} does not exist.", f"Case '{case.name}' needs it.")


def _members(manifest: Manifest, dataset: Dataset) -> tuple[list[Member], list[CollectionError]]:
    """Find the cases of one dataset, and what is wrong with its splits.

    A case that annotates nothing is none: it is left out, as an image without masks is.
    """
    files = manifest.files(dataset)
    read = [case for case in LAYOUTS[dataset.layout].read(files) if case.annotated]
    cases = {case.name: case for case in read}
    splits, problems = assign(dataset, list(cases), manifest.root)
    names = [case.name for case in read]
    problems += [
        CollectionError(f"{files.folder} names the case '{name}' {names.count(name)} times.", "List every case once.")
        for name in cases
        if names.count(name) > 1
    ]
    owner = {name: split for split, names in splits.items() for name in names}
    members = [
        Member(dataset.name, owner[name], replace(case, name=f"{dataset.name}-{name}", dataset=dataset.name))
        for name, case in cases.items()
        if name in owner
    ]
    return members, problems


def _open_folder(folder: Path, space: LabelSpace | None) -> Collection:
    """Open a folder with ``collection.json``, and the fully annotated test cases beside it."""
    if space is None:
        document = read_json(folder / FOLDER_INDEX, "")
        named = document.get("label_space") if isinstance(document, dict) else None
        space = LabelSpace.named(str(named or _FIRST_SPACE))
    members: list[Member] = []
    problems: list[tuple[str, CollectionError]] = []
    try:
        members += [Member("", "train", case) for case in read_collection(folder, space)]
        if (folder / "test").is_dir():
            members += [Member("", "test", case) for case in read_mask_folders(folder / "test", space)]
    except PartialSegError as error:
        known = error if isinstance(error, CollectionError) else CollectionError(error.message, error.hint)
        problems.append(("", known))
    return Collection(folder.name, space, tuple(members), tuple(problems))
