"""One synthetic patient: a CT in Hounsfield units with the true mask of every structure.

Called by the collection writer, the command line and tests. The same seed and options give the
same voxels, whatever was generated before (on another processor, single ones may be rounded
differently by 1 HU).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from PartialSegLib.errors import CollectionError
from PartialSegLib.images import Image, Vector
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.structures import catalogue
from PartialSegTraining.phantoms.acquisition import Scan
from PartialSegTraining.phantoms.canvas import Canvas
from PartialSegTraining.phantoms.frame import Frame
from PartialSegTraining.phantoms.gut import paint_gut
from PartialSegTraining.phantoms.lesions import Lesion, Lesions
from PartialSegTraining.phantoms.organs import paint_organs
from PartialSegTraining.phantoms.patient import Patient
from PartialSegTraining.phantoms.tissues import STRUCTURE_TISSUES, Tissue
from PartialSegTraining.phantoms.torso import paint_torso

#: Version of the generator: raised whenever the same seed gives other voxels.
GENERATOR_VERSION = 1

#: Standard z between which whole organs lie, in millimetres; lesions are added per patient.
_HEIGHTS: dict[str, tuple[float, float]] = {
    "liver": (-92.0, 118.0),
    "kidneys": (-105.0, 50.0),
    "pancreas": (-75.0, 52.0),
    "spleen": (-40.0, 112.0),
    "stomach": (-55.0, 118.0),
}
_ORGAN_OF = {
    "liver_tumor": "liver", "hepatic_vessels": "liver", "hepatic_vessel_tumor": "liver", "gallbladder": "liver",
    "kidney_tumor": "kidneys", "kidney_cyst": "kidneys", "right_kidney": "kidneys", "left_kidney": "kidneys",
    "pancreas_tumor": "pancreas", "portal_and_splenic_vein": "pancreas",
    "right_adrenal_gland": "kidneys", "left_adrenal_gland": "kidneys",
    "aorta": "liver", "inferior_vena_cava": "liver", "esophagus": "stomach",
}  # fmt: skip


@dataclass(frozen=True)
class Phantom:
    """A synthetic CT and its truth.

    Parameters
    ----------
    seed : int
        Seed that it was generated from.
    phase : str
        Contrast phase: ``arterial``, ``portal`` or ``late``.
    image : Image
        int16 Hounsfield units.
    masks : dict of str to numpy.ndarray
        (z, y, x) boolean, one per structure key; empty where the scan does not show a structure.
    """

    seed: int
    phase: str
    image: Image
    masks: dict[str, np.ndarray]

    def segmentation(self) -> Segmentation:
        """Return the masks as a segmentation on the image's grid."""
        known = catalogue()
        return Segmentation.from_arrays(
            self.image.geometry, [known[key] for key in self.masks], self.masks, "PartialSeg phantom"
        )


def generate_phantom(
    seed: int,
    *,
    show: Iterable[str] | None = None,
    spacing: Vector | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Phantom:
    """Generate one synthetic patient.

    Parameters
    ----------
    seed : int
        Decides everything that is not given; not negative.
    show : iterable of str, optional
        Keys of the structures that must lie within the scan (of aorta, vena cava and esophagus the
        part in the belly); all when not given. What else the scan covers is left to chance, so
        lung and colon tumors may lie outside.
    spacing : tuple of float, optional
        Voxel spacing (x, y, z) in millimetres; drawn (1.3 to 2 mm in plane, slices of 1 to 5 mm)
        when not given.
    shape : tuple of int, optional
        Voxels (z, y, x). Follows from field of view and coverage when not given; with a `spacing`
        that is too fine for the coverage, the upper end is lost.

    Raises
    ------
    CollectionError
        When `seed` is negative, or `show` names a structure that phantoms do not have.
    """
    wanted = tuple(STRUCTURE_TISSUES if show is None else show)
    _check(seed, wanted)
    patient = Patient.random(seed)
    frame = patient.frame
    needed = _needed_heights(wanted, patient.lesions, frame)
    scan = Scan.random(seed, needed, frame.scale, frame.fat, spacing, shape)
    middle = Canvas(scan.middle_planes, frame, seed)
    paint_torso(middle, patient.contrast)
    canvas = middle.refined(scan.planes)
    paint_organs(canvas, patient)
    paint_gut(canvas, patient)
    image = Image(scan.slices(canvas.hu, seed), scan.geometry)
    return Phantom(seed, patient.contrast.phase, image, _masks(canvas.tissue, scan))


def _masks(tissue: np.ndarray, scan: Scan) -> dict[str, np.ndarray]:
    """Return one mask per structure from the tissues of the fine planes."""
    slices = scan.decide(tissue)
    boxes = ndimage.find_objects(slices, max_label=max(Tissue))
    masks = {key: np.zeros(slices.shape, bool) for key in STRUCTURE_TISSUES}
    for key, tissues in STRUCTURE_TISSUES.items():
        for item in tissues:
            box = boxes[item - 1]
            if box is not None:
                masks[key][box] |= slices[box] == item
    return masks


def _needed_heights(wanted: tuple[str, ...], lesions: Lesions, frame: Frame) -> tuple[float, float]:
    """Return the lowest and highest standard z of the structures that the scan must show."""
    heights = [_HEIGHTS[_ORGAN_OF.get(key, key)] for key in wanted if _ORGAN_OF.get(key, key) in _HEIGHTS]
    for key, lesion in (("lung_tumor", lesions.lung), ("colon_tumor", lesions.colon)):
        if key in wanted:
            heights.append(_lesion_heights(lesion, frame))
    return min(low for low, _ in heights), max(high for _, high in heights)


def _lesion_heights(lesion: Lesion, frame: Frame) -> tuple[float, float]:
    reach = 1.3 * lesion.body.reach + 12.0
    center = lesion.body.center[2]
    return (center - reach) / frame.scale[2], (center + reach) / frame.scale[2]


def _check(seed: int, wanted: tuple[str, ...]) -> None:
    if seed < 0:
        raise CollectionError(f"The seed {seed} of a phantom is negative.", "Use 0 or more.")
    unknown = [key for key in wanted if key not in STRUCTURE_TISSUES]
    if unknown or not wanted:
        raise CollectionError(
            f"Phantoms have no structure '{', '.join(unknown)}'.", f"They have: {', '.join(STRUCTURE_TISSUES)}."
        )
