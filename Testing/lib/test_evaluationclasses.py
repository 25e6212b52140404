"""Evaluation classes of KiTS21: unions of structures, each scored at its own tolerance."""

from __future__ import annotations

import numpy as np
import pytest

from PartialSegLib.errors import SegmentationError
from PartialSegLib.evaluationclasses import KITS21_CLASSES, score_classes, unite
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.structures import LabelSpace, catalogue

pytest.importorskip("surface_distance")

GRID = Geometry((16, 16, 16), (1.0, 1.0, 1.0))
KITS21 = LabelSpace.named("kits21")


def kidney(*, tumor_at: int = 4, whole: bool = True) -> Segmentation:
    """Return a kidney, a tumor and a cyst in a row; `whole` says whether the kidney's mask includes them."""
    masks = {key: np.zeros(GRID.shape, bool) for key in KITS21.select()}
    masks["kidneys"][4:12, 4:12, 2:14] = True
    masks["kidney_tumor"][4:12, 4:12, tumor_at : tumor_at + 3] = True
    masks["kidney_cyst"][4:12, 4:12, 10:12] = True
    if not whole:
        masks["kidneys"] &= ~(masks["kidney_tumor"] | masks["kidney_cyst"])
    return Segmentation.from_arrays(GRID, KITS21.structures, masks)


def test_the_classes_are_kidneys_and_masses_then_masses_then_tumor() -> None:
    united = unite(kidney())
    assert united.keys == ("kidneys_and_masses", "kidney_masses", "kidney_tumor")
    assert [united.masks[key].count for key in united.keys] == [8 * 8 * 12, 8 * 8 * 5, 8 * 8 * 3]


def test_it_does_not_matter_whether_the_kidney_was_drawn_with_its_masses() -> None:
    one, two = unite(kidney(whole=True)), unite(kidney(whole=False))
    for key in one.keys:
        assert np.array_equal(one.array(key), two.array(key))


def test_each_class_is_scored_at_the_tolerance_of_the_challenge() -> None:
    scores = score_classes(kidney(), kidney())
    assert [score.key for score in scores] == [union.key for union in KITS21_CLASSES]
    assert [score.tolerance_mm for score in scores] == [1.0330772532390826, 1.1328796488598762, 1.1498198361434828]
    assert all(score.dice == score.surface_dice == 1.0 for score in scores)


def test_a_tumor_found_beside_its_place_spoils_the_masses_but_not_the_kidney() -> None:
    whole, masses, tumor = score_classes(kidney(tumor_at=5), kidney(tumor_at=4))
    assert whole.dice == 1.0
    assert tumor.dice == pytest.approx(2 / 3)
    assert masses.dice == pytest.approx(4 / 5)


def test_a_tumor_taken_for_a_cyst_is_still_a_mass() -> None:
    taken = kidney()
    taken.masks["kidney_tumor"], taken.masks["kidney_cyst"] = taken.masks["kidney_cyst"], taken.masks["kidney_tumor"]
    whole, masses, tumor = score_classes(taken, kidney())
    assert whole.dice == masses.dice == 1.0
    assert tumor.dice == 0.0


def test_the_union_is_coded_as_its_first_structure() -> None:
    united = {structure.key: structure for structure in unite(kidney()).structures}
    assert united["kidney_masses"].type == catalogue()["kidney_tumor"].type
    assert united["kidney_masses"].name == "Kidney masses"


def test_a_segmentation_without_cysts_cannot_be_judged_by_its_masses() -> None:
    partial = kidney()
    partial = Segmentation(partial.geometry, partial.structures[:2], {"kidneys": partial.masks["kidneys"]})
    with pytest.raises(SegmentationError, match=r"'kidneys_and_masses' needs structure 'kidney_cyst'; there is: kidn"):
        unite(partial)
