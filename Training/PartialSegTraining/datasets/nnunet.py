"""Datasets of nnU-Net v2: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``.

Labels are named with one value, or as regions with several (``"whole tumor": [1, 2, 3]``, then
``regions_class_order`` says how nnU-Net writes a prediction back as one label map). A manifest may
name either. A label called ``ignore`` marks voxels of which nothing is known
(:meth:`PartialSegTraining.cases.Case.unknown`). Registered in
:mod:`PartialSegTraining.datasets.layouts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PartialSegLib.errors import CollectionError
from PartialSegTraining.cases import Case, LabelMap, MissingFileError, read_json
from PartialSegTraining.datasets.contract import DatasetFiles, Layout
from PartialSegTraining.datasets.labels import values_of

_BACKGROUND, _IGNORE = "background", "ignore"
#: What a damaged description raises while it is taken apart.
_DAMAGE = (AttributeError, KeyError, TypeError, ValueError, IndexError)
_HINT = "See nnU-Net's documentation of the dataset format."


def read(dataset: DatasetFiles) -> list[Case]:
    """Read the training cases; see :class:`PartialSegTraining.datasets.contract.Layout`."""
    path = dataset.folder / "dataset.json"
    document = read_json(path, "Is it a dataset of nnU-Net v2?")
    try:
        declared, ignored = _labels(document, path)
        files = _files(document, dataset.folder, path)
    except _DAMAGE as error:
        raise CollectionError(f"{path} is incomplete: {error!r}.", _HINT) from error
    values = values_of(dataset.labels, declared, path)
    return [
        Case(name, image, LabelMap(label, values, dataset.labels.annotated, ignored))
        for name, (image, label) in sorted(files.items())
    ]


def _labels(document: Mapping[str, Any], path: Path) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Return the values of each label or region by name, and the value that is ignored."""
    declared: dict[str, tuple[int, ...]] = {}
    ignored: int | None = None
    regions = False
    for name, value in document["labels"].items():
        if name == _IGNORE:
            ignored = int(value)
        elif name != _BACKGROUND:
            regions |= isinstance(value, list)
            declared[name] = tuple(int(item) for item in (value if isinstance(value, list) else [value]))
    if regions:
        order = document.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(declared):
            raise CollectionError(
                f"{path} has {len(declared)} regions, but its 'regions_class_order' is {order}.",
                "It needs one value for each region.",
            )
    if ignored is not None and any(ignored in values for values in declared.values()):
        raise CollectionError(f"{path} uses the value {ignored} both as 'ignore' and as a label.", _HINT)
    return declared, ignored


def _files(document: Mapping[str, Any], folder: Path, path: Path) -> dict[str, tuple[Path, Path]]:
    """Return image and label map of each case."""
    channels = document["channel_names"]
    if len(channels) != 1:
        raise CollectionError(
            f"{path} has {len(channels)} channels a case: {', '.join(map(str, channels.values()))}.",
            "A case is one image here: make a dataset with one channel.",
        )
    if "dataset" in document:
        listed = document["dataset"]
        return {name: (folder / entry["images"][0], folder / entry["label"]) for name, entry in listed.items()}
    ending = str(document["file_ending"])
    # Archives made on a Mac carry hidden files with the same endings.
    labels = sorted(path for path in (folder / "labelsTr").glob(f"*{ending}") if not path.name.startswith("."))
    if not labels:
        raise MissingFileError(f"{folder / 'labelsTr'} holds no *{ending}.", f"{path} names this ending.")
    expected = document.get("numTraining", len(labels))
    if expected != len(labels):
        raise MissingFileError(
            f"{folder / 'labelsTr'} holds {len(labels)} label maps, but {path.name} promises {expected}.",
            "Complete the dataset, or correct 'numTraining'.",
        )
    names = [label.name.removesuffix(ending) for label in labels]
    images = folder / "imagesTr"
    return {name: (images / f"{name}_0000{ending}", label) for name, label in zip(names, labels, strict=True)}


NNUNET = Layout(read, "nnU-Net v2: dataset.json with label values or regions, imagesTr, labelsTr")
