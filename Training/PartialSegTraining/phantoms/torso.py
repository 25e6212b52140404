"""The body that the organs lie in: table, skin, fat, muscles, lungs, ribs, spine and pelvis.

Painted first, in slabs of a few planes, because it fills the whole scan. The bones claim their
ground; everything later yields to them. Distances are in standard coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PartialSegTraining.phantoms.canvas import Canvas, Region
from PartialSegTraining.phantoms.contrast import Contrast
from PartialSegTraining.phantoms.frame import cavity_half_axes, diaphragm_height, wall_distance
from PartialSegTraining.phantoms.shapes import Ellipsoid, rotation, smooth_max

#: Planes painted at a time; keeps the working arrays in cache.
_SLAB = 8
_RIB_PITCH = 24.0
_VERTEBRA_PITCH = 33.0
_STERNUM = (105.0, 245.0)
_UPRIGHT = rotation(0.0, 0.0, 0.0)
HEART = Ellipsoid((22.0, -30.0, 136.0), (54.0, 43.0, 46.0), rotation(20.0, 20.0, 0.0))
_SACRUM = Ellipsoid((0.0, 76.0, -188.0), (50.0, 17.0, 46.0), rotation(-18.0, 0.0, 0.0))
_HIPS = tuple(Ellipsoid((side * 88.0, 5.0, -275.0), (34.0, 32.0, 34.0), _UPRIGHT) for side in (-1.0, 1.0))


@dataclass(frozen=True)
class Slab:
    """A few planes of the scan in standard coordinates.

    Parameters
    ----------
    region : tuple of slice
        Where the planes lie.
    x, y, z : numpy.ndarray
        Standard coordinates, each (z, y, x).
    wall : numpy.ndarray
        Distance from the wall of the body cavity, negative inside.
    """

    region: Region
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    wall: np.ndarray

    def crop(self, inner: Region) -> Slab:
        """Return a part of the slab; `inner` is relative to it."""
        z, y, x = (
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(self.region, inner, strict=True)
        )
        return Slab((z, y, x), self.x[inner], self.y[inner], self.z[inner], self.wall[inner])


def paint_torso(canvas: Canvas, contrast: Contrast) -> None:
    """Paint everything that is no organ of the belly."""
    depth, height, width = canvas.planes.shape
    for start in range(0, depth, _SLAB):
        region = (slice(start, min(start + _SLAB, depth)), slice(0, height), slice(0, width))
        x, y, z = canvas.standard(region)
        slab = Slab(region, x, y, z, wall_distance(x, y, z))
        _paint_table(canvas, region)
        _paint_walls(canvas, slab, contrast)
        _paint_lungs(canvas, slab)
        _paint_bones(canvas, slab)


def lung_distance(x: np.ndarray, y: np.ndarray, z: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """Return the signed distance of both lungs: under the ribs, over the diaphragm, beside the heart."""
    base = 0.75 * (diaphragm_height(x, y) + 2.0 - z)
    half_width = 9.0 + 21.0 * np.clip((y + 75.0) * (1.0 / 60.0), 0.0, 1.0) + 8.0 * np.clip((z - 190.0) / 50.0, 0.0, 1.0)
    inside = smooth_max(wall + 3.5, base, 6.0)
    inside = smooth_max(inside, half_width - np.abs(x - 4.0), 8.0)
    return smooth_max(inside, 4.0 - HEART.distance(x, y, z), 6.0)


def spine_center(z: np.ndarray) -> np.ndarray:
    """Return the standard y of the middle of the vertebral bodies."""
    below = np.minimum(z + 140.0, 0.0)
    return 58.0 - 6.0 * np.exp(-(((z + 80.0) * (1.0 / 70.0)) ** 2)) + 0.0022 * below * below


def _paint_table(canvas: Canvas, region: Region) -> None:
    """Paint the curved table top under the back."""
    x, y, _ = canvas.patient(region)
    height = canvas.frame.to_patient(np.array([[0.0, 128.0 + 1.15 * canvas.frame.fat, 0.0]]))[0, 1] + 14.0
    surface = np.abs(y - (height - 0.00055 * x * x)) - 1.6
    canvas.blend(region, np.broadcast_to(surface, canvas.hu[region].shape), -130.0)


def _paint_walls(canvas: Canvas, slab: Slab, contrast: Contrast) -> None:
    """Paint skin, subcutaneous fat, the muscles around the cavity, and the fat and diaphragm in it."""
    x, y, z, wall = slab.x, slab.y, slab.z, slab.wall
    swell = canvas.noise("swell", slab.region)
    bumps = canvas.noise("bumps", slab.region)
    back = np.clip(y * (1.0 / 60.0), 0.0, 1.0)
    narrowing = 130.0 - cavity_half_axes(z)[0]
    muscle = 9.0 + 23.0 * np.exp(-np.square(np.square(x * (1.0 / 92.0)))) * back + 0.75 * narrowing + 0.6 * swell
    skin = wall - muscle - canvas.frame.fat * (1.0 + 0.07 * swell + 0.2 * back)
    fat = -103.0 + 4.0 * bumps
    canvas.blend(slab.region, skin, 5.0)
    canvas.blend(slab.region, skin + 2.2, fat)
    # Fat strands part the muscles, most of all those of the back.
    strands = 2.5 * np.abs(bumps) - 0.25 + 0.3 * np.maximum(14.0 - wall, 0.0)
    canvas.blend(slab.region, np.maximum(wall - muscle, -strands), contrast["muscle"] + 3.0 * bumps)
    canvas.blend(slab.region, wall, fat + 6.0 * np.maximum(swell, 0.0))
    dome = diaphragm_height(x, y)
    canvas.blend(slab.region, np.maximum(np.abs(0.75 * (z - dome) + 1.0) - 1.8, wall), contrast["muscle"])


def _paint_lungs(canvas: Canvas, slab: Slab) -> None:
    if float(slab.z.max()) < -40.0:
        return
    lung = lung_distance(slab.x, slab.y, slab.z, slab.wall)
    # Blood pools in the back of a lying patient.
    canvas.blend(slab.region, lung, -868.0 + 0.35 * slab.y + 8.0 * canvas.noise("bumps", slab.region))


def _paint_bones(canvas: Canvas, slab: Slab) -> None:
    highest, lowest = float(slab.z.max()), float(slab.z.min())
    if highest > -60.0:
        _paint_bone(canvas, slab, _rib_distance(slab), marrow=170.0, cortex=1.4)
    if highest > _STERNUM[0] - 10.0:
        shape = np.maximum(np.abs(slab.x) - 15.0, np.abs(slab.wall - 6.0) - 4.5)
        shape = smooth_max(np.where(slab.y < 0.0, shape, np.float32(50.0)), _STERNUM[0] - slab.z, 5.0)
        _paint_bone(canvas, slab, np.maximum(shape, slab.z - _STERNUM[1]), marrow=150.0, cortex=1.3)
    if lowest < -105.0:
        _paint_bone(canvas, slab, _pelvis_distance(slab), marrow=130.0, cortex=1.8)
    scale = canvas.frame.scale
    column = canvas.planes.region((-75 * scale[0], 15 * scale[1], -1e4), (75 * scale[0], 175 * scale[1], 1e4))
    _paint_spine(canvas, slab.crop((slice(0, slab.x.shape[0]), column[1], column[2])))


def _paint_bone(canvas: Canvas, slab: Slab, distance: np.ndarray, marrow: float, cortex: float) -> None:
    """Paint a bone as a bright cortex around marrow and claim its ground."""
    canvas.blend(slab.region, distance, 620.0)
    canvas.blend(slab.region, distance + cortex, marrow + 35.0 * canvas.noise("lobes", slab.region))
    canvas.claim(slab.region, distance)


def _rib_distance(slab: Slab) -> np.ndarray:
    """Return the distance of the twelve rib pairs: sloping hoops in the wall, open in front."""
    toward_back = slab.y / np.sqrt(slab.x * slab.x + slab.y * slab.y + 1.0)
    fall = 40.0 * (1.0 - toward_back)
    number = np.clip(np.rint((272.0 - slab.z - fall) * (1.0 / _RIB_PITCH)), 0.0, 11.0)
    across = (272.0 - slab.z - fall - number * _RIB_PITCH) * (1.0 / 6.2)
    through = (slab.wall - 3.5) * (1.0 / 3.7)
    hoop = (np.sqrt(across * across + through * through) - 1.0) * 3.7
    # Ribs end in cartilage in front, the lower the earlier; the last two float.
    end = -0.88 + 0.10 * np.maximum(number - 5.0, 0.0) + 0.35 * np.maximum(number - 9.0, 0.0)
    return np.maximum(hoop, (end - toward_back) * 60.0)


def _pelvis_distance(slab: Slab) -> np.ndarray:
    """Return the distance of the iliac wings, the sacrum and the hips."""
    x, y, z = slab.x, slab.y, slab.z
    crest = z + 112.0 + 0.007 * (y - 25.0) ** 2
    wing = np.abs(slab.wall + 3.0 + 0.05 * (z + 180.0)) - 4.0 - 3.0 * np.clip((-200.0 - z) / 40.0, 0.0, 1.0)
    wing = smooth_max(wing, crest * 0.8, 6.0)
    wing = smooth_max(wing, np.maximum(34.0 - np.abs(x), -38.0 - y), 6.0)
    for part in (_SACRUM, *_HIPS):
        wing = np.minimum(wing, part.distance(x, y, z))
    return wing


def _paint_spine(canvas: Canvas, slab: Slab) -> None:
    """Paint vertebral bodies, discs, arches with their processes, and the canal."""
    x, z = slab.x, slab.z
    y = slab.y - spine_center(z)
    level = z * (1.0 / _VERTEBRA_PITCH)
    height = (level - np.rint(level)) * _VERTEBRA_PITCH
    waist = 1.0 - 0.10 * np.clip(1.0 - np.abs(height) * (1.0 / 12.0), 0.0, 1.0)
    disc = np.sqrt(np.square(x / (22.5 * waist)) + np.square(y / (17.0 * waist)))
    disc = (disc - 1.0) * 19.0
    canvas.blend(slab.region, disc, 85.0)
    canvas.claim(slab.region, disc)
    canal = np.sqrt(x * x + np.square(y - 26.0))
    arch = np.maximum(canal - 15.0, np.abs(height + 4.0) - 12.0)
    process = np.maximum(np.maximum(np.abs(x) - 3.2, np.abs(y - 47.0) - 14.0), np.abs(height + 8.0) - 8.0)
    wings = np.maximum(np.maximum(np.abs(y - 25.0) - 4.5, np.abs(x) - 38.0), np.abs(height) - 6.0)
    body = smooth_max(disc, np.abs(height) - 12.5, 2.5)
    bone = np.minimum(np.minimum(body, arch), np.minimum(process, wings))
    _paint_bone(canvas, slab, np.maximum(bone, 9.5 - canal), marrow=140.0, cortex=1.5)
    canvas.blend(slab.region, canal - 9.5, 12.0)
    canvas.blend(slab.region, canal - 5.5, 38.0)
