"""One patient's build: how the standard anatomy is stretched and bent, and the walls that bound it.

The anatomy is described once, in *standard* coordinates (x to the patient's left, y to the back,
z to the head, in millimetres; z = 0 lies between T12 and L1, the belly's axis at x = y = 0). A
:class:`Frame` maps patient space to them by a scaling and a smooth random bend. Called by every
painter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PartialSegTraining.phantoms.fields import SmoothField, stream
from PartialSegTraining.phantoms.shapes import Tube

#: Half width and half depth of the standard abdominal cavity, in millimetres.
_CAVITY = (130.0, 95.0)


@dataclass(frozen=True)
class Frame:
    """The map between patient space and standard coordinates, and the patient's stoutness.

    Parameters
    ----------
    scale : tuple of float
        Patient millimetres per standard millimetre along (x, y, z).
    bend : tuple of SmoothField
        Displacement along (x, y, z) in millimetres, a function of patient space.
    fat : float
        Thickness of the subcutaneous fat in standard millimetres.
    """

    scale: tuple[float, float, float]
    bend: tuple[SmoothField, SmoothField, SmoothField]
    fat: float

    @classmethod
    def random(cls, seed: int) -> Frame:
        """Draw a patient: slim to stout, short to tall."""
        rng = stream(seed, "frame")
        stoutness = rng.random()
        scale = (
            0.92 + 0.16 * stoutness + rng.uniform(-0.03, 0.03),
            0.92 + 0.22 * stoutness + rng.uniform(-0.04, 0.04),
            rng.uniform(0.93, 1.08),
        )
        x, y, z = (SmoothField.random(rng, pitch=65.0, deviation=3.4) for _ in range(3))
        return cls(scale, (x, y, z), fat=float(5.0 + 20.0 * stoutness * rng.uniform(0.7, 1.3)))

    def standard(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return standard X, Y, Z on the grid of three patient axes, each (z, y, x) float32."""
        places = (x[None, None, :], y[None, :, None], z[:, None, None])
        grids = []
        for place, scale, bend in zip(places, self.scale, self.bend, strict=True):
            grid = bend.sample(z, y, x)
            grid += (place / scale).astype(np.float32)
            grids.append(grid)
        return grids[0], grids[1], grids[2]

    def to_standard(self, points: np.ndarray) -> np.ndarray:
        """Map (n, 3) patient points to standard ones."""
        displacement = np.stack([bend.at(points) for bend in self.bend], axis=1)
        return np.asarray(points, float) / self.scale + displacement

    def to_patient(self, points: np.ndarray) -> np.ndarray:
        """Map (n, 3) standard points to patient ones, by fixed-point iteration to about 0.01 mm."""
        target = np.atleast_2d(np.asarray(points, float))
        found = target * self.scale
        for _ in range(6):
            found = found - (self.to_standard(found) - target) * self.scale
        return found

    def place(self, tube: Tube) -> Tube:
        """Move a standard tube into the patient; radii grow with the mean scale."""
        size = float(np.prod(self.scale)) ** (1 / 3)
        moved = self.to_patient(np.vstack([tube.start, tube.end]))
        count = len(tube)
        return Tube(moved[:count], moved[count:], tube.start_radius * size, tube.end_radius * size)


def cavity_half_axes(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return half width and half depth of the body cavity at standard heights, in millimetres."""
    chest = np.square(np.clip((z - 130.0) * (1.0 / 175.0), 0.0, 1.0))
    pelvis = np.square(np.clip((-130.0 - z) * (1.0 / 140.0), 0.0, 1.0))
    width = _CAVITY[0] * np.sqrt(1.0 - 0.88 * chest) * (1.0 - 0.40 * pelvis)
    depth = _CAVITY[1] * np.sqrt(1.0 - 0.75 * chest) * (1.0 - 0.10 * pelvis)
    return width, depth


def wall_distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the radial distance from the wall of the body cavity, negative inside, in millimetres.

    The cross-section lies between an ellipse and a rectangle, as a rib cage does.
    """
    width, depth = cavity_half_axes(z)
    radius = np.sqrt(x * x + y * y) + np.float32(1e-3)
    return np.asarray(radius - radius / _roundness(x / width, y / depth))


def diaphragm_height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the standard z of the diaphragm: two domes, deep recesses at the wall, deepest behind."""
    right = 18.0 * np.exp(-(((x + 62.0) / 52.0) ** 2) - (y / 75.0) ** 2)
    left = 10.0 * np.exp(-(((x - 66.0) / 46.0) ** 2) - (y / 75.0) ** 2)
    edge = np.minimum(_roundness(x / _CAVITY[0], y / _CAVITY[1]), 1.1)
    return np.asarray(90.0 + right + left - edge * edge * edge * (68.0 + 0.45 * y))


def _roundness(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the radius of a squarish circle through (u, v): 1 on the cavity's wall."""
    u, v = u * u, v * v
    return np.sqrt(np.sqrt(u * u + v * v + 1.35 * u * v)) + np.float32(1e-5)
