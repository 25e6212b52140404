"""Datasets with an image and a label map a case, wherever they lie: KiTS, BTCV, SegTHOR.

The manifest gives the pattern of both files, and the values of the labels. Images without a label
map (the test images of a challenge) are no cases. Registered in
:mod:`PartialSegTraining.datasets.layouts`.
"""

from __future__ import annotations

from PartialSegLib.errors import CollectionError
from PartialSegTraining.cases import Case, LabelMap
from PartialSegTraining.datasets.contract import DatasetFiles, Layout
from PartialSegTraining.datasets.labels import values_of
from PartialSegTraining.datasets.patterns import find_cases, locate


def read(dataset: DatasetFiles) -> list[Case]:
    """Read the cases; see :class:`PartialSegTraining.datasets.contract.Layout`."""
    if not dataset.image or not dataset.masks:
        raise CollectionError(
            f"The layout 'pairs' of {dataset.folder} needs to be told where its files lie.",
            "Give 'image' and 'masks', as in image = '{case}/imaging.nii.gz'.",
        )
    values = values_of(dataset.labels, {}, dataset.folder)
    return [
        Case(name, locate(dataset.folder, dataset.image, name), LabelMap(path, values, dataset.labels.annotated))
        for name, path in find_cases(dataset.folder, dataset.masks).items()
    ]


PAIRS = Layout(read, "one image and one label map a case, at patterns with {case}", patterned=True)
