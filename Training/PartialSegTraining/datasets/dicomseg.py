"""Datasets in DICOM: a folder with the series, and a DICOM Segmentation (PS3.3 A.51) beside it.

Many writers leave a segment without a voxel out; a manifest says with ``missing`` what that means.
Registered in :mod:`PartialSegTraining.datasets.layouts`.
"""

from __future__ import annotations

from PartialSegTraining.cases import Case
from PartialSegTraining.datasets import segments
from PartialSegTraining.datasets.contract import DatasetFiles, Layout


def read(dataset: DatasetFiles) -> list[Case]:
    """Read the cases; see :class:`PartialSegTraining.datasets.contract.Layout`."""
    return segments.find(dataset, "{case}/image", "{case}/segmentation.dcm", segments.read_on_slices)


DICOM_SEG = Layout(read, "DICOM series with a DICOM Segmentation", patterned=True, optional_masks=True)
