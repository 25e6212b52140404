"""The systems that are compared: each is a recipe of the repository. Called by the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PartialSegLib.errors import PartialSegError


@dataclass(frozen=True)
class System:
    """One column of the comparison.

    Parameters
    ----------
    key : str
        On the command line.
    name : str
        In tables.
    recipe : str
        Recipe of the repository that trains it.
    published_dice : float or None
        Average Dice of DoDNet's Table 6 (Zhang et al., CVPR 2021) on the MOTS test set, 0 to 1; ``None``
        for systems that it does not list.
    rounds : int
        How many times the steps of the benchmark it makes: more than once only to tell what the budget did.
        Such a system runs when it is named.
    """

    key: str
    name: str
    recipe: str
    published_dice: float | None = None
    rounds: int = 1


#: In the order of DoDNet's Table 6, then the systems that came after it.
SYSTEMS = (
    System("multi-nets", "Multi-Nets", "phantom-multi-nets", 0.7167),
    System("multi-nets-7", "Multi-Nets, 7 x steps", "phantom-multi-nets", 0.7167, rounds=7),
    System("tal", "TAL", "phantom-tal", 0.7335),
    System("multi-head", "Multi-Head", "phantom-multi-head", 0.7455),
    System("cond-no", "Cond-NO", "phantom-cond-no", 0.6037),
    System("cond-input", "Cond-Input", "phantom-cond-input", 0.7468),
    System("cond-dec", "Cond-Dec", "phantom-cond-dec", 0.7271),
    System("dodnet", "DoDNet", "phantom-benchmark", 0.7564),
    System("tgnet", "TGNet", "phantom-tgnet"),
    System("multitalent-unet", "MultiTalent U-Net", "phantom-multitalent-unet"),
    System("multitalent-resenc", "MultiTalent ResEnc", "phantom-multitalent-resenc"),
    System("multitalent-swinunetr", "MultiTalent SwinUNETR", "phantom-multitalent-swinunetr"),
    System("u2net", "3D U2-Net", "phantom-u2net"),
    System("kits21", "KiTS21 backbone", "phantom-kits21-pretraining"),
)


def find_systems(keys: Sequence[str] | None = None) -> tuple[System, ...]:
    """Return the systems of these keys, in the order of :data:`SYSTEMS`; those at equal budget without keys.

    Raises
    ------
    PartialSegError
        When a key is unknown.
    """
    known = [system.key for system in SYSTEMS]
    for key in keys or ():
        if key not in known:
            raise PartialSegError(f"There is no system '{key}'.", f"Known: {', '.join(known)}.")
    return tuple(system for system in SYSTEMS if (system.key in keys if keys else system.rounds == 1))
