"""What every reader of a layout takes and gives.

A reader finds the cases of one dataset and says what each of them annotates. It reads no voxels,
and does not complain about a missing file of a case: whoever opens the case does, naming it, so
that a check can list them all. Called by :mod:`PartialSegTraining.datasets.collection`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PartialSegTraining.cases import Case
from PartialSegTraining.datasets.labels import LabelTable

#: What to make of a structure whose file or segment is missing in a case: an error, nothing is
#: known about it there, or somebody looked and it was not there.
MISSING = ("refuse", "unknown", "absent")


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset on disk, as a reader takes it.

    Parameters
    ----------
    folder : Path
        Of the dataset.
    labels : LabelTable
        What its labels mean.
    image, masks : str
        Patterns of the files of a case (:mod:`PartialSegTraining.datasets.patterns`); empty for
        those of the layout.
    missing : str
        One of :data:`MISSING`.
    """

    folder: Path
    labels: LabelTable
    image: str = ""
    masks: str = ""
    missing: str = "refuse"


@dataclass(frozen=True)
class Layout:
    """A way in which datasets lie on disk.

    Parameters
    ----------
    read : callable
        Takes a :class:`DatasetFiles`, and returns its cases in alphabetical order of their names; raises
        CollectionError when the dataset as a whole cannot be read.
    words : str
        What it is, for people.
    patterned : bool
        Whether the manifest may say where files lie.
    optional_masks : bool
        Whether a structure may be missing in a case, so that the manifest may say what it means.
    """

    read: Callable[[DatasetFiles], list[Case]]
    words: str
    patterned: bool = False
    optional_masks: bool = False
