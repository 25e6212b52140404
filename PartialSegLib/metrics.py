"""How well a mask agrees with a reference: overlap and surface distances, in millimetres.

``partialseg evaluate`` and the demo call this module, and every report that they write carries
:data:`DEFINITIONS`, because Dice, HD95 and surface Dice each go by several definitions. Surface
distances are those of DeepMind's ``surface-distance`` package (extra ``evaluation``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from PartialSegLib.errors import MissingExtraError, SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.postprocessing import clip
from PartialSegLib.segmentation import PackedMask, Segmentation

#: What each number means; part of every report.
DEFINITIONS: Mapping[str, str] = {
    "dice": "Volumetric Dice, 2 |P and R| / (|P| + |R|). 1 when both masks are empty, 0 when one is.",
    "hd95_mm": (
        "95th percentile Hausdorff distance: the larger of the two directed 95th percentiles of surface distance, "
        "surface elements weighted by their area (surface-distance, DeepMind). Infinite when one mask is empty, "
        "undefined when both are."
    ),
    "surface_dice": (
        "Surface Dice at the tolerance: the share of both surfaces, by area, that lies within the tolerance of the "
        "other (Nikolov et al., 2021). 1 when both masks are empty, 0 when one is."
    ),
    "surface_distance_mm": (
        "Mean surface distance: the mean of the two directed, area-weighted mean distances. Infinite when one mask "
        "is empty, undefined when both are."
    ),
    "mean": (
        "Means leave out cases where both masks are empty. HD95 and mean surface distance are averaged over the "
        "cases where both masks have voxels; the others are counted as missed or invented."
    ),
}

#: HD95 in voxels that DoDNet's evaluation gives when one mask is empty: the diagonal of 240 x 240 x 155.
DODNET_PENALTY = 373.12866


@dataclass(frozen=True)
class Score:
    """Agreement of one predicted structure with its reference.

    Parameters
    ----------
    key : str
        Structure.
    dice, surface_dice : float
        0 to 1.
    hd95_mm, surface_distance_mm : float
        Millimetres; ``inf`` when one mask is empty, ``nan`` when both are.
    tolerance_mm : float
        Tolerance of the surface Dice.
    prediction_ml, reference_ml : float
        Volumes.
    """

    key: str
    dice: float
    hd95_mm: float
    surface_dice: float
    surface_distance_mm: float
    tolerance_mm: float
    prediction_ml: float
    reference_ml: float

    @property
    def empty(self) -> bool:
        """Whether both masks are empty: the structure is rightly absent, and says nothing about quality."""
        return self.prediction_ml == self.reference_ml == 0

    @property
    def found(self) -> bool:
        """Whether both masks have voxels."""
        return self.prediction_ml > 0 and self.reference_ml > 0

    def to_json(self) -> dict[str, Any]:
        """Return the score for a JSON report; undefined and infinite distances become ``null``."""
        values = {name: _finite(value) for name, value in asdict(self).items()}
        return {**values, "empty": self.empty, "found": self.found}


def score_segmentation(
    prediction: Segmentation,
    reference: Segmentation,
    keys: Iterable[str] | None = None,
    tolerance_mm: float = 2.0,
) -> tuple[Score, ...]:
    """Score every structure that both segmentations have.

    Parameters
    ----------
    prediction, reference : Segmentation
        Masks on one grid.
    keys : iterable of str, optional
        Structures to score; ``None`` for those of the reference that the prediction has too.
    tolerance_mm : float
        Tolerance of the surface Dice, in millimetres.

    Returns
    -------
    tuple of Score
        In the order of `keys` or of the reference.

    Raises
    ------
    SegmentationError
        When the grids differ or are sheared, or a structure of `keys` is in only one of the two.
    MissingExtraError
        When ``surface-distance`` is not installed.
    """
    if not prediction.geometry.matches(reference.geometry):
        raise SegmentationError(
            f"The prediction ({_grid(prediction.geometry)}) and the reference ({_grid(reference.geometry)}) "
            "lie on different grids.",
            "Resample one of them to the grid of the other.",
        )
    if keys is None:
        keys = [key for key in reference.keys if key in prediction.masks]
    scores = []
    for key in keys:
        for name, masks in (("prediction", prediction.masks), ("reference", reference.masks)):
            if key not in masks:
                raise SegmentationError(f"The {name} has no structure '{key}'.", f"It has: {', '.join(masks)}.")
        scores.append(score_mask(key, prediction.masks[key], reference.masks[key], reference.geometry, tolerance_mm))
    return tuple(scores)


def score_mask(
    key: str, prediction: PackedMask, reference: PackedMask, geometry: Geometry, tolerance_mm: float = 2.0
) -> Score:
    """Score one structure inside the box of both masks, which gives the numbers of the whole grid.

    Parameters
    ----------
    key : str
        Name of the structure, for the score.
    prediction, reference : PackedMask
        Masks on the grid of `geometry`.
    geometry : Geometry
        Their grid; rotations are allowed, shear is not.
    tolerance_mm : float
        Tolerance of the surface Dice, in millimetres.

    Raises
    ------
    SegmentationError
        When the grid is sheared.
    MissingExtraError
        When ``surface-distance`` is not installed.
    """
    _refuse_shear(geometry)
    ml = geometry.voxel_volume / 1000.0
    both_empty = not prediction.count and not reference.count
    if prediction.count and reference.count:
        hd95, surface_dice, mean = _surface_agreement(prediction, reference, geometry, tolerance_mm)
    else:
        hd95 = mean = math.nan if both_empty else math.inf
        surface_dice = 1.0 if both_empty else 0.0
    return Score(
        key=key,
        dice=dice(prediction, reference),
        hd95_mm=hd95,
        surface_dice=surface_dice,
        surface_distance_mm=mean,
        tolerance_mm=tolerance_mm,
        prediction_ml=prediction.count * ml,
        reference_ml=reference.count * ml,
    )


def dice(one: PackedMask, two: PackedMask) -> float:
    """Return the volumetric Dice of two masks of one grid; 1 when both are empty."""
    voxels = one.count + two.count
    return 2.0 * clip(one, two).count / voxels if voxels else 1.0


def dodnet_dice(prediction: PackedMask, reference: PackedMask) -> float:
    """Return Dice as DoDNet's evaluation has it (``postp.py``): one voxel more in the denominator.

    0 when both masks are empty. For comparison with its published tables alone; reports have :func:`dice`.
    """
    return 2.0 * clip(prediction, reference).count / (prediction.count + reference.count + 1)


def dodnet_hd95(prediction: PackedMask, reference: PackedMask) -> float:
    """Return HD95 as DoDNet's evaluation has it (``postp.py``), in voxels of the network's grid.

    The paper calls it the maximum distance. It is the 95th percentile of the distances of all surface
    voxels of either mask, of both directions together, to the other surface (as MedPy's ``hd95``),
    with a spacing of 1 along each axis. A surface voxel is one with a face outside of its mask. For
    comparison with its published tables alone.

    Parameters
    ----------
    prediction, reference : PackedMask
        On the network's own grid: DoDNet was not evaluated on the grid of the image.

    Returns
    -------
    float
        Voxels; 0 when both masks are empty, :data:`DODNET_PENALTY` when one is.
    """
    if not prediction.count or not reference.count:
        return 0.0 if prediction.count == reference.count else DODNET_PENALTY
    from scipy import ndimage

    crops = _crop_to_both(prediction, reference)
    surfaces = [crop & ~ndimage.binary_erosion(crop) for crop in crops]
    to_surface = [ndimage.distance_transform_edt(~surface) for surface in surfaces]
    distances = np.concatenate([to_surface[1][surfaces[0]], to_surface[0][surfaces[1]]])
    return float(np.percentile(distances, 95))


def _surface_agreement(
    prediction: PackedMask, reference: PackedMask, geometry: Geometry, tolerance_mm: float
) -> tuple[float, float, float]:
    """Return HD95 (mm), surface Dice and mean surface distance (mm) of two masks with voxels."""
    try:
        import surface_distance
    except ImportError as error:
        raise MissingExtraError("Surface distances", "evaluation") from error
    with warnings.catch_warnings():
        # surface-distance 0.1 calls SciPy by names that SciPy has moved.
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = surface_distance.compute_surface_distances(
            *_crop_to_both(reference, prediction), spacing_mm=geometry.spacing[::-1]
        )
    directed = surface_distance.compute_average_surface_distance(distances)
    return (
        float(surface_distance.compute_robust_hausdorff(distances, 95)),
        float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        float(np.mean(directed)),
    )


def _crop_to_both(*masks: PackedMask) -> list[np.ndarray]:
    """Unpack masks into the box that holds them all, with a margin of one voxel."""
    start = np.min([mask.start for mask in masks], axis=0) - 1
    shape = np.max([np.add(mask.start, mask.shape) for mask in masks], axis=0) + 1 - start
    crops = []
    for mask in masks:
        crop = np.zeros(shape, bool)
        z, y, x = np.asarray(mask.start) - start
        crop[z : z + mask.shape[0], y : y + mask.shape[1], x : x + mask.shape[2]] = mask.unpack()
        crops.append(crop)
    return crops


def _refuse_shear(geometry: Geometry) -> None:
    if not np.allclose(geometry.axes.T @ geometry.axes, np.eye(3), atol=1e-3):
        raise SegmentationError(
            "Surface distances are not defined on a sheared grid (gantry tilt): its axes are not at right angles.",
            "Resample prediction and reference to an orthogonal grid first.",
        )


def _grid(geometry: Geometry) -> str:
    spacing = " x ".join(f"{value:.4g}" for value in geometry.spacing)
    return f"{' x '.join(str(n) for n in geometry.shape[::-1])} voxels of {spacing} mm"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
