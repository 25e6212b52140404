"""Everything that is decided about one patient before anything is painted.

Drawn by the phantom and handed to the painters of organs and gut.
"""

from __future__ import annotations

from dataclasses import dataclass

from PartialSegTraining.phantoms.anatomy import Anatomy
from PartialSegTraining.phantoms.contrast import Contrast
from PartialSegTraining.phantoms.frame import Frame
from PartialSegTraining.phantoms.lesions import Lesions


@dataclass(frozen=True)
class Patient:
    """One synthetic patient.

    Parameters
    ----------
    seed : int
        Seed of the phantom; painters draw their own details from it.
    frame : Frame
        Build of the body.
    anatomy : Anatomy
        Organs in standard coordinates.
    lesions : Lesions
        Tumors and cysts in patient coordinates.
    contrast : Contrast
        Hounsfield units.
    """

    seed: int
    frame: Frame
    anatomy: Anatomy
    lesions: Lesions
    contrast: Contrast

    @classmethod
    def random(cls, seed: int) -> Patient:
        """Draw a patient."""
        frame, anatomy = Frame.random(seed), Anatomy.random(seed)
        return cls(seed, frame, anatomy, Lesions.random(seed, anatomy, frame), Contrast.random(seed))
