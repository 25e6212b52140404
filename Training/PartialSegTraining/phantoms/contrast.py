"""How bright every tissue is: unenhanced density, and what a contrast phase adds to it.

The figures are rounded from radiology textbooks and from the intensity statistics that the
challenges publish; they differ from case to case. Called by the painters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PartialSegTraining.phantoms.fields import stream

PHASES = ("arterial", "portal", "late")

#: Hounsfield units unenhanced, and in the late arterial, portal venous and late phase.
_TABLE: dict[str, tuple[float, float, float, float]] = {
    "aorta": (42, 310, 170, 130),
    "vena_cava": (42, 120, 150, 128),
    "portal_vein": (42, 150, 185, 140),
    "hepatic_vein": (42, 128, 176, 136),
    "heart_blood": (42, 260, 165, 128),
    "myocardium": (45, 105, 110, 95),
    "liver": (58, 78, 112, 92),
    "liver_tumor": (38, 46, 62, 60),
    "liver_tumor_rim": (45, 112, 84, 74),
    "spleen": (48, 122, 124, 106),
    "pancreas": (40, 108, 98, 82),
    "pancreas_tumor": (36, 55, 58, 58),
    "kidney_cortex": (34, 205, 188, 150),
    "kidney_medulla": (32, 105, 172, 165),
    "kidney_tumor": (34, 100, 92, 80),
    "renal_pelvis": (5, 8, 15, 320),
    "adrenal": (28, 85, 88, 66),
    "bowel_wall": (38, 92, 96, 80),
    "stomach_wall": (38, 84, 86, 74),
    "colon_tumor": (40, 88, 98, 88),
    "lung_tumor": (32, 58, 66, 68),
    "muscle": (52, 58, 64, 64),
    "esophagus": (38, 58, 62, 60),
}


@dataclass(frozen=True)
class Contrast:
    """The Hounsfield units of one case.

    Parameters
    ----------
    phase : str
        One of :data:`PHASES`.
    values : dict of str to float
        Mean Hounsfield units of every enhancing tissue.
    """

    phase: str
    values: dict[str, float]

    @classmethod
    def random(cls, seed: int) -> Contrast:
        """Draw a phase (mostly portal venous, as in the MOTS datasets) and the patient's enhancement."""
        rng = stream(seed, "contrast")
        phase = str(rng.choice(PHASES, p=(0.25, 0.55, 0.20)))
        column = 1 + PHASES.index(phase)
        strength = rng.uniform(0.85, 1.15)
        values = {}
        for name, row in _TABLE.items():
            own = rng.normal(1.0, 0.04)
            values[name] = float(row[0] + (row[column] - row[0]) * strength * own + rng.normal(0.0, 1.5))
        # A fatty liver is darker; its vessels and lesions are not.
        values["liver"] -= float(np.clip(rng.normal(0.0, 5.0), -6.0, 6.0))
        return cls(phase, values)

    def __getitem__(self, name: str) -> float:
        return self.values[name]
