"""DoDNet's published metric, so that its tables can be compared: Dice and HD95 in voxels, with its penalties.

Its evaluation (``postp.py``) measured on the network's grid and never came back to the image: both
masks are taken there by nearest neighbor. Its mean is over all cases, whether they show a structure
or not. Where it differs from ours, ours is the one to trust; see :data:`NOTE`. Called by the command.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PartialSegLib.images import Geometry, Vector
    from PartialSegLib.segmentation import PackedMask, Segmentation

#: What the figures are; part of every report.
NOTE = (
    "DoDNet's own metric (postp.py), for comparison with its tables alone. Dice has one voxel more in its denominator "
    "and is 0 when both masks are empty. HD95 is in voxels of the network's grid whatever their size, 373.13 when one "
    "mask is empty and 0 when both are. Means are over all cases."
)


@dataclass(frozen=True)
class DoDNetScore:
    """Agreement of one structure of one case.

    Parameters
    ----------
    case, key : str
        Case and structure.
    dice : float
        0 to below 1.
    hd95_voxels : float
        In voxels.
    """

    case: str
    key: str
    dice: float
    hd95_voxels: float


@dataclass
class DoDNetTable:
    """Scores in DoDNet's metric, and their means.

    Parameters
    ----------
    names : dict of str to str
        Name of each structure, by key, in order.
    spacing : tuple of float or None
        Of the network's grid (x, y, z) in millimetres; ``None`` to measure on the grid of the masks.
    scores : list of DoDNetScore
        Every score.
    """

    names: dict[str, str]
    spacing: Vector | None
    scores: list[DoDNetScore] = field(default_factory=list)

    def add(self, case: str, prediction: Segmentation, reference: Segmentation) -> None:
        """Score the structures that both segmentations of a case have."""
        from PartialSegLib.metrics import dodnet_dice, dodnet_hd95

        for key in reference.keys:
            if key in prediction.masks:
                pair = (on_grid(masks.masks[key], masks.geometry, self.spacing) for masks in (prediction, reference))
                found, truth = pair
                self.scores.append(DoDNetScore(case, key, dodnet_dice(found, truth), dodnet_hd95(found, truth)))

    def means(self) -> dict[str, tuple[int, float, float]]:
        """Return the cases, mean Dice and mean HD95 (voxels) of each structure, by key."""
        found: dict[str, tuple[int, float, float]] = {}
        for key in self.names:
            scores = [score for score in self.scores if score.key == key]
            if scores:
                dice = statistics.fmean(score.dice for score in scores)
                found[key] = len(scores), dice, statistics.fmean(score.hd95_voxels for score in scores)
        return found

    def text(self) -> str:
        """Return the table for a terminal."""
        from PartialSegLib.terminal import table

        means = self.means()
        rows = [
            [self.names[key], str(cases), f"{dice:.4f}", f"{hd95:.2f}"] for key, (cases, dice, hd95) in means.items()
        ]
        if means:
            average = [statistics.fmean(values[column] for values in means.values()) for column in (1, 2)]
            rows.append(["Average", "", f"{average[0]:.4f}", f"{average[1]:.2f}"])
        return table(["Structure", "Cases", "Dice (DoDNet)", "HD95 (voxels)"], rows, right=(1, 2, 3)) + f"\n{NOTE}"

    def report(self) -> dict[str, Any]:
        """Return the entry of the JSON report."""
        return {
            "note": NOTE,
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "structures": {
                key: {"cases": cases, "dice": dice, "hd95_voxels": hd95}
                for key, (cases, dice, hd95) in self.means().items()
            },
            "cases": [asdict(score) for score in self.scores],
        }


def on_grid(mask: PackedMask, geometry: Geometry, spacing: Vector | None) -> PackedMask:
    """Return a mask on a grid of another spacing that covers the same extent, by nearest neighbor.

    Parameters
    ----------
    mask : PackedMask
        On the grid of `geometry`.
    geometry : Geometry
        Its grid.
    spacing : tuple of float or None
        Wanted spacing (x, y, z) in millimetres; ``None`` for the mask as it is.
    """
    from PartialSegLib.segmentation import PackedMask

    if spacing is None or not mask.count:
        return mask
    full = np.zeros(geometry.shape, bool)
    z, y, x = mask.start
    full[z : z + mask.shape[0], y : y + mask.shape[1], x : x + mask.shape[2]] = mask.unpack()
    for axis, (size, old, new) in enumerate(
        zip(geometry.shape, geometry.spacing[::-1], tuple(spacing)[::-1], strict=True)
    ):
        full = np.take(full, _nearest(size, old, new), axis=axis)
    return PackedMask.from_array(full)


def _nearest(size: int, old: float, new: float) -> Sequence[int]:
    """Return the old index nearest to each voxel center of an axis of `new` spacing; sizes are rounded down."""
    count = max(1, int(size * old / new))
    centers = (np.arange(count) + 0.5) * size / count
    indices: list[int] = np.minimum(centers.astype(int), size - 1).tolist()
    return indices
