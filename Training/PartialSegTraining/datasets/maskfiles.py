"""Datasets with one NIfTI file a structure, as TotalSegmentator's: ``CASE/segmentations/liver.nii.gz``.

A label is the name of a file. Files that the manifest does not name are not read. Registered in
:mod:`PartialSegTraining.datasets.layouts`.
"""

from __future__ import annotations

from pathlib import Path

from PartialSegLib.errors import CollectionError
from PartialSegTraining.cases import Case, MaskFiles
from PartialSegTraining.datasets.contract import DatasetFiles, Layout
from PartialSegTraining.datasets.labels import Source
from PartialSegTraining.datasets.patterns import find_cases, locate

_IMAGE, _MASKS = "{case}/ct.nii.gz", "{case}/segmentations/{label}.nii.gz"


def read(dataset: DatasetFiles) -> list[Case]:
    """Read the cases; see :class:`PartialSegTraining.datasets.contract.Layout`."""
    image, masks = dataset.image or _IMAGE, dataset.masks or _MASKS
    if masks.count("{label}") != 1 or "*" in masks:
        raise CollectionError(f"The pattern '{masks}' of {dataset.folder} needs one {{label}}, and no '*'.")
    return [
        Case(name, locate(dataset.folder, image, name), _masks(dataset, masks.replace("{case}", name)))
        for name in find_cases(dataset.folder, image)
    ]


def _masks(dataset: DatasetFiles, masks: str) -> MaskFiles:
    """Find the files of each structure of a case; what a missing one means, the manifest says."""
    paths: list[tuple[str, Path]] = []
    absent = set(dataset.labels.annotated) - {key for key, _ in dataset.labels.sources}
    for key, sources in dataset.labels.sources:
        files = [_file(dataset.folder, masks, source) for source in sources]
        there = [file for file in files if file.is_file()]
        if len(there) == len(files) or dataset.missing == "refuse":
            # A file that is not there is named by whoever reads the case.
            paths += [(key, file) for file in files]
        elif dataset.missing == "absent":
            paths += [(key, file) for file in there]
            absent |= set() if there else {key}
    return MaskFiles(tuple(paths), tuple(sorted(absent)))


def _file(folder: Path, masks: str, source: Source) -> Path:
    """Return the file of a label, by the first of its names that has one."""
    files = [folder / masks.replace("{label}", str(name)) for name in source.names]
    return next((file for file in files if file.is_file()), files[0])


MASK_FILES = Layout(read, "one NIfTI file a structure, as TotalSegmentator's", patterned=True, optional_masks=True)
