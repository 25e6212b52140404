"""What a person should read after a run: what was left alone, what was not found, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from PartialSegLib.images import Image
from PartialSegSlicer.logic.results import StructureRow
from PartialSegSlicer.translation import tr as _
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
    return _(
        "'{name}' has values from {low} to {high}, which are no Hounsfield units of a CT: "
        "this model was made for CT and finds nothing of worth in another kind of image."
    ).format(name=name, low=f"{low:g}", high=f"{high:g}")


def notesOf(
    rows: Iterable[StructureRow], report: WriteReport, told: Mapping[str, Any], doubt: str = ""
) -> tuple[str, ...]:
    """Return the sentences to show after a run.

    Parameters
    ----------
    rows : iterable of StructureRow
        What became of each structure.
    report : WriteReport
        What became of other segments.
    told : dict
        The worker's report of the run.
    doubt : str
        From :func:`modalityDoubt`.
    """
    rows = tuple(rows)
    notes = [doubt] if doubt else []
    if told.get("memory_ran_out"):
        notes.append(_frugal(told["forecast"]))
    for status, sentence in (
        ("empty", _("Not found: {names}.")),
        ("completed", _("Left alone, because marked as completed: {names}.")),
        ("edited", _("Left alone, because edited during the run: {names}. Run again to replace.")),
    ):
        names = [row.name for row in rows if row.status == status]
        if names:
            notes.append(sentence.format(names=", ".join(names)))
    if report.taken:
        lost = sum(report.taken.values())
        notes.append(_("Other segments lost {count} voxels to the new ones.").format(count=lost))
    if report.withheld:
        withheld = sum(report.withheld.values())
        notes.append(_("{count} voxels were withheld, because they lie in completed segments.").format(count=withheld))
    return tuple(notes)


def _frugal(plan: Mapping[str, Any]) -> str:
    """Say how a run went on after memory had run out."""
    if plan["groups"] > 1:
        return _("Memory ran out: the run went on in {count} rounds.").format(count=plan["groups"])
    if plan["device"] == "cpu":
        return _("Memory ran out: the run went on on the processor.")
    if plan["accumulated_on"] != plan["device"]:
        return _("Memory ran out: the run went on with its results in main memory.")
    return _("Memory ran out: the run went on with fewer windows at a time.")
