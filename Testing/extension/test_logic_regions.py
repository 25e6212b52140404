"""A run with a region, with uncertainty, and with parts that appear early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logic_cases import TASKS, spin, unexpected
from mrml_cases import RIGID, add_transform

from PartialSegLib.errors import ImageError
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.logic.regions import boxOfRegion, regionOfNode
from PartialSegSlicer.volumes import geometryFromVolumeNode
from slicer_scene import SlicerScene


def add_roi(scene: SlicerScene, volume: Any, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Any:
    """Add a region that holds the voxels (z, y, x) of a volume from `start` to `stop`."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometryFromVolumeNode(volume).affine
    corners = [affine @ [*(np.asarray(index[::-1]) - 0.5), 1.0] for index in (start, stop)]
    low, high = np.min(corners, axis=0)[:3], np.max(corners, axis=0)[:3]
    node = scene.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    node.SetCenter((low + high) / 2)
    node.SetSize(high - low)
    return node


def whole(node: Any, segment: str, volume: Any) -> np.ndarray:
    """Return a segment as an array (z, y, x) on the grid of a volume."""
    geometry = geometryFromVolumeNode(volume)
    mask = maskOnVolume(node, segment, geometry)
    array = np.zeros(geometry.shape, bool)
    array[mask.box] = mask.unpack()
    return array


def test_a_region_is_the_box_of_its_voxels(slicer_scene: SlicerScene, volume: Any) -> None:
    node = add_roi(slicer_scene, volume, (4, 10, 20), (20, 30, 50))
    box = boxOfRegion(regionOfNode(node), geometryFromVolumeNode(volume))
    assert box == (slice(4, 20), slice(10, 30), slice(20, 50))


def test_outside_the_region_a_segment_keeps_every_voxel_and_inside_it_gets_the_new_ones(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    full = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu")
    inside = np.zeros(geometryFromVolumeNode(volume).shape, bool)
    inside[6:22, 10:40, 12:48] = True
    new = logic.segment(
        volume,
        tasks=["liver"],
        model=str(random_model),
        device="cpu",
        region=add_roi(slicer_scene, volume, (6, 10, 12), (22, 40, 48)),
    )
    found = whole(new.segmentationNode, "liver", volume)
    assert found.any()
    assert not found[~inside].any()
    node = full.segmentationNode
    drawn = np.random.default_rng(2).random(inside.shape) < 0.3
    slicer_scene.slicer.util.updateSegmentBinaryLabelmapFromArray(drawn.astype(np.uint8), node, "liver", volume)
    region = slicer_scene.scene.GetFirstNodeByClass("vtkMRMLMarkupsROINode")
    again = logic.segment(
        volume, tasks=["liver"], segmentationNode=node, model=str(random_model), device="cpu", region=region
    )
    both = whole(node, "liver", volume)
    np.testing.assert_array_equal(both[~inside], drawn[~inside])
    np.testing.assert_array_equal(both[inside], found[inside])
    assert again.structures[0].voxels == both.sum()
    assert again.structures[0].segmentID == full.structures[0].segmentID == "liver"
    logic.undoLastRun()
    np.testing.assert_array_equal(whole(node, "liver", volume), drawn)


@pytest.mark.parametrize("kind", ["outside", "removed", "no region"])
def test_a_region_that_cannot_be_used_is_refused(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path, kind: str
) -> None:
    node = add_roi(slicer_scene, volume, (400, 400, 400), (410, 410, 410))
    if kind == "removed":
        slicer_scene.scene.RemoveNode(node)
    elif kind == "no region":
        node = volume
    with pytest.raises(ImageError) as raised:
        logic.segment(volume, tasks=["liver"], model=str(random_model), region=node)
    assert raised.value.hint
    assert not logic.busy


def test_uncertainty_says_where_to_look_first(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    add_transform(slicer_scene, RIGID, volume)
    result = logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu", uncertainty=True)
    entropy = slicer_scene.slicer.util.arrayFromVolume(result.uncertaintyNode)
    geometry = geometryFromVolumeNode(volume)
    assert geometryFromVolumeNode(result.uncertaintyNode).matches(geometry)
    display = result.uncertaintyNode.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 1.0)
    to_voxel = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine)
    ranked = result.byUncertainty()
    assert ranked
    assert [row.uncertainty for row in ranked] == sorted((row.uncertainty for row in ranked), reverse=True)
    for row in ranked:
        mask = whole(result.segmentationNode, row.segmentID, volume)
        assert row.uncertainty == pytest.approx(float(entropy[mask].mean()), abs=1e-5)
        x, y, z = (round(value) for value in (to_voxel @ [*row.reviewPoint, 1.0])[:3])
        assert mask[z, y, x]
        sums = np.where(mask, entropy, 0).sum(axis=(1, 2))
        assert sums[z] == pytest.approx(sums.max(), rel=1e-5)
        x, y, z = (round(value) for value in (to_voxel @ [*row.center, 1.0])[:3])
        assert mask[z, y, x]
    # The next run fills the same node, and an undo brings the earlier map back.
    first = entropy.copy()
    second = logic.segment(
        volume,
        tasks=["liver"],
        segmentationNode=result.segmentationNode,
        model=str(random_model),
        device="cpu",
        uncertainty=True,
    )
    assert second.uncertaintyNode is result.uncertaintyNode
    assert not np.array_equal(slicer_scene.slicer.util.arrayFromVolume(result.uncertaintyNode), first)
    logic.undoLastRun()
    np.testing.assert_array_equal(slicer_scene.slicer.util.arrayFromVolume(result.uncertaintyNode), first)
    assert geometryFromVolumeNode(result.uncertaintyNode).matches(geometry)


def test_an_undo_removes_the_map_of_uncertainty_that_its_run_made(logic: Any, volume: Any, random_model: Path) -> None:
    result = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu", uncertainty=True)
    assert result.uncertaintyNode.GetScene() is not None
    logic.undoLastRun()
    assert result.uncertaintyNode.GetScene() is None


def test_structures_appear_before_the_run_is_finished_and_are_the_same_in_the_end(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    seen: list[tuple[str, str, int]] = []

    def appeared(row: Any) -> None:
        node = slicer_scene.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        seen.append((row.key, run.state, maskOnVolume(node, row.segmentID, geometryFromVolumeNode(volume)).count))

    run = logic.segment(
        volume, tasks=TASKS, model=str(random_model), device="cpu", onPartial=appeared, onError=unexpected
    )
    spin(logic, run)
    assert {state for _, state, _ in seen} == {"running"}
    rows = {row.key: row for row in run.result.structures}
    assert seen
    assert all(count == rows[key].voxels for key, _, count in seen)
    assert {row.status for row in run.result.structures} <= {"new", "empty"}
    plain = logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu")
    assert {row.key: row.voxels for row in plain.structures} == {key: row.voxels for key, row in rows.items()}
