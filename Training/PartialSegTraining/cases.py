"""Cases: an image, its masks, and which structures were annotated.

Unknown is not background. A case names the structures that somebody looked for in it; a mask
without a voxel means "looked for and absent", no mask means "nobody looked". Some voxels of a case may
be unknown for all of its structures, as those with the ignore label of nnU-Net v2. Everything that
trains or judges a model reads its cases in this form. Here are also the folders that PartialSeg
writes itself: partially labelled collections of phantoms, and cases with one mask file a structure.
Collections of other datasets and layouts are read in :mod:`PartialSegTraining.datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from PartialSegLib.errors import CollectionError, ImageError
from PartialSegLib.images import Geometry, Image, read_image, read_labels
from PartialSegLib.structures import LabelSpace


class GridError(CollectionError):
    """A mask that lies on another grid than its image."""

    code = "grid"


class LabelError(CollectionError):
    """A label value or name that stands for no structure."""

    code = "label"


class MissingFileError(CollectionError):
    """A file of a case that does not exist."""

    code = "missing-file"


class Annotation(Protocol):
    """Where the masks of a case lie, and how to read them."""

    @property
    def structures(self) -> frozenset[str]:
        """Keys of the structures that were annotated."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it reads."""

    def masks(self, geometry: Geometry) -> dict[str, np.ndarray]:
        """Read one boolean (z, y, x) mask a structure, on the grid of the image.

        Raises
        ------
        CollectionError
            When a file is missing or has another grid.
        """

    def unknown(self, geometry: Geometry) -> np.ndarray | None:
        """Read where nobody looked: boolean (z, y, x), or ``None`` when somebody looked everywhere.

        No mask has a voxel there; CollectionError as :meth:`masks`.
        """


@dataclass(frozen=True)
class Case:
    """One image and what is known about it.

    Parameters
    ----------
    name : str
        Unique within its collection.
    image_path : Path
        The image file, or the folder of a DICOM series.
    annotation : Annotation
        Its masks.
    dataset : str
        Which dataset of its collection it belongs to; empty where nobody said.
    """

    name: str
    image_path: Path
    annotation: Annotation
    dataset: str = ""

    @property
    def annotated(self) -> frozenset[str]:
        """Keys of the structures that were annotated; nothing is known about any other."""
        return self.annotation.structures

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the case consists of; those of a DICOM series by name."""
        folder = self.image_path.is_dir()
        images = sorted(path for path in self.image_path.iterdir() if path.is_file()) if folder else [self.image_path]
        return (*images, *self.annotation.files)

    def tasks(self, space: LabelSpace) -> tuple[str, ...]:
        """Return the keys of the tasks of which the case annotates at least one structure."""
        return tuple(task.key for task in space.tasks if self.annotated.intersection(task.structures))

    def load(self) -> tuple[Image, dict[str, np.ndarray]]:
        """Read the image and a boolean (z, y, x) mask for each annotated structure.

        Raises
        ------
        CollectionError
            When a file is missing or unreadable, a label value has no structure, or image and
            mask have different grids.
        """
        image = self.read_image()
        return image, self.annotation.masks(image.geometry)

    def unknown(self, geometry: Geometry) -> np.ndarray | None:
        """Read the voxels of which nothing is known: boolean (z, y, x), ``None`` where there is none.

        They are in no mask of :meth:`load`, and are not background either: a loss gives them no gradient,
        and a score does not count them. CollectionError as :meth:`load`.
        """
        return self.annotation.unknown(geometry)

    def read_image(self) -> Image:
        """Read the image alone; CollectionError as :meth:`load`."""
        return _read(self.image_path, read_image)


@dataclass(frozen=True)
class LabelMap:
    """Masks as values of one integer image, as in the Medical Segmentation Decathlon.

    Parameters
    ----------
    path : Path
        The label image.
    values : tuple of (int, tuple of str)
        Structures that each value belongs to; a tumor's value usually belongs to its organ too.
    structures : frozenset of str
        Keys of the annotated structures.
    ignored : int, optional
        Value of voxels of which nothing is known, as the ignore label of nnU-Net v2.
    """

    path: Path
    values: tuple[tuple[int, tuple[str, ...]], ...]
    structures: frozenset[str]
    ignored: int | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The label image."""
        return (self.path,)

    def masks(self, geometry: Geometry) -> dict[str, np.ndarray]:
        """See :meth:`Annotation.masks`; a value that is not in the table is a LabelError."""
        labels = _read_on(self.path, geometry)
        known = {0, *(value for value, _ in self.values)}
        found = np.unique(labels)
        unknown = [value for value in found.tolist() if value not in known and value != self.ignored]
        if unknown:
            raise LabelError(
                f"{self.path} has the label value {unknown[0]:g}, which stands for no structure.",
                f"Known values: {', '.join(str(value) for value in sorted(known))}; correct the table of labels.",
            )
        masks = {key: np.zeros(geometry.shape, bool) for key in sorted(self.structures)}
        for value, keys in self.values:
            if value in found:
                selected = labels == value
                for key in keys:
                    masks[key] |= selected
        return masks

    def unknown(self, geometry: Geometry) -> np.ndarray | None:
        """See :meth:`Annotation.unknown`: the voxels of the value that is ignored."""
        if self.ignored is None:
            return None
        where = _read_on(self.path, geometry) == self.ignored
        return where if where.any() else None


@dataclass(frozen=True)
class MaskFiles:
    """Masks as one image file a structure; they may overlap.

    Parameters
    ----------
    paths : tuple of (str, Path)
        Structure keys and their files; non-zero voxels are inside. A structure with several files
        is their union.
    absent : tuple of str
        Keys of structures that were looked for, and have no file because they are not there.
    """

    paths: tuple[tuple[str, Path], ...]
    absent: tuple[str, ...] = ()

    @property
    def structures(self) -> frozenset[str]:
        """Keys of the structures that have a file or are known to be absent."""
        return frozenset((*(key for key, _ in self.paths), *self.absent))

    @property
    def values(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """File names and the structures that they show, as :attr:`LabelMap.values`."""
        return tuple((path.name, (key,)) for key, path in self.paths)

    @property
    def files(self) -> tuple[Path, ...]:
        """The mask files."""
        return tuple(path for _, path in self.paths)

    def masks(self, geometry: Geometry) -> dict[str, np.ndarray]:
        """See :meth:`Annotation.masks`."""
        masks = {key: np.zeros(geometry.shape, bool) for key in sorted(self.structures)}
        for key, path in self.paths:
            masks[key] |= _read_on(path, geometry) != 0
        return masks

    def unknown(self, geometry: Geometry) -> np.ndarray | None:
        """See :meth:`Annotation.unknown`: none."""
        return None


def read_collection(root: str | Path, space: LabelSpace) -> list[Case]:
    """Read every training case of a partially labelled collection.

    Parameters
    ----------
    root : path
        Folder with ``collection.json``: ``{"datasets": [{"folder", "task", "labels", "annotated"}]}``,
        where ``labels`` maps values to structures and each folder is a Decathlon dataset.
    space : LabelSpace
        Has to know every annotated structure.

    Raises
    ------
    CollectionError
        When a file is missing, an entry is incomplete, or a case is named twice.
    """
    root = Path(root)
    path = root / "collection.json"
    document = read_json(path, "'partialseg phantom' makes a collection.")
    cases: list[Case] = []
    try:
        for entry in document["datasets"]:
            labels = {int(value): tuple(keys) for value, keys in entry["labels"].items()}
            read = read_decathlon(root / entry["folder"], labels, entry["annotated"], space)
            cases += [replace(case, dataset=str(entry["folder"])) for case in read]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CollectionError(
            f"{path} is incomplete: {error!r}.", "Each dataset needs 'folder', 'labels' and 'annotated'."
        ) from error
    if not cases:
        raise CollectionError(f"{path} lists no dataset.", "Run what makes the collection again, to its end.")
    _refuse_duplicates(cases, path)
    return cases


def read_decathlon(
    folder: str | Path, labels: Mapping[int, tuple[str, ...]], annotated: Iterable[str], space: LabelSpace
) -> list[Case]:
    """Read the training cases of one dataset in the layout of the Medical Segmentation Decathlon.

    Parameters
    ----------
    folder : path
        Folder with ``dataset.json``, whose ``training`` lists pairs of ``image`` and ``label``.
    labels : mapping
        Structures of each label value.
    annotated : iterable of str
        Keys of the structures that were annotated in every case.
    space : LabelSpace
        Has to know them.

    Raises
    ------
    CollectionError
        When ``dataset.json`` is missing or incomplete, a listed file does not exist, or a label
        stands for a structure that is not annotated.
    """
    folder, keys = Path(folder), frozenset(annotated)
    path = folder / "dataset.json"
    for key in sorted(keys):
        space.structure(key)
    stray = sorted({key for named in labels.values() for key in named} - keys)
    if stray:
        raise CollectionError(
            f"{folder} has labels for {', '.join(stray)}, but does not say that they were annotated.",
            "Add them to 'annotated', or take them out of 'labels'.",
        )
    values = tuple(sorted((value, tuple(named)) for value, named in labels.items() if named))
    cases = []
    for image, label in decathlon_pairs(folder):
        for file in (image, label):
            _require_file(file, f"It is listed in {path}.")
        cases.append(Case(_stem(image), image, LabelMap(label, values, keys)))
    return cases


def decathlon_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return image and label file of each training case that ``dataset.json`` lists; they may be missing.

    Raises
    ------
    CollectionError
        When ``dataset.json`` is missing or incomplete.
    """
    path = folder / "dataset.json"
    hint = "Its 'training' lists pairs of 'image' and 'label'."
    try:
        pairs = [(folder / pair["image"], folder / pair["label"]) for pair in read_json(path, "")["training"]]
    except (KeyError, TypeError) as error:
        raise CollectionError(f"{path} is incomplete: {error!r}.", hint) from error
    if not pairs:
        raise CollectionError(f"{path} lists no training case.", hint)
    return pairs


def read_mask_folders(root: str | Path, space: LabelSpace) -> list[Case]:
    """Read cases with one mask file a structure: ``CASE/image.nii.gz``, ``CASE/segmentations/KEY.nii.gz``.

    Parameters
    ----------
    root : path
        Folder of case folders, as the ``test`` folder of a collection.
    space : LabelSpace
        Structures it does not know are left out.

    Raises
    ------
    CollectionError
        When there is no case, or a case has no image or no mask of a known structure.
    """
    root = Path(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise CollectionError(
            f"{root} holds no case.", "A case is a folder with 'image.nii.gz' and a folder 'segmentations'."
        )
    known = {structure.key for structure in space.structures}
    cases = []
    for folder in folders:
        image = folder / "image.nii.gz"
        _require_file(image, "Every case folder needs it.")
        files = sorted((folder / "segmentations").glob("*.nii.gz"))
        masks = tuple((_stem(file), file) for file in files if _stem(file) in known)
        if not masks:
            raise CollectionError(
                f"{folder / 'segmentations'} has no mask of a structure of '{space.name}'.",
                f"Files are named by structure, as {sorted(known)[0]}.nii.gz.",
            )
        cases.append(Case(folder.name, image, MaskFiles(masks)))
    return cases


def _read(path: Path, reader: Callable[[Path], Image]) -> Image:
    """Read an image or label file; what is wrong with it is a CollectionError."""
    if not path.is_dir():
        _require_file(path, "Was it moved?")
    try:
        return reader(path)
    except ImageError as error:
        raise CollectionError(error.message, error.hint) from error


def _read_on(path: Path, geometry: Geometry) -> np.ndarray:
    """Read the voxels of a mask or label image that has to lie on the grid of its image."""
    image = _read(path, read_labels)
    if not image.geometry.matches(geometry):
        raise GridError(
            f"{path} does not lie on the grid of its image: {_words(image.geometry)}, not {_words(geometry)}.",
            "Resample the mask to the image.",
        )
    return image.voxels


def _words(geometry: Geometry) -> str:
    z, y, x = geometry.shape
    spacing = " x ".join(f"{value:g}" for value in geometry.spacing)
    return f"{x} x {y} x {z} voxels of {spacing} mm from {tuple(round(value, 2) for value in geometry.origin)}"


def read_json(path: Path, hint: str) -> Any:
    """Read a JSON file; a CollectionError, with `hint` when it is missing."""
    _require_file(path, hint)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CollectionError(f"{path} is not readable JSON: {error}.") from error


def _require_file(path: Path, hint: str) -> None:
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist.", hint)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _refuse_duplicates(cases: list[Case], path: Path) -> None:
    names = [case.name for case in cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CollectionError(f"{path} names the case '{repeated[0]}' twice.", "Give every image its own file name.")
