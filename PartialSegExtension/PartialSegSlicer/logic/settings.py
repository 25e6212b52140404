"""The words of the panel and the console for the settings of a run, as the library spells them."""

from __future__ import annotations

from collections.abc import Sequence

from PartialSegSlicer.logic.errors import SettingError
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.writing import Overlap

#: Quality, as the user chooses it, and the preset of the library.
QUALITIES = {"fast": "fast", "standard": "standard", "best": "paper"}
#: What may happen where masks meet.
OVERLAPS = tuple(item.value for item in Overlap)


def presetOf(quality: str) -> str:
    """Return the preset of a quality; :class:`SettingError` names the known ones."""
    if quality not in QUALITIES:
        raise SettingError(
            _("There is no quality '{name}'.").format(name=quality),
            _("Choose from: {names}.").format(names=", ".join(QUALITIES)),
        )
    return QUALITIES[quality]


def overlapNamed(name: str | Overlap) -> Overlap:
    """Return the rule where masks meet; :class:`SettingError` names the known ones."""
    if isinstance(name, Overlap):
        return name
    if name not in OVERLAPS:
        raise SettingError(
            _("There is no overlap rule '{name}'.").format(name=name),
            _("Choose from: {names}.").format(names=", ".join(OVERLAPS)),
        )
    return Overlap(name)


def chosenTasks(tasks: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Return the keys of tasks or structures; ``None`` for all of the model.

    Raises
    ------
    SettingError
        When the list is empty.
    """
    if tasks is None:
        return None
    chosen = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not chosen:
        raise SettingError(_("Nothing is chosen to segment."), _("Choose a task or a structure."))
    return chosen
