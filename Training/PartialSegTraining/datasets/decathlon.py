"""Datasets of the Medical Segmentation Decathlon: ``dataset.json`` lists images and label maps.

The labels of ``dataset.json`` are ``{"1": "liver"}``. The folders that nnU-Net v1 makes of other
datasets have the same list, but images whose names end in the number of the channel
(``liver_0_0000.nii.gz``). Registered in :mod:`PartialSegTraining.datasets.layouts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PartialSegLib.errors import CollectionError
from PartialSegTraining.cases import Case, LabelMap, decathlon_pairs, read_json
from PartialSegTraining.datasets.contract import DatasetFiles, Layout
from PartialSegTraining.datasets.labels import values_of

_ENDINGS = (".nii.gz", ".nii")


def read(dataset: DatasetFiles) -> list[Case]:
    """Read the training cases; see :class:`PartialSegTraining.datasets.contract.Layout`."""
    path = dataset.folder / "dataset.json"
    declared = _declared(path, read_json(path, "Is it the folder of a dataset of the Decathlon?"))
    values = values_of(dataset.labels, declared, path)
    cases = []
    for image, label in decathlon_pairs(dataset.folder):
        masks = LabelMap(label, values, dataset.labels.annotated)
        cases.append(Case(_name(label), _first_channel(image), masks))
    return sorted(cases, key=lambda case: case.name)


def _declared(path: Path, document: Any) -> dict[str, tuple[int, ...]]:
    """Return the values of the labels by name, without the background."""
    try:
        named = {str(name): int(value) for value, name in document.get("labels", {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CollectionError(f"The labels of {path} are no table: {error}.", 'They read {"1": "liver"}.') from error
    return {name: (value,) for name, value in named.items() if value > 0}


def _first_channel(image: Path) -> Path:
    """Return the listed image, or the first channel of it where nnU-Net v1 renamed it."""
    if image.is_file():
        return image
    renamed = [image.with_name(f"{_name(image)}_0000{ending}") for ending in _ENDINGS]
    return next((path for path in renamed if path.is_file()), image)


def _name(path: Path) -> str:
    ending = next((ending for ending in _ENDINGS if path.name.endswith(ending)), path.suffix)
    return path.name.removesuffix(ending)


DECATHLON = Layout(read, "Medical Segmentation Decathlon and nnU-Net v1: dataset.json lists images and label maps")
