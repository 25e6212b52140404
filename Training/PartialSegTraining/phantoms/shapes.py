"""Signed distances of simple bodies, negative inside, in millimetres; the vocabulary of the anatomy.

All functions take arrays of coordinates that broadcast, so that the same shape is asked on a grid
(painting) and at a few points (placing vessels and lesions).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Point = tuple[float, float, float]


def smooth_min(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Union of two bodies with a fillet of `width` mm (polynomial smooth minimum)."""
    blend = np.maximum(width - np.abs(a - b), 0.0)
    return np.minimum(a, b) - blend * blend * (0.25 / width)


def smooth_max(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Intersection of two bodies with an edge rounded over `width` mm."""
    blend = np.maximum(width - np.abs(a - b), 0.0)
    return np.maximum(a, b) + blend * blend * (0.25 / width)


def rotation(rx: float, ry: float, rz: float) -> np.ndarray:
    """Return the (3, 3) rotation by angles about x, y and z, in degrees, applied in this order."""
    a, b, c = np.radians([rx, ry, rz])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid.

    Parameters
    ----------
    center, radii : tuple of float
        (x, y, z) in millimetres.
    axes : numpy.ndarray
        (3, 3) rotation whose columns are the directions of the radii.
    """

    center: Point
    radii: Point
    axes: np.ndarray

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance, first order: exact at the surface."""
        dx, dy, dz = x - np.float32(self.center[0]), y - np.float32(self.center[1]), z - np.float32(self.center[2])
        scaled = np.float32(0.0)
        gradient = np.float32(0.0)
        for axis, radius in zip(self.axes.T.astype(np.float32), self.radii, strict=True):
            along = (dx * axis[0] + dy * axis[1] + dz * axis[2]) * np.float32(1.0 / radius)
            along *= along
            scaled = scaled + along
            gradient = gradient + along * np.float32(1.0 / radius**2)
        return np.asarray((scaled - np.sqrt(scaled)) / np.sqrt(gradient + np.float32(1e-9)))

    @property
    def reach(self) -> float:
        """Largest radius in millimetres."""
        return max(self.radii)


@dataclass(frozen=True)
class Tube:
    """Capsules between pairs of nodes: a vessel tree, a bowel, a pancreas.

    Parameters
    ----------
    start, end : numpy.ndarray
        (n, 3) end points of the capsules, (x, y, z) in millimetres.
    start_radius, end_radius : numpy.ndarray
        (n,) radii in millimetres.
    """

    start: np.ndarray
    end: np.ndarray
    start_radius: np.ndarray
    end_radius: np.ndarray

    @classmethod
    def along(cls, nodes: np.ndarray, radii: np.ndarray) -> Tube:
        """Return the tube through (n, 3) nodes with (n,) radii."""
        return cls(nodes[:-1], nodes[1:], np.asarray(radii)[:-1], np.asarray(radii)[1:])

    def __len__(self) -> int:
        return len(self.start)


def smooth_path(nodes: ArrayLike, step: float) -> np.ndarray:
    """Return points about `step` mm apart on the Catmull-Rom spline through `nodes`.

    Parameters
    ----------
    nodes : array-like
        (n, k) values; the first three columns are a place, further ones (radii) go along.

    Returns
    -------
    numpy.ndarray
        (m, k), m >= 2, from the first node to the last.
    """
    knots = np.asarray(nodes, float)
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    pieces = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        count = max(int(np.ceil(np.linalg.norm((p2 - p1)[:3]) / step)), 1)
        t = np.arange(count)[:, None] / count
        pieces.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        )
    return np.vstack([*pieces, knots[-1:]])
