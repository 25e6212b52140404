"""DoDNet's own metric: its voxels, its penalties, its means."""

from __future__ import annotations

import numpy as np
import pytest

from PartialSegLib.images import Geometry
from PartialSegLib.metrics import DODNET_PENALTY
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.structures import catalogue
from PartialSegTraining.evaluation.dodnet import DoDNetTable, on_grid

GRID = Geometry((12, 20, 24), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))


def box(low: int, high: int) -> np.ndarray:
    mask = np.zeros(GRID.shape, bool)
    mask[low:high, low:high, low:high] = True
    return mask


def segmentation(mask: np.ndarray) -> Segmentation:
    return Segmentation.from_arrays(GRID, [catalogue()["liver"]], {"liver": mask}, "Test")


def table(spacing: tuple[float, float, float] | None = None) -> DoDNetTable:
    return DoDNetTable({"liver": "Liver"}, spacing)


def test_a_mask_covers_the_same_extent_on_another_grid() -> None:
    mask = on_grid(PackedMask.from_array(box(2, 8)), GRID, (2.0, 2.0, 2.0))
    # Slices stay as they are, rows and columns are halved.
    assert mask.start == (2, 1, 1)
    assert mask.shape == (6, 3, 3)
    assert mask.count == 6 * 3 * 3


def test_a_grid_is_rounded_down_as_published() -> None:
    whole = PackedMask.from_array(np.ones(GRID.shape, bool))
    # 24, 20 and 24 mm along z, y, x become 12, 6 and 8 voxels.
    assert on_grid(whole, GRID, (3.0, 3.0, 2.0)).shape == (12, 6, 8)


def test_masks_stay_as_they_are_without_a_grid() -> None:
    mask = PackedMask.from_array(box(2, 8))
    assert on_grid(mask, GRID, None) is mask


def test_dice_has_one_voxel_more_and_distances_are_in_voxels() -> None:
    truth, found = box(2, 8), table()
    truth[2] = False
    found.add("case", segmentation(box(2, 8)), segmentation(truth))
    (score,) = found.scores
    assert score.dice == pytest.approx(2 * 180 / (216 + 180 + 1))
    # One slice too many: a slice is 2 mm, and one voxel.
    assert score.hd95_voxels == pytest.approx(1.0)


def test_missed_and_absent_structures_count_as_published() -> None:
    nothing, found = np.zeros(GRID.shape, bool), table((1.0, 1.0, 2.0))
    found.add("missed", segmentation(nothing), segmentation(box(2, 8)))
    found.add("absent", segmentation(nothing), segmentation(nothing))
    assert [(score.dice, score.hd95_voxels) for score in found.scores] == [(0.0, DODNET_PENALTY), (0.0, 0.0)]
    assert found.means()["liver"] == pytest.approx((2, 0.0, DODNET_PENALTY / 2))


def test_the_report_says_that_it_is_another_metric() -> None:
    found = table()
    found.add("case", segmentation(box(2, 8)), segmentation(box(2, 8)))
    assert "for comparison with its tables alone" in found.text()
    assert found.report()["structures"]["liver"]["cases"] == 1
