"""Metrics: the numbers of the surface-distance package, in millimetres, with empty cases settled."""

from __future__ import annotations

import builtins
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import vectors
from PartialSegLib.errors import MissingExtraError, SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.metrics import (
    DEFINITIONS,
    DODNET_PENALTY,
    Score,
    dice,
    dodnet_dice,
    dodnet_hd95,
    score_mask,
    score_segmentation,
)
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.structures import catalogue

surface_distance = pytest.importorskip("surface_distance")

GRID = Geometry((20, 30, 40), (0.7, 0.9, 2.5))


def blob(seed: int, threshold: float = 0.08) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(GRID.shape)
    return ndimage.gaussian_filter(noise, 2.0) > threshold


def cuboid(start: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(at, at + n) for at, n in zip(start, size, strict=True))] = True
    return mask


def score(prediction: np.ndarray, reference: np.ndarray, geometry: Geometry = GRID) -> Score:
    return score_mask("liver", PackedMask.from_array(prediction), PackedMask.from_array(reference), geometry)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("where", ["middle", "corner", "border"])
def test_scores_in_the_common_box_equal_those_of_the_whole_grid(where: str) -> None:
    one, two = blob(1), blob(2)
    if where == "middle":
        one, two = one & cuboid((4, 6, 8), (7, 9, 11)), two & cuboid((6, 8, 14), (9, 8, 16))
    elif where == "corner":
        one, two = one & cuboid((0, 0, 0), (6, 6, 6)), two & cuboid((12, 20, 30), (8, 10, 10))
    distances = surface_distance.compute_surface_distances(two, one, spacing_mm=(2.5, 0.9, 0.7))
    result = score(one, two)
    assert result.hd95_mm == surface_distance.compute_robust_hausdorff(distances, 95)
    assert result.surface_dice == surface_distance.compute_surface_dice_at_tolerance(distances, 2.0)
    assert result.surface_distance_mm == np.mean(surface_distance.compute_average_surface_distance(distances))
    assert result.dice == surface_distance.compute_dice_coefficient(two, one)


@pytest.mark.parametrize(("axis", "millimetres"), [(0, 2.5), (1, 0.9), (2, 0.7)])
def test_a_shift_by_one_voxel_is_measured_with_the_spacing_of_its_axis(axis: int, millimetres: float) -> None:
    still = cuboid((5, 8, 10), (8, 12, 16))
    assert score(np.roll(still, 1, axis), still).hd95_mm == pytest.approx(millimetres)


def test_the_shifted_blob_of_the_reference_vectors_has_its_hausdorff_distance() -> None:
    noise = np.random.default_rng(44).standard_normal((24, 40, 40))
    mask = ndimage.gaussian_filter(noise, 1.5) > 0.12
    assert score(np.roll(mask, 2, 1), mask, Geometry(mask.shape)).hd95_mm == 2.0


def test_dodnet_is_measured_as_it_was_published() -> None:
    facts = vectors.facts("preprocessing")
    noise = np.random.default_rng(44).standard_normal((24, 40, 40))
    mask = ndimage.gaussian_filter(noise, 1.5) > 0.12
    one, two = (PackedMask.from_array(array) for array in (mask, np.roll(mask, 2, 1)))
    assert dodnet_hd95(one, two) == facts["hd95_blob_vs_roll2_axis1"]
    assert dodnet_dice(one, two) == pytest.approx(facts["dice_dodnet"], rel=1e-12)


def test_dodnet_penalizes_what_is_empty_in_one_mask_alone() -> None:
    full, empty = PackedMask.from_array(np.ones((3, 3, 3), bool)), PackedMask.empty()
    assert dodnet_hd95(full, empty) == dodnet_hd95(empty, full) == DODNET_PENALTY
    assert dodnet_hd95(empty, empty) == dodnet_dice(empty, empty) == dodnet_dice(full, empty) == 0.0
    assert dodnet_dice(full, full) == 2 * 27 / 55


def test_dodnet_takes_the_distances_of_both_directions_together() -> None:
    line, point = np.zeros((1, 1, 120), bool), np.zeros((1, 1, 120), bool)
    line[..., 10:110], point[..., 10] = True, True
    found = dodnet_hd95(PackedMask.from_array(line), PackedMask.from_array(point))
    assert found == pytest.approx(np.percentile([*range(100), 0], 95))


def test_identical_masks_agree_completely() -> None:
    result = score(blob(3), blob(3))
    assert (result.dice, result.hd95_mm, result.surface_dice, result.surface_distance_mm) == (1.0, 0.0, 1.0, 0.0)


def test_volumes_are_millilitres() -> None:
    result = score(cuboid((1, 1, 1), (10, 10, 10)), cuboid((1, 1, 1), (5, 10, 10)))
    assert result.prediction_ml == pytest.approx(1000 * 0.7 * 0.9 * 2.5 / 1000)
    assert result.reference_ml == pytest.approx(result.prediction_ml / 2)
    assert result.dice == pytest.approx(2 / 3)


def test_two_empty_masks_agree_and_are_marked_empty() -> None:
    result = score(cuboid((0, 0, 0), (0, 0, 0)), cuboid((0, 0, 0), (0, 0, 0)))
    assert result.empty
    assert result.dice == result.surface_dice == 1.0
    assert math.isnan(result.hd95_mm)
    assert math.isnan(result.surface_distance_mm)


@pytest.mark.parametrize("missed", [True, False])
def test_one_empty_mask_scores_zero_at_infinite_distance(missed: bool) -> None:
    pair = [np.zeros(GRID.shape, bool), blob(5)]
    result = score(*(pair if missed else pair[::-1]))
    assert not result.empty
    assert not result.found
    assert result.dice == result.surface_dice == 0.0
    assert result.hd95_mm == result.surface_distance_mm == math.inf


def test_reports_are_strict_json_with_null_for_missing_distances() -> None:
    document = json.dumps(score(blob(5), np.zeros(GRID.shape, bool)).to_json(), allow_nan=False)
    assert json.loads(document)["hd95_mm"] is None


def test_a_rotated_grid_gives_the_same_distances() -> None:
    angle = math.radians(30)
    turned = (math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, 1)
    rotated = Geometry(GRID.shape, GRID.spacing, (5, 6, 7), turned)
    here, there = score(blob(1), blob(2)), score(blob(1), blob(2), rotated)
    assert (here.hd95_mm, here.surface_dice, here.dice) == (there.hd95_mm, there.surface_dice, there.dice)


def test_a_sheared_grid_is_refused() -> None:
    tilt = math.radians(15)
    sheared = Geometry(GRID.shape, GRID.spacing, direction=(1, 0, 0, 0, 1, math.sin(tilt), 0, 0, math.cos(tilt)))
    with pytest.raises(SegmentationError, match="sheared"):
        score(blob(1), blob(2), sheared)


def test_dice_of_distant_boxes_is_zero() -> None:
    one, two = cuboid((0, 0, 0), (2, 2, 2)), cuboid((15, 20, 30), (2, 2, 2))
    assert dice(PackedMask.from_array(one), PackedMask.from_array(two)) == 0.0


def segmentation(geometry: Geometry, **arrays: np.ndarray) -> Segmentation:
    return Segmentation.from_arrays(geometry, [catalogue()[key] for key in arrays], arrays)


def test_structures_that_both_have_are_scored_in_the_order_of_the_reference() -> None:
    prediction = segmentation(GRID, spleen=blob(1), liver=blob(2))
    reference = segmentation(GRID, liver=blob(2), pancreas=blob(3), spleen=blob(4))
    scores = score_segmentation(prediction, reference)
    assert [item.key for item in scores] == ["liver", "spleen"]
    assert scores[0].dice == 1.0 > scores[1].dice


def test_a_structure_asked_for_by_name_must_be_in_both() -> None:
    prediction, reference = segmentation(GRID, liver=blob(2)), segmentation(GRID, pancreas=blob(3))
    with pytest.raises(SegmentationError, match="prediction has no structure 'pancreas'"):
        score_segmentation(prediction, reference, ["pancreas"])


def test_different_grids_are_refused_with_both_of_them_named() -> None:
    coarse = Geometry(GRID.shape, (1.0, 1.0, 3.0))
    with pytest.raises(SegmentationError, match=r"0\.7 x 0\.9 x 2\.5 mm.*1 x 1 x 3 mm"):
        score_segmentation(segmentation(GRID, liver=blob(1)), segmentation(coarse, liver=blob(1)))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_surface_distance(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "surface_distance":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_surface_distance)
    with pytest.raises(MissingExtraError, match=r"partialseg\[evaluation\]"):
        score(blob(1), blob(2))


def test_every_number_of_a_score_has_its_definition() -> None:
    assert {"dice", "hd95_mm", "surface_dice", "surface_distance_mm"} <= DEFINITIONS.keys()
