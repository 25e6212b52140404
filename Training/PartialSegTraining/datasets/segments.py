"""Masks of a case as the segments of one file, which may overlap: ``.seg.nrrd`` and DICOM SEG.

A label is the name, the key or the code of a segment; where several segments have a code, it means
all of them (tumors are often drawn one by one). The readers of both layouts call :func:`find`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from PartialSegLib.errors import CollectionError, PartialSegError, SegmentationError
from PartialSegLib.images import Geometry, read_image
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegTraining.cases import Case, GridError, LabelError, MissingFileError
from PartialSegTraining.datasets.contract import DatasetFiles
from PartialSegTraining.datasets.labels import Source, means
from PartialSegTraining.datasets.patterns import find_cases, locate

#: Reads a file on the grid of the image; the second path is the image's.
SegmentReader = Callable[[Path, Path, Geometry], Segmentation]


@dataclass(frozen=True)
class SegmentFile:
    """Masks as segments of one file.

    Parameters
    ----------
    path, image_path : Path
        The file, and the image on which it was drawn.
    sources : tuple of (str, tuple of Source)
        Segments of each structure.
    structures : frozenset of str
        Keys of the annotated structures; one without segments is known to be absent.
    complete : bool
        Whether a segment that is missing is an error, rather than a structure that is not there.
    reader : callable
        How the file is read.
    """

    path: Path
    image_path: Path
    sources: tuple[tuple[str, tuple[Source, ...]], ...]
    structures: frozenset[str]
    complete: bool
    reader: SegmentReader

    @property
    def files(self) -> tuple[Path, ...]:
        """The segmentation file."""
        return (self.path,)

    @property
    def values(self) -> tuple[object, ...]:
        """How segments become masks, as far as it decides about the voxels."""
        return (self.sources, self.complete)

    def masks(self, geometry: Geometry) -> dict[str, np.ndarray]:
        """See :meth:`PartialSegTraining.cases.Annotation.masks`; LabelError when a segment is missing."""
        if not self.path.is_file():
            raise MissingFileError(f"{self.path} does not exist.", "Was it moved?")
        segmentation = self.reader(self.path, self.image_path, geometry)
        masks = {key: np.zeros(geometry.shape, bool) for key in sorted(self.structures)}
        for key, sources in self.sources:
            if key not in masks:
                continue
            for source in sources:
                keys = matching(segmentation, source)
                if not keys and self.complete:
                    raise _lacks(self.path, source, segmentation)
                for found in keys:
                    masks[key] |= segmentation.array(found)
        return masks

    def unknown(self, geometry: Geometry) -> np.ndarray | None:
        """See :meth:`PartialSegTraining.cases.Annotation.unknown`: none."""
        return None


def find(dataset: DatasetFiles, image: str, masks: str, reader: SegmentReader) -> list[Case]:
    """Find the cases of a dataset with one segmentation file each.

    Where a missing segment means that nothing is known, every file is opened to see which
    segments it has.

    Parameters
    ----------
    dataset : DatasetFiles
    image, masks : str
        Patterns of the layout, for those that the manifest does not give.
    reader : callable
        How a file is read.
    """
    numbers = [name for _, sources in dataset.labels.sources for source in sources for name in source.names]
    if any(isinstance(name, int) for name in numbers):
        raise LabelError(
            f"The labels of {dataset.folder} are segments, which have no fixed numbers.",
            "Give the name of the segment, or its code such as 'SCT:10200004'.",
        )
    image, masks = dataset.image or image, dataset.masks or masks
    make = partial(SegmentFile, sources=dataset.labels.sources, complete=dataset.missing == "refuse", reader=reader)
    cases = []
    for name, path in find_cases(dataset.folder, masks).items():
        scan = locate(dataset.folder, image, name)
        structures = dataset.labels.annotated
        if dataset.missing == "unknown":
            structures -= _unknown(path, dataset.labels.sources)
        cases.append(Case(name, scan, make(path=path, image_path=scan, structures=structures)))
    return cases


def matching(segmentation: Segmentation, source: Source) -> tuple[str, ...]:
    """Return the keys of the segments that a label means."""
    for name in source.names:
        keys = tuple(structure.key for structure in segmentation.structures if means(str(name), structure))
        if keys:
            return keys
    return ()


def read_on(path: Path, image_path: Path, geometry: Geometry) -> Segmentation:
    """Read a segmentation file on a grid with which its voxels coincide.

    Raises
    ------
    GridError
        When the file is sound, but lies on another grid.
    CollectionError
        When it cannot be read.
    """
    try:
        return read_segmentation(path, geometry=geometry)
    except SegmentationError as error:
        problem = error
    try:
        read_segmentation(path)
    except PartialSegError:
        raise CollectionError(problem.message, problem.hint) from problem
    raise GridError(
        f"{path} does not lie on the grid of its image {image_path.name}: {problem.message}", problem.hint
    ) from problem


def read_on_slices(path: Path, image_path: Path, geometry: Geometry) -> Segmentation:
    """Read a DICOM segmentation by its own regular grid, or else by the slices on which it was drawn.

    Raises
    ------
    GridError, CollectionError
        As :func:`read_on`.
    """
    try:
        return read_on(path, image_path, geometry)
    except CollectionError as error:
        problem = error
    try:
        # The frames of a series with gantry tilt form no grid of their own.
        return read_segmentation(path, image=read_image(image_path))
    except PartialSegError:
        raise problem from None


def _unknown(path: Path, sources: tuple[tuple[str, tuple[Source, ...]], ...]) -> frozenset[str]:
    """Return the structures of which a file lacks a segment."""
    try:
        segmentation = read_segmentation(path)
    except PartialSegError as error:
        raise CollectionError(error.message, error.hint) from error
    return frozenset(key for key, labels in sources if not all(matching(segmentation, source) for source in labels))


def _lacks(path: Path, source: Source, segmentation: Segmentation) -> LabelError:
    names = ", ".join(structure.name for structure in segmentation.structures)
    return LabelError(
        f"{path} has no segment {source}; it has: {names or 'none'}.",
        "Set 'missing' to 'absent' or 'unknown', if that is what a missing segment means.",
    )
