"""How carefully to look: the presets that a user chooses from. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from PartialSegLib.errors import PartialSegError


@dataclass(frozen=True)
class Preset:
    """How windows are laid and averaged.

    Parameters
    ----------
    name : str
        What the user chooses.
    description : str
        One line for the user.
    overlap : float
        Shared fraction of neighbouring windows.
    flips : bool
        Average the probabilities of mirrored copies of a window, along the axes of the model's card.
    as_evaluated : bool
        Lay windows by the rule of the model's card (``window_steps``), in place of an even spread.
    coarse : bool
        Search the region of the chosen structures at the model's coarse spacing first.
    """

    name: str
    description: str
    overlap: float
    flips: bool = False
    as_evaluated: bool = False
    coarse: bool = False


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("fast", "coarse region first, quarter overlap", 0.25, coarse=True),
        Preset("standard", "half overlap", 0.5),
        Preset(
            "paper",
            "half overlap, mirrored copies averaged, as the model's authors evaluated it",
            0.5,
            flips=True,
            as_evaluated=True,
        ),
    )
}


def preset_named(name: str) -> Preset:
    """Return a preset; :class:`PartialSegError` names the known ones."""
    if name not in PRESETS:
        raise PartialSegError(f"Unknown preset '{name}'.", f"Choose from: {', '.join(PRESETS)}.")
    return PRESETS[name]
