"""What is compared: predicted and true segmentations found and read, reports written. Called by the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PartialSegLib.errors import CollectionError

if TYPE_CHECKING:
    from PartialSegLib.images import Geometry, Image
    from PartialSegLib.segmentation import Segmentation

_MASK_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Pair:
    """A predicted and a true segmentation of one case."""

    name: str
    prediction: Path
    reference: Path


def find_pairs(prediction: Path, reference: Path) -> list[Pair]:
    """Match two segmentations, or two folders of ``.seg.nrrd`` files by their names.

    Raises
    ------
    CollectionError
        When a path does not exist, or a predicted case has no reference.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise CollectionError(f"{path} does not exist.", "Give two segmentations, or two folders of them.")
    files = sorted(prediction.glob("*.seg.nrrd")) if prediction.is_dir() else []
    if not files:
        return [Pair(prediction.name, prediction, reference)]
    missing = [file.name for file in files if not (reference / file.name).is_file()]
    if missing:
        raise CollectionError(f"{reference} has no {missing[0]}.", "Reference files are named as the predicted ones.")
    return [Pair(file.name.removesuffix(".seg.nrrd"), file, reference / file.name) for file in files]


def read_masks(path: Path, image: Image | None = None, geometry: Geometry | None = None) -> Segmentation:
    """Read a segmentation of any format, or a folder of ``KEY.nii.gz`` masks without an index.

    Parameters
    ----------
    path : Path
        File or folder.
    image : Image, optional
        The scan; its grid is used, and a DICOM segmentation is matched with its slices.
    geometry : Geometry, optional
        Grid to use when there is no image.
    """
    from PartialSegLib.segmentationfiles import read_segmentation

    if path.is_dir() and not (path / "segmentation.json").is_file():
        return _read_mask_files(path, geometry if image is None else image.geometry)
    return read_segmentation(path, geometry=geometry, image=image)


def _read_mask_files(folder: Path, geometry: Geometry | None) -> Segmentation:
    from PartialSegLib.images import read_labels
    from PartialSegLib.segmentation import Segmentation
    from PartialSegLib.structures import Code, Structure, catalogue
    from PartialSegTraining.cases import MaskFiles

    files = {file.name.removesuffix(_MASK_ENDING): file for file in sorted(folder.glob(f"*{_MASK_ENDING}"))}
    if not files:
        raise CollectionError(f"{folder} holds no masks.", f"Masks are named by structure, as liver{_MASK_ENDING}.")
    geometry = geometry or read_labels(next(iter(files.values()))).geometry
    tissue = (Code("85756007", "Tissue"), Code("85756007", "Tissue"), (128, 174, 128))
    known = catalogue()
    structures = [known.get(key) or Structure(key, key.replace("_", " ").capitalize(), *tissue) for key in files]
    masks = MaskFiles(tuple(files.items())).masks(geometry)
    return Segmentation.from_arrays(geometry, structures, masks)


def write_report(path: Path, content: str) -> None:
    """Write a text file, whole or not at all.

    Raises
    ------
    CollectionError
        When it cannot be written.
    """
    from PartialSegLib.atomic import atomic_write

    try:
        with atomic_write(path) as stream:
            stream.write(content.encode("utf-8"))
    except OSError as error:
        raise CollectionError(
            f"{path} cannot be written: {error.strerror or error}.", "Choose another file."
        ) from error
