"""Datasets that were drawn in 3D Slicer: ``CASE.nrrd`` and ``CASE.seg.nrrd`` with overlapping segments.

Registered in :mod:`PartialSegTraining.datasets.layouts`.
"""

from __future__ import annotations

from PartialSegTraining.cases import Case
from PartialSegTraining.datasets import segments
from PartialSegTraining.datasets.contract import DatasetFiles, Layout


def read(dataset: DatasetFiles) -> list[Case]:
    """Read the cases; see :class:`PartialSegTraining.datasets.contract.Layout`."""
    return segments.find(dataset, "{case}.nrrd", "{case}.seg.nrrd", segments.read_on)


SEG_NRRD = Layout(read, ".seg.nrrd with overlapping segments, as 3D Slicer's", patterned=True, optional_masks=True)
