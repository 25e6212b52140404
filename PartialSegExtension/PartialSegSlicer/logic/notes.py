"""What a person should read after a run: what was left alone, what was not found, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterable

from PartialSegLib.images import Image
from PartialSegSlicer.logic.results import StructureRow
from PartialSegSlicer.writing import WriteReport

#: Air in a CT is at -1000 HU, fat at -100: a CT without anything below this shows no air and no fat.
_CT_HAS_BELOW = -200
#: Every how many voxels a scan is looked at.
_STRIDE = 3


def modalityDoubt(image: Image, modality: str, name: str) -> str:
    """Return a sentence when the values of a scan are none of the model's modality; empty otherwise.

    Parameters
    ----------
    image : Image
    modality : str
        What the model was made for, as on its card.
    name : str
        Of the volume.
    """
    if modality.upper() != "CT":
        return ""
    sample = image.voxels[::_STRIDE, ::_STRIDE, ::_STRIDE]
    low, high = float(sample.min()), float(sample.max())
    if low < _CT_HAS_BELOW:
        return ""
    return (
        f"'{name}' has values from {low:g} to {high:g}, which are no Hounsfield units of a CT: "
        "this model was made for CT and finds nothing of worth in another kind of image."
    )


def notesOf(rows: Iterable[StructureRow], report: WriteReport, doubt: str = "") -> tuple[str, ...]:
    """Return the sentences to show after a run."""
    rows = tuple(rows)
    notes = [doubt] if doubt else []
    for status, sentence in (
        ("empty", "Not found: {names}."),
        ("completed", "Left alone, because marked as completed: {names}."),
        ("edited", "Left alone, because edited during the run: {names}. Run again to replace."),
    ):
        names = [row.name for row in rows if row.status == status]
        if names:
            notes.append(sentence.format(names=", ".join(names)))
    if report.taken:
        notes.append(f"Other segments lost {sum(report.taken.values())} voxels to the new ones.")
    if report.withheld:
        notes.append(f"{sum(report.withheld.values())} voxels were withheld, because they lie in completed segments.")
    return tuple(notes)
