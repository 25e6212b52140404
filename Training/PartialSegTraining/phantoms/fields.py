"""Smooth random functions of space, the source of every irregularity of a phantom.

A field is a cubic B-spline on a coarse lattice of random coefficients. It is evaluated on whole
grids by three small matrix products and at single points by interpolation, with the same result.
Called by the patient's frame (warping) and by the painters (surfaces, textures).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

#: Box in which fields are defined, patient millimetres (x, y, z); scans lie inside it.
_LOW = np.array([-280.0, -280.0, -420.0])
_HIGH = np.array([280.0, 280.0, 420.0])
#: Standard deviation of a cubic B-spline field whose coefficients have unit variance: the mean of
#: the squared basis over one lattice cell is 0.479 an axis.
_BASIS_DEVIATION = 0.479**1.5


@dataclass(frozen=True)
class SmoothField:
    """A smooth random function of patient space with mean 0.

    Parameters
    ----------
    coefficients : numpy.ndarray
        (z, y, x) float32 B-spline coefficients.
    pitch : float
        Distance of the lattice points in millimetres; bumps are about twice as wide.
    """

    coefficients: np.ndarray
    pitch: float

    @classmethod
    def random(cls, rng: np.random.Generator, pitch: float, deviation: float = 1.0) -> SmoothField:
        """Draw a field with bumps of about ``2 * pitch`` mm and the given standard deviation.

        The coefficients are cut at 2.2 standard deviations, so that the field is bounded.
        """
        shape = np.ceil((_HIGH - _LOW) / pitch).astype(int)[::-1] + 4
        draws = np.clip(rng.standard_normal(shape, dtype=np.float32), -2.2, 2.2)
        return cls(draws * np.float32(deviation / _BASIS_DEVIATION), pitch)

    def sample(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the field on the grid of three axes (patient mm), (z, y, x) float32."""
        weights = [self._basis(axis, low, n) for axis, low, n in zip((z, y, x), _LOW[::-1], self._shape, strict=True)]
        part = np.tensordot(weights[0], self.coefficients, axes=(1, 0))
        part = np.matmul(weights[1], part)
        return np.matmul(part, weights[2].T)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the field at (n, 3) points (x, y, z) in patient millimetres, (n,) float32."""
        index = ((np.asarray(points, float) - _LOW) / self.pitch + 1.0).T[::-1]
        return ndimage.map_coordinates(self.coefficients, index, order=3, mode="nearest", prefilter=False)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.coefficients.shape

    def _basis(self, axis: np.ndarray, low: float, count: int) -> np.ndarray:
        """Return the (n, count) cubic B-spline weights of every lattice point at every axis value."""
        position = (np.asarray(axis, float) - low) / self.pitch + 1.0
        offset = np.abs(position[:, None] - np.arange(count))
        near = 2.0 / 3.0 - offset**2 + offset**3 / 2.0
        far = np.clip(2.0 - offset, 0.0, None) ** 3 / 6.0
        return np.where(offset < 1.0, near, far).astype(np.float32)


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return the random stream of one part of one phantom.

    Every part draws from its own stream, so that a change to one leaves the others as they were.
    """
    words = [int.from_bytes(name.encode(), "little") % 2**63 for name in names]
    return np.random.default_rng([seed, *words])
