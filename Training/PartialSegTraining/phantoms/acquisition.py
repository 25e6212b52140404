"""How the scanner sees the patient: field of view, coverage, slices, sharpness and noise.

Called by the phantom: first to choose the planes to paint on, last to turn them into slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from PartialSegLib.images import Geometry, Vector
from PartialSegTraining.phantoms.canvas import Planes
from PartialSegTraining.phantoms.fields import stream

#: Slices thicker than this are averaged from three planes, in millimetres.
_THIN = 2.6
#: Least coverage of a scan, and the standard heights between which scans lie, in millimetres.
_SHORTEST = 170.0
_LOWEST, _HIGHEST = -262.0, 285.0
#: Standard deviation of white noise of unit deviation after a Gaussian of 0.7 pixels in the plane.
_GRAIN_DEVIATION = 0.404


@dataclass(frozen=True)
class Scan:
    """The geometry and the quality of one scan.

    Parameters
    ----------
    geometry : Geometry
        Grid of the slices.
    planes_per_slice : int
        Fine planes that are averaged into one slice (odd: the middle one is the slice's center).
    noise : float
        Standard deviation of the noise in Hounsfield units.
    blur : float
        Width (standard deviation) of the reconstruction kernel in voxels.
    """

    geometry: Geometry
    planes_per_slice: int
    noise: float
    blur: float

    @classmethod
    def random(
        cls,
        seed: int,
        needed: tuple[float, float],
        scale: Vector,
        fat: float,
        spacing: Vector | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> Scan:
        """Choose a scan that covers the heights `needed` (standard z), and more by chance.

        Parameters
        ----------
        seed : int
            Seed of the phantom.
        needed : tuple of float
            Lowest and highest standard z that the scan must show, in millimetres.
        scale : tuple of float
            Patient millimetres per standard millimetre, (x, y, z).
        fat : float
            Thickness of the subcutaneous fat in millimetres: the field of view fits the patient.
        spacing : tuple of float, optional
            (x, y, z) in millimetres; drawn when not given.
        shape : tuple of int, optional
            (z, y, x); follows from field of view and coverage when not given.
        """
        rng = stream(seed, "scan")
        low, high = (height * scale[2] for height in _random_coverage(needed, rng))
        view = float(np.clip((276.0 + 2.3 * fat) * scale[0] * rng.uniform(1.04, 1.2), 330.0, 430.0))
        matrix = int(rng.choice((192, 208, 224, 256)))
        thickness = float(rng.choice((1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)))
        center = np.array([0.0, 14.0 * scale[1]]) + rng.uniform(-8.0, 8.0, 2)
        if shape is not None:
            pixel = round(view / shape[2], 4)
            spacing = spacing or (pixel, pixel, round((high - low) / shape[0], 4))
        else:
            pixel = round(view / matrix, 4)
            spacing = spacing or (pixel, pixel, thickness)
            shape = (round((high - low) / spacing[2]), round(view / spacing[1]), round(view / spacing[0]))
        # The lower end is kept: coverage that is too short for the shape loses the upper end.
        extent = np.array(spacing) * (np.array(shape[::-1]) - 1)
        start = np.array([center[0] - extent[0] / 2, center[1] - extent[1] / 2, low + spacing[2] / 2])
        x, y, z = (round(float(value), 3) for value in start)
        noise = float(rng.uniform(7.0, 16.0) * np.clip(2.0 / spacing[2], 0.6, 1.4) ** 0.5)
        per_slice = 1 if spacing[2] <= _THIN else 3
        return cls(Geometry(shape, spacing, (x, y, z)), per_slice, noise, blur=float(rng.uniform(0.35, 0.6)))

    @property
    def planes(self) -> Planes:
        """The fine planes that the organs are painted on."""
        return self._planes(self.planes_per_slice)

    @property
    def middle_planes(self) -> Planes:
        """The middle planes of the slices, for what is too smooth along z to need the fine ones."""
        return self._planes(1)

    def _planes(self, per_slice: int) -> Planes:
        (depth, height, width), (sx, sy, sz) = self.geometry.shape, self.geometry.spacing
        x0, y0, z0 = self.geometry.origin
        fine = sz / per_slice
        z = z0 - fine * (per_slice - 1) / 2 + fine * np.arange(depth * per_slice)
        y, x = y0 + sy * np.arange(height), x0 + sx * np.arange(width)
        return Planes(z.astype(np.float32), y.astype(np.float32), x.astype(np.float32))

    def slices(self, hu: np.ndarray, seed: int) -> np.ndarray:
        """Average fine planes to slices, blur, add noise, and round as a scanner stores them.

        Parameters
        ----------
        hu : numpy.ndarray
            (z * planes_per_slice, y, x) float32.
        seed : int
            Seed of the phantom.

        Returns
        -------
        numpy.ndarray
            (z, y, x) int16, at least -1024.
        """
        depth, height, width = self.geometry.shape
        thick = hu.reshape(depth, self.planes_per_slice, height, width).mean(axis=1)
        rng = stream(seed, "noise")
        for number, plane in enumerate(thick):
            grain = ndimage.gaussian_filter(rng.standard_normal(plane.shape, dtype=np.float32), 0.7, truncate=2.5)
            grain *= np.float32(self.noise / _GRAIN_DEVIATION)
            sharp = ndimage.gaussian_filter(plane, self.blur, truncate=3.0)
            thick[number] = sharp + grain
        return np.clip(np.rint(thick), -1024, 3071).astype(np.int16)

    def decide(self, tissue: np.ndarray) -> np.ndarray:
        """Give every voxel of the slices the tissue of most of its fine planes, else of the middle one."""
        depth, height, width = self.geometry.shape
        if self.planes_per_slice == 1:
            return tissue
        planes = tissue.reshape(depth, self.planes_per_slice, height, width)
        return np.where(planes[:, 0] == planes[:, 2], planes[:, 0], planes[:, 1])


def _random_coverage(needed: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
    """Extend the heights that have to be shown by chance, rarely far, but to a useful length."""
    low = needed[0] + (_LOWEST - needed[0]) * float(rng.random()) ** 2
    high = needed[1] + (_HIGHEST - needed[1]) * float(rng.random()) ** 2
    missing = max(_SHORTEST - (high - low), 0.0)
    return low - missing / 2, high + missing / 2
