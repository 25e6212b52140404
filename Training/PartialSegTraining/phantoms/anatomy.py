"""Shapes and places of the organs of one patient, in standard coordinates; nothing is painted here.

Organs with a surface of their own (liver, spleen, kidneys) are signed distances; those that are
tubes (pancreas, gut, great vessels) are nodes with radii. Every figure varies from seed to seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from PartialSegTraining.phantoms.fields import stream
from PartialSegTraining.phantoms.frame import diaphragm_height, wall_distance
from PartialSegTraining.phantoms.shapes import (
    Ellipsoid,
    Point,
    Tube,
    rotation,
    smooth_max,
    smooth_min,
    smooth_path,
)

#: Nodes (x, y, z, radius) of the tubes, standard millimetres.
_PATHS: dict[str, list[tuple[float, float, float, float]]] = {
    "aorta": [
        (2, -28, 165, 14), (-4, -34, 200, 15), (2, -18, 228, 14), (14, 8, 232, 13.5), (20, 30, 215, 12.5),
        (20, 35, 160, 12), (15, 30, 80, 11.5), (9, 28, 20, 10.5), (8, 26, -50, 9.5), (6, 28, -112, 9),
    ],
    "right_iliac_artery": [(6, 28, -108, 6.5), (-22, 30, -150, 6), (-48, 18, -195, 5.5), (-66, -20, -262, 5)],
    "left_iliac_artery": [(6, 28, -108, 6.5), (30, 30, -150, 6), (52, 18, -195, 5.5), (68, -20, -262, 5)],
    "vena_cava": [
        (-19, 31, -122, 10.5), (-20, 28, -60, 11), (-21, 23, 0, 11.5), (-21, 15, 50, 12), (-20, 7, 88, 12.5),
        (-18, -2, 118, 14),
    ],
    "right_iliac_vein": [(-19, 32, -120, 7.5), (-34, 38, -155, 7), (-56, 28, -200, 6.5), (-74, -12, -262, 6)],
    "left_iliac_vein": [(-19, 32, -120, 7.5), (26, 40, -155, 7), (58, 28, -200, 6.5), (76, -12, -262, 6)],
    "upper_cava": [(-20, -14, 150, 10), (-26, -20, 200, 9), (-28, -18, 245, 8)],
    "portal_vein": [(-5, -16, -14, 7), (-16, -20, 2, 7), (-31, -20, 17, 7)],
    "splenic_vein": [(-5, -16, -14, 5), (22, -16, 2, 5), (55, 5, 17, 4.8), (86, 32, 32, 4.3)],
    "mesenteric_vein": [(-5, -16, -14, 5.5), (-9, -22, -60, 5.2), (-6, -30, -105, 4.2), (0, -32, -150, 3)],
    "mesenteric_artery": [(8, 18, -2, 4), (6, -8, -22, 3.8), (3, -22, -70, 3.4), (8, -30, -150, 2.5)],
    "celiac_trunk": [(9, 18, 14, 3.8), (8, -2, 18, 3.5), (24, -10, 22, 2.8), (60, 2, 24, 2.6), (84, 24, 36, 2.3)],
    "hepatic_artery": [(8, -2, 18, 2.8), (-10, -14, 14, 2.6), (-28, -24, 20, 2.3)],
    "right_renal_vein": [(-21, 26, -30, 5.5), (-44, 38, -33, 4.5)],
    "left_renal_vein": [(-19, 24, -22, 5.5), (8, 12, -24, 5), (30, 24, -20, 5), (48, 36, -20, 4.5)],
    "right_renal_artery": [(9, 28, -28, 3.2), (-20, 42, -32, 3), (-46, 42, -36, 2.6)],
    "left_renal_artery": [(10, 28, -22, 3.2), (46, 42, -24, 2.8)],
    "right_psoas": [
        (-29, 64, 0, 8), (-35, 60, -60, 14), (-44, 50, -130, 17), (-62, 16, -210, 15), (-80, -18, -270, 13),
    ],
    "left_psoas": [(29, 64, 0, 8), (35, 60, -60, 14), (44, 50, -130, 17), (62, 16, -210, 15), (80, -18, -270, 13)],
    "bladder": [(0, -38, -256, 24), (0, -30, -268, 32), (0, -22, -280, 30)],
    "pancreas": [
        (-24, -20, -58, 9), (-26, -22, -42, 14), (-16, -28, -25, 12), (2, -35, -10, 9.5), (26, -32, 3, 10.5),
        (52, -8, 15, 10.5), (76, 15, 26, 9), (89, 27, 32, 6.5),
    ],
    "gallbladder": [(-38, -28, 2, 5), (-45, -40, -12, 10), (-52, -54, -30, 15), (-56, -62, -44, 13)],
    "esophagus": [(2, 18, 285, 7), (4, 16, 210, 7), (6, 14, 140, 7.5), (16, 10, 88, 7.5), (28, 4, 66, 8)],
    "stomach": [
        (62, 0, 76, 29), (65, -22, 54, 36), (64, -38, 32, 35), (55, -52, 4, 31), (34, -64, -18, 27),
        (8, -62, -22, 21), (-14, -48, -14, 13),
    ],
    "duodenum": [
        (-16, -47, -14, 11), (-40, -40, -10, 12.5), (-52, -20, -28, 12), (-52, -10, -62, 12), (-34, -4, -84, 11.5),
        (2, -2, -88, 11), (30, -8, -72, 11), (38, -22, -50, 11),
    ],
    "colon": [
        (0, 52, -262, 19), (2, 50, -235, 20), (24, 28, -216, 17), (48, -8, -204, 16), (70, -20, -184, 16),
        (92, 6, -176, 17), (102, 22, -140, 18), (106, 28, -80, 18.5), (106, 28, -20, 19), (100, 16, 12, 21),
        (90, -22, 0, 21), (70, -58, -36, 21), (30, -74, -66, 21), (-18, -74, -72, 22), (-62, -62, -66, 22),
        (-92, -22, -62, 23), (-102, 6, -88, 24), (-102, 8, -126, 26), (-92, -4, -168, 28), (-82, -14, -190, 22),
    ],
    "right_adrenal_body": [(-34, 30, 34, 3.4), (-37, 38, 18, 3.2)],
    "right_adrenal_limb": [(-34, 31, 32, 3.2), (-46, 42, 16, 2.8)],
    "left_adrenal_body": [(33, 16, 30, 3.4), (40, 26, 14, 3.2)],
    "left_adrenal_limb": [(33, 17, 28, 3.2), (31, 32, 12, 2.8)],
}  # fmt: skip
#: How far whole tubes move from seed to seed, in millimetres (x, y, z).
_SHIFT = {"stomach": (7.0, 5.0, 8.0), "colon": (3.0, 3.0, 6.0), "gallbladder": (5.0, 4.0, 5.0)}
_DEFAULT_SHIFT = (1.0, 1.0, 2.0)
#: How far single nodes move, in millimetres; tubes that are not named keep their form.
_WOBBLE = {"pancreas": 4.0, "stomach": 4.0, "duodenum": 3.0, "colon": 8.0, "gallbladder": 2.0}


@dataclass(frozen=True)
class Liver:
    """The wedge under the right diaphragm: bounded by the rib cage, the dome and its visceral surface.

    Parameters
    ----------
    drop : float
        How far the right lobe reaches down, as a shift of the visceral surface in millimetres.
    left : float
        How far the left lobe reaches to the left, in millimetres.
    """

    drop: float
    left: float

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance (first order) at standard coordinates."""
        below = 0.62 * (x + 30.0 - self.left) - 0.78 * (z - 6.0 + self.drop)
        right_back = 0.74 * (x + 24.0) + 0.67 * (y - 16.0)
        left_back = 0.42 * (x + 24.0 - 0.5 * self.left) + 0.90 * (y - 12.0)
        inside = smooth_max(wall_distance(x, y, z) + 5.0, 0.8 * (z - diaphragm_height(x, y) + 3.5), 14.0)
        inside = smooth_max(inside, below, 16.0)
        inside = smooth_max(inside, smooth_min(right_back, left_back, 20.0), 12.0)
        cleft = Ellipsoid((-8.0, -78.0, -18.0), (5.0, 42.0, 34.0), rotation(12.0, 0.0, 12.0))
        return smooth_max(inside, -cleft.distance(x, y, z), 8.0)


@dataclass(frozen=True)
class Spleen:
    """A crescent between the ribs, the diaphragm and the stomach."""

    body: Ellipsoid
    hollow: Ellipsoid

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance (first order) at standard coordinates."""
        inside = smooth_max(self.body.distance(x, y, z), wall_distance(x, y, z) + 5.0, 10.0)
        inside = smooth_max(inside, 0.8 * (z - diaphragm_height(x, y) + 3.5), 10.0)
        return smooth_max(inside, -self.hollow.distance(x, y, z), 10.0)


@dataclass(frozen=True)
class Kidney:
    """A bean: an ellipsoid with a sinus that opens to the middle and front."""

    side: str
    body: Ellipsoid
    sinus: Ellipsoid

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance of the parenchyma at standard coordinates."""
        return smooth_max(self.body.distance(x, y, z), -self.sinus.distance(x, y, z), 7.0)


@dataclass(frozen=True)
class Anatomy:
    """The organs of one patient in standard coordinates.

    Parameters
    ----------
    liver, spleen : Liver, Spleen
        Shapes.
    kidneys : tuple of Kidney
        Right and left.
    tubes : dict of str to numpy.ndarray
        (n, 4) nodes (x, y, z, radius) of everything tubular.
    """

    liver: Liver
    spleen: Spleen
    kidneys: tuple[Kidney, Kidney]
    tubes: dict[str, np.ndarray]

    @classmethod
    def random(cls, seed: int) -> Anatomy:
        """Draw the organs of a patient."""
        rng = stream(seed, "anatomy")
        liver = Liver(drop=float(rng.uniform(-8.0, 14.0)), left=float(rng.uniform(-12.0, 34.0)))
        tubes = {name: _vary(name, nodes, rng) for name, nodes in _PATHS.items()}
        tubes["small_bowel"] = _bowel_loops(rng)
        return cls(liver, _random_spleen(rng), (_random_kidney("right", rng), _random_kidney("left", rng)), tubes)

    def tube(self, name: str, step: float = 6.0) -> Tube:
        """Return a named tube in standard coordinates, in capsules about `step` mm long."""
        nodes = smooth_path(self.tubes[name], step)
        return Tube.along(nodes[:, :3], nodes[:, 3])


def _vary(name: str, nodes: ArrayLike, rng: np.random.Generator) -> np.ndarray:
    """Shift a tube as a whole and node by node, and vary its width."""
    varied = np.array(nodes, float)
    varied[:, :3] += rng.uniform(-1.0, 1.0, 3) * _SHIFT.get(name, _DEFAULT_SHIFT)
    varied[:, :3] += np.clip(rng.standard_normal((len(varied), 3)), -2.0, 2.0) * 0.5 * _WOBBLE.get(name, 0.0)
    if name == "stomach":
        varied[:, 3] *= rng.uniform(0.75, 1.12)
    elif name == "pancreas":
        varied[:, 3] *= rng.uniform(1.0, 1.28)
    else:
        varied[:, 3] *= rng.uniform(0.92, 1.08)
    return varied


def _random_spleen(rng: np.random.Generator) -> Spleen:
    size = rng.uniform(0.85, 1.2)
    move = rng.uniform(-1.0, 1.0, 3) * (4.0, 6.0, 8.0)
    turn = rotation(rng.uniform(15.0, 40.0), rng.uniform(-15.0, 5.0), rng.uniform(-15.0, 15.0))
    body = Ellipsoid(
        _point(98.0 + move[0], 34.0 + move[1], 42.0 + move[2]), _point(44.0 * size, 46.0 * size, 64.0 * size), turn
    )
    hollow = Ellipsoid(_point(50.0 + move[0], 0.0 + move[1], 44.0 + move[2]), _point(36.0, 46.0, 62.0), turn)
    return Spleen(body, hollow)


def _random_kidney(side: str, rng: np.random.Generator) -> Kidney:
    sign = -1.0 if side == "right" else 1.0
    size = rng.uniform(0.9, 1.12)
    move = rng.uniform(-1.0, 1.0, 3) * (3.0, 4.0, 9.0)
    center = np.array([sign * 63.0, 45.0, -36.0 if side == "right" else -22.0]) + move
    # Upper poles lie nearer to the spine and farther back; the hilum looks forward.
    turn = rotation(rng.uniform(8.0, 20.0), -sign * rng.uniform(8.0, 18.0), sign * rng.uniform(15.0, 35.0))
    body = Ellipsoid(_point(*center), _point(28.0 * size, 25.0 * size, 53.0 * size), turn)
    hilum = center + turn @ np.array([-sign * 23.0 * size, 0.0, 0.0])
    sinus = Ellipsoid(_point(*hilum), _point(20.0 * size, 8.5 * size, 20.0 * size), turn)
    return Kidney(side, body, sinus)


def _bowel_loops(rng: np.random.Generator) -> np.ndarray:
    """Return a path that winds through the middle of the belly: a wobbly walk over a lattice."""
    pitch = 27.0
    nodes = []
    for level, z in enumerate(np.arange(-70.0, -240.0, -pitch)):
        rows = np.arange(-76.0, 12.0, pitch)
        for row, y in enumerate(rows if level % 2 == 0 else rows[::-1]):
            columns = np.arange(-81.0, 86.0, pitch)
            forward = (row + level * len(rows)) % 2 == 0
            nodes += [(x, y, z, 0.0) for x in (columns if forward else columns[::-1])]
    path = np.array(nodes)
    path[:, :3] += np.clip(rng.standard_normal((len(path), 3)), -2.0, 2.0) * 6.5
    path[:, 3] = rng.uniform(10.0, 14.5, len(path))
    return path


def _point(x: float, y: float, z: float) -> Point:
    return float(x), float(y), float(z)
