"""Tumors and cysts of one patient: where they grow and how large; planned before anything is painted.

The scan's coverage is chosen after the lesions, so that a case of the lung or colon task shows
its tumor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PartialSegTraining.phantoms.anatomy import Anatomy, Kidney
from PartialSegTraining.phantoms.canvas import Canvas, Region
from PartialSegTraining.phantoms.fields import stream
from PartialSegTraining.phantoms.frame import Frame, wall_distance
from PartialSegTraining.phantoms.shapes import Ellipsoid, rotation, smooth_path
from PartialSegTraining.phantoms.torso import lung_distance


@dataclass(frozen=True)
class Lesion:
    """One lump, in patient coordinates.

    Parameters
    ----------
    body : Ellipsoid
        Its form before roughening.
    roughness : float
        How uneven its surface is, as a part of its radius.
    """

    body: Ellipsoid
    roughness: float

    def distance(self, canvas: Canvas, region: Region) -> np.ndarray:
        """Return the signed distance on a region of the canvas, (z, y, x)."""
        uneven = 0.8 * canvas.noise("bumps", region) + 0.4 * canvas.noise("lobes", region)
        x, y, z = canvas.patient(region)
        return self.body.distance(x, y, z) + self.roughness * min(self.body.radii) * np.clip(uneven, -1.6, 1.6)

    def region(self, canvas: Canvas) -> Region:
        """Return the box that the lesion and its edge fill."""
        return canvas.near(self.body.center, 1.3 * self.body.reach + 5.0)


@dataclass(frozen=True)
class Lesions:
    """All lesions of one patient.

    Parameters
    ----------
    liver : tuple of Lesion
        One to four.
    kidney_side : str
        ``right`` or ``left``: which kidney carries the tumor.
    kidney, pancreas, lung : Lesion
        One each.
    cysts : tuple of (str, Lesion)
        Side and form of up to three renal cysts.
    colon : Lesion
        The mass on the colon's wall; the colon's painter cuts it to the wall's neighbourhood.
    """

    liver: tuple[Lesion, ...]
    kidney_side: str
    kidney: Lesion
    pancreas: Lesion
    lung: Lesion
    cysts: tuple[tuple[str, Lesion], ...]
    colon: Lesion

    @classmethod
    def random(cls, seed: int, anatomy: Anatomy, frame: Frame) -> Lesions:
        """Draw the lesions of a patient."""
        rng = stream(seed, "lesions")
        sick = anatomy.kidneys[int(rng.integers(2))]
        tumor = _on_kidney(sick, frame, rng, low=11.0, high=22.0, sink=0.85)
        return cls(
            liver=_in_liver(anatomy, frame, rng),
            kidney_side=sick.side,
            kidney=tumor,
            pancreas=_in_pancreas(anatomy, frame, rng),
            lung=_in_lung(frame, rng),
            cysts=_cysts(anatomy, tumor, frame, rng),
            colon=_in_colon(anatomy, frame, rng),
        )


def _lump(center: np.ndarray, radius: float, roughness: float, rng: np.random.Generator) -> Lesion:
    """Make a lesion with unequal radii, turned at random."""
    radii = radius * rng.uniform(0.85, 1.15, 3)
    x, y, z = (float(value) for value in center)
    body = Ellipsoid((x, y, z), (float(radii[0]), float(radii[1]), float(radii[2])), rotation(*rng.uniform(0, 180, 3)))
    return Lesion(body, roughness)


def _in_liver(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> tuple[Lesion, ...]:
    """Place one to four tumors that keep apart."""
    found: list[Lesion] = []
    for _ in range(int(rng.integers(1, 5))):
        radius = float(rng.uniform(7.0, 14.0) if found else rng.uniform(9.0, 21.0))
        for attempt in range(200):
            if attempt % 50 == 49:
                radius *= 0.85
            place = rng.uniform((-125.0, -85.0, -60.0), (60.0, 70.0, 100.0))
            depth = -float(max(anatomy.liver.distance(*place), 3.0 - anatomy.kidneys[0].body.distance(*place)))
            center = frame.to_patient(place)[0]
            gaps = [np.linalg.norm(center - other.body.center) - other.body.reach for other in found]
            if depth > 0.75 * radius and min(gaps, default=np.inf) > radius + 4.0:
                found.append(_lump(center, radius, 0.14, rng))
                break
    return tuple(found)


def _on_kidney(kidney: Kidney, frame: Frame, rng: np.random.Generator, low: float, high: float, sink: float) -> Lesion:
    """Place a lump on the surface of a kidney, away from the hilum; `sink` is how deep (1: on the surface)."""
    side = -1.0 if kidney.side == "right" else 1.0
    direction = _direction(rng)
    direction[0] = side * (0.25 + abs(direction[0]))
    direction /= np.linalg.norm(direction)
    place = kidney.body.center + kidney.body.axes @ (direction * kidney.body.radii * sink)
    return _lump(frame.to_patient(place)[0], float(rng.uniform(low, high)), 0.10, rng)


def _cysts(anatomy: Anatomy, tumor: Lesion, frame: Frame, rng: np.random.Generator) -> tuple[tuple[str, Lesion], ...]:
    found: list[tuple[str, Lesion]] = []
    wanted = int(rng.choice((0, 1, 2, 3), p=(0.25, 0.4, 0.25, 0.1)))
    for _ in range(40):
        if len(found) == wanted:
            break
        kidney = anatomy.kidneys[int(rng.integers(2))]
        cyst = _on_kidney(kidney, frame, rng, low=6.0, high=16.0, sink=0.95)
        others = [tumor, *(lesion for _, lesion in found)]
        gaps = [np.linalg.norm(np.subtract(cyst.body.center, o.body.center)) - o.body.reach for o in others]
        if min(gaps) > 0.8 * cyst.body.reach:
            found.append((kidney.side, Lesion(cyst.body, 0.03)))
    return tuple(found)


def _in_pancreas(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Lesion:
    """Place a tumor anywhere from head to tail, a little off the duct."""
    path = smooth_path(anatomy.tubes["pancreas"], 4.0)[:, :3]
    place = path[int(rng.uniform(0.1, 0.85) * (len(path) - 1))]
    return _lump(frame.to_patient(place)[0] + 3.0 * _direction(rng), float(rng.uniform(10.0, 16.0)), 0.12, rng)


def _in_colon(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Lesion:
    """Place a mass on the wall of the colon where no other organ takes its room."""
    path = smooth_path(anatomy.tubes["colon"], 4.0)[:, :3]
    path = path[int(0.1 * len(path)) : int(0.96 * len(path))]
    room = _room_beside(anatomy, path)
    wide = path[room >= min(8.0, float(np.quantile(room, 0.7)))]
    place = wide[int(rng.integers(len(wide)))]
    return _lump(frame.to_patient(place)[0] + 7.0 * _direction(rng), float(rng.uniform(14.0, 21.0)), 0.12, rng)


def _room_beside(anatomy: Anatomy, points: np.ndarray) -> np.ndarray:
    """Return how far (n, 3) standard points lie from everything that the colon yields to, in millimetres."""
    x, y, z = points.T
    gaps = [anatomy.liver.distance(x, y, z), anatomy.spleen.distance(x, y, z), -wall_distance(x, y, z)]
    gaps += [kidney.body.distance(x, y, z) for kidney in anatomy.kidneys]
    for name in ("stomach", "duodenum", "gallbladder", "right_psoas", "left_psoas"):
        nodes = smooth_path(anatomy.tubes[name], 6.0)
        gaps.append((np.linalg.norm(points[:, None] - nodes[None, :, :3], axis=2) - nodes[:, 3]).min(axis=1))
    return np.min(gaps, axis=0)


def _direction(rng: np.random.Generator) -> np.ndarray:
    """Return a random unit vector."""
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _in_lung(frame: Frame, rng: np.random.Generator) -> Lesion:
    """Place a nodule or mass in a lung, sometimes against the pleura."""
    radius = float(rng.uniform(10.0, 20.0))
    while True:
        place = rng.uniform((-115.0, -80.0, 20.0), (115.0, 85.0, 235.0))
        x, y, z = place
        depth = -float(lung_distance(x, y, z, wall_distance(x, y, z)))
        if depth > 0.7 * radius:
            return _lump(frame.to_patient(place)[0], radius, 0.13, rng)
