"""The volume that a phantom is painted on: Hounsfield units, one tissue a voxel, and who came first.

Organs that were placed earlier keep their ground: a later one yields and leaves a thin plane of
fat, as neighbouring organs do. Edges are blended over one voxel, which is the partial volume of
the plane; thick slices average several planes (acquisition).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from PartialSegTraining.phantoms.fields import SmoothField, stream
from PartialSegTraining.phantoms.frame import Frame
from PartialSegTraining.phantoms.shapes import Tube
from PartialSegTraining.phantoms.tissues import Tissue

Region = tuple[slice, slice, slice]
#: Signed distance, in millimetres, where nothing is near.
_FAR = 60.0
#: The bend of a frame moves points by less than this, in millimetres.
_BEND_MARGIN = 14.0


@dataclass(frozen=True)
class Planes:
    """The fine planes that a scan is computed on.

    Parameters
    ----------
    z, y, x : numpy.ndarray
        Patient coordinates of the voxel centres along each axis, in millimetres, ascending float32.
    """

    z: np.ndarray
    y: np.ndarray
    x: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return len(self.z), len(self.y), len(self.x)

    def region(self, low: ArrayLike, high: ArrayLike) -> Region:
        """Return the slices (z, y, x) of the voxels between two (x, y, z) corners; maybe empty."""
        slices = [
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b, side="right")))
            for axis, a, b in zip((self.x, self.y, self.z), np.asarray(low), np.asarray(high), strict=True)
        ]
        return slices[2], slices[1], slices[0]

    def axes(self, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the (z, y, x) axes of a region."""
        return self.z[region[0]], self.y[region[1]], self.x[region[2]]


class Canvas:
    """Paints bodies into Hounsfield units and tissues.

    Parameters
    ----------
    planes : Planes
        The grid.
    frame : Frame
        The patient.
    seed : int
        Seed of the phantom, for the random surfaces and textures.

    Attributes
    ----------
    hu : numpy.ndarray
        (z, y, x) float32 Hounsfield units.
    tissue : numpy.ndarray
        (z, y, x) uint8 :class:`Tissue`.
    """

    def __init__(self, planes: Planes, frame: Frame, seed: int) -> None:
        self.planes = planes
        self.frame = frame
        self.hu = np.full(planes.shape, -1000.0, np.float32)
        self.tissue = np.zeros(planes.shape, np.uint8)
        self._taken = np.full(planes.shape, _FAR, np.float32)
        self._edge = float(planes.x[1] - planes.x[0])
        rng = stream(seed, "surfaces")
        self._noise = {
            "swell": SmoothField.random(rng, 24.0),
            "bumps": SmoothField.random(rng, 11.0),
            "lobes": SmoothField.random(rng, 5.0),
        }

    def refined(self, planes: Planes) -> Canvas:
        """Return this canvas on finer planes along z, interpolated; no tissue may be placed yet."""
        fine = copy(self)
        fine.planes = planes
        fine.tissue = np.zeros(planes.shape, np.uint8)
        fine.hu = _interpolate(self.hu, self.planes.z, planes.z)
        fine._taken = _interpolate(self._taken, self.planes.z, planes.z)
        return fine

    def around(self, low: ArrayLike, high: ArrayLike) -> Region:
        """Return the region of a box in standard coordinates, (x, y, z) corners."""
        scale = np.asarray(self.frame.scale)
        return self.planes.region(np.asarray(low) * scale - _BEND_MARGIN, np.asarray(high) * scale + _BEND_MARGIN)

    def near(self, center: ArrayLike, reach: float) -> Region:
        """Return the region of a cube around a patient point."""
        place = np.asarray(center, float)
        return self.planes.region(place - reach, place + reach)

    def standard(self, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return standard X, Y, Z of a region, each (z, y, x) float32."""
        return self.frame.standard(*self.planes.axes(region))

    def patient(self, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return patient x, y, z of a region as arrays that broadcast to it."""
        z, y, x = self.planes.axes(region)
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def noise(self, name: str, region: Region) -> np.ndarray:
        """Return a unit random field: ``swell`` (bumps of 5 cm), ``bumps`` (2 cm) or ``lobes`` (1 cm)."""
        return self._noise[name].sample(*self.planes.axes(region))

    def blend(self, region: Region, distance: np.ndarray, hu: np.ndarray | float) -> None:
        """Paint Hounsfield units where `distance` is negative, with partial volume at the edge."""
        cover = np.clip(0.5 - distance * (1.0 / self._edge), 0.0, 1.0)
        view = self.hu[region]
        view += cover * (hu - view)

    def carve(self, region: Region, distance: np.ndarray, gap: float = 0.6) -> np.ndarray:
        """Return `distance` with everything cut away that lies within `gap` mm of a placed body."""
        return np.maximum(distance, gap - self._taken[region])

    def claim(self, region: Region, distance: np.ndarray, tissue: Tissue = Tissue.OTHER) -> None:
        """Give the inside to a tissue; later bodies yield to it."""
        self.tissue[region][distance < 0] = tissue
        view = self._taken[region]
        np.minimum(view, distance, out=view)

    def place(
        self, region: Region, distance: np.ndarray, hu: np.ndarray | float, tissue: Tissue = Tissue.OTHER
    ) -> np.ndarray:
        """Carve, paint and claim a body; return its distance after carving."""
        carved = self.carve(region, distance)
        self.blend(region, carved, hu)
        self.claim(region, carved, tissue)
        return carved

    def trace(self, tube: Tube, margin: float = 4.0) -> tuple[Region, np.ndarray, np.ndarray]:
        """Measure the distance to a tube (patient space) and find the nearest of its capsules.

        Returns
        -------
        region : Region
            Box of the tube; empty when the tube lies outside of the scan.
        distance : numpy.ndarray
            (z, y, x) float32, exact within `margin` mm of the surface, large beyond.
        index : numpy.ndarray
            (z, y, x) int32 index of the nearest capsule.
        """
        radius = np.maximum(tube.start_radius, tube.end_radius) + margin
        low = np.minimum(tube.start, tube.end) - radius[:, None]
        high = np.maximum(tube.start, tube.end) + radius[:, None]
        region = self.planes.region(low.min(axis=0), high.max(axis=0))
        shape = tuple(max(part.stop - part.start, 0) for part in region)
        distance = np.full(shape, _FAR, np.float32)
        index = np.zeros(shape, np.int32)
        if distance.size:
            for item in range(len(tube)):
                self._trace_capsule(tube, item, self.planes.region(low[item], high[item]), region, distance, index)
        return region, distance, index

    def trace_in(self, region: Region, tube: Tube) -> np.ndarray:
        """Return the distance to a tube on a given region, large where it is far, (z, y, x)."""
        box, distance, _ = self.trace(tube)
        whole = np.full(self.hu[region].shape, np.float32(_FAR))
        common = intersect(box, region)
        whole[crop(region, common)] = distance[crop(box, common)]
        return whole

    def _trace_capsule(
        self, tube: Tube, item: int, box: Region, region: Region, distance: np.ndarray, index: np.ndarray
    ) -> None:
        z, y, x = self.planes.axes(box)
        if not (z.size and y.size and x.size):
            return
        start, axis = tube.start[item], tube.end[item] - tube.start[item]
        length = float(axis @ axis)
        dx, dy, dz = (part - np.float32(at) for part, at in zip((x, y, z), start, strict=True))
        ax, ay, az = (float(part) for part in axis / max(length, 1e-6))
        along = (dz * az)[:, None, None] + ((dy * ay)[:, None] + (dx * ax)[None, :])[None]
        np.clip(along, 0.0, 1.0, out=along)
        squared = np.square(dx[None, None, :] - along * float(axis[0]))
        squared += np.square(dy[None, :, None] - along * float(axis[1]))
        squared += np.square(dz[:, None, None] - along * float(axis[2]))
        first, last = float(tube.start_radius[item]), float(tube.end_radius[item])
        found = np.sqrt(squared) - (first + along * (last - first))
        inner = crop(region, box)
        nearer = found < distance[inner]
        distance[inner][nearer] = found[nearer]
        index[inner][nearer] = item


def _interpolate(planes: np.ndarray, at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return (z, y, x) `planes` at other heights, linearly; the outermost go on beyond the ends."""
    if len(at) == len(wanted):
        return planes
    position = np.interp(wanted, at, np.arange(len(at)))
    low = np.minimum(position.astype(int), max(len(at) - 2, 0))
    high = np.minimum(low + 1, len(at) - 1)
    result = np.empty((len(wanted), *planes.shape[1:]), np.float32)
    for number, (a, b, part) in enumerate(zip(low, high, position - low, strict=True)):
        np.multiply(planes[b] - planes[a], np.float32(part), out=result[number])
        result[number] += planes[a]
    return result


def intersect(a: Region, b: Region) -> Region:
    """Return the common part of two regions; maybe empty."""
    z, y, x = (
        slice(max(p.start, q.start), max(min(p.stop, q.stop), p.start, q.start)) for p, q in zip(a, b, strict=True)
    )
    return z, y, x


def crop(region: Region, inner: Region) -> Region:
    """Return where `inner` lies in an array over `region`."""
    z, y, x = (slice(p.start - whole.start, p.stop - whole.start) for p, whole in zip(inner, region, strict=True))
    return z, y, x
