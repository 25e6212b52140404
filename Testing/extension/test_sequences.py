"""Sequences (4D): every frame is segmented as it would be alone, and browsed with its volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logic_cases import TASKS, spin
from mrml_cases import RIGID, add_sequence, add_transform, browse
from worker_cases import blobs

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import ImageError, SegmentationError
from PartialSegLib.images import Image
from PartialSegLib.inference import Predictor
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.logic.errors import EditsError
from PartialSegSlicer.segments import markCompleted, segmentIDs
from PartialSegSlicer.volumes import geometryFromVolumeNode, imagesFromSequence
from slicer_scene import SlicerScene

VALUES = ("0.0", "0.5", "1.0")


@pytest.fixture
def shown(slicer_scene: SlicerScene) -> Any:
    """A volume that shows the second of three frames, under a transform."""
    proxy = add_sequence(slicer_scene, {value: blobs((32, 56, 60), seed) for seed, value in enumerate(VALUES)}, 1)
    add_transform(slicer_scene, RIGID, proxy)
    return proxy


def nodes(scene: SlicerScene) -> set[str]:
    """Return the IDs of all nodes, but for those that the application has anyway, or that drawing leaves behind."""
    passing = ("vtkMRMLLabelMapVolumeDisplayNode", "vtkMRMLSubjectHierarchyNode")
    found = (scene.scene.GetNthNode(number) for number in range(scene.scene.GetNumberOfNodes()))
    return {node.GetID() for node in found if node.GetClassName() not in passing}


def test_each_frame_is_segmented_and_browsed_with_its_volume(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    result = logic.segmentSequence(shown, tasks=TASKS, model=str(random_model), device="cpu")
    assert tuple(result.frames) == VALUES
    assert result.structures == result.frames[VALUES[1]]
    seconds = result.report["seconds"]
    assert seconds["total"] == pytest.approx(
        sum(value for stage, value in seconds.items() if stage != "total"), abs=0.02
    )
    sequence, browser = result.sequenceNode, slicer_scene.slicer.util.getNode("Browser")
    assert (sequence.GetIndexName(), sequence.GetIndexUnit()) == ("time", "s")
    assert browser.GetProxyNode(sequence) is result.segmentationNode
    assert browser.GetSaveChanges(sequence)
    predictor = Predictor(ModelBundle.open(random_model), "cpu")
    images = imagesFromSequence(browser.GetSequenceNode(shown), shown.GetParentTransformNode())
    expected = {value: predictor.segment(image, TASKS).segmentation for value, image in images}
    # The frame that was shown is shown already; then the slider is moved.
    for item in (None, 0, 2, 1):
        if item is not None:
            browse(slicer_scene, browser, item)
        value = VALUES[1 if item is None else item]
        for row in result.frames[value]:
            mask = maskOnVolume(result.segmentationNode, row.segmentID, geometryFromVolumeNode(shown))
            np.testing.assert_array_equal(mask.unpack(), expected[value].masks[row.key].unpack())
            assert row.voxels == expected[value].masks[row.key].count
            assert row.status == ("new" if row.voxels else "empty")
    assert len({tuple(row.voxels for row in rows) for rows in result.frames.values()}) == len(VALUES)


def test_progress_says_which_frame_and_the_console_goes_on(logic: Any, shown: Any, random_model: Path) -> None:
    stages: list[str] = []
    run = logic.segmentSequence(
        shown, TASKS, str(random_model), "cpu", onProgress=lambda progress: stages.append(progress.stage)
    )
    spin(logic, run)
    assert run.error is None
    assert {"segment 1/3", "segment 2/3", "segment 3/3", "write"} <= set(stages)


def test_a_run_that_is_cancelled_leaves_nothing(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    before = slicer_scene.scene.GetNumberOfNodes()
    run = logic.segmentSequence(shown, TASKS, str(random_model), "cpu", onError=lambda error: None)
    logic.cancel()
    spin(logic, run)
    assert run.state == "cancelled"
    assert slicer_scene.scene.GetNumberOfNodes() == before


def test_a_run_that_is_cancelled_while_its_frames_are_shown_leaves_nothing(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    before = nodes(slicer_scene)

    def stop(progress: Any) -> None:
        if progress.stage == "write" and progress.done == 2:
            logic.cancel()

    run = logic.segmentSequence(shown, TASKS, str(random_model), "cpu", onProgress=stop, onError=lambda error: None)
    spin(logic, run)
    assert run.state == "cancelled"
    assert nodes(slicer_scene) == before


@pytest.mark.parametrize("class_name", ["vtkMRMLSequenceNode", "vtkMRMLSequenceBrowserNode"])
def test_a_sequence_that_is_removed_meanwhile_ends_the_run(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path, class_name: str
) -> None:
    run = logic.segmentSequence(shown, TASKS, str(random_model), "cpu", onError=lambda error: None)
    scene = slicer_scene.scene
    scene.RemoveNode(scene.GetFirstNodeByClass(class_name))
    spin(logic, run)
    assert run.state == "cancelled"
    assert "was removed from the scene" in str(run.error)
    assert scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_frames_that_are_removed_meanwhile_are_noticed(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    run = logic.segmentSequence(shown, TASKS, str(random_model), "cpu", onError=lambda error: None)
    slicer_scene.scene.GetFirstNodeByClass("vtkMRMLSequenceNode").RemoveDataNodeAtValue(VALUES[0])
    spin(logic, run)
    assert run.state == "failed"
    assert "added or removed during the run" in str(run.error)
    assert slicer_scene.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_a_run_does_not_write_into_another_frame_and_undo_does_neither(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    browser = slicer_scene.slicer.util.getNode("Browser")
    run = logic.segment(shown, TASKS, model=str(random_model), device="cpu", onError=lambda error: None)
    browse(slicer_scene, browser, 0)
    spin(logic, run)
    assert run.state == "failed"
    assert "another frame of its sequence" in str(run.error)
    assert slicer_scene.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None
    made = logic.segmentSequence(shown, ["liver"], str(random_model), "cpu")
    logic.segment(shown, ["spleen"], made.segmentationNode, str(random_model), "cpu")
    browse(slicer_scene, browser, 2)
    with pytest.raises(SegmentationError, match=r"on frame '0\.0'"):
        logic.undoLastRun()
    browse(slicer_scene, browser, 0)
    logic.undoLastRun(discardEdits=True)
    assert made.segmentationNode.GetSegmentation().GetSegment("spleen") is None


def draw(scene: SlicerScene, node: Any, segment: str, volume: Any) -> None:
    """Draw a segment anew, as a user does."""
    array = np.zeros(geometryFromVolumeNode(volume).shape, np.uint8)
    array[1:4, 2:9, 3:12] = 1
    if segment not in segmentIDs(node):
        node.GetSegmentation().AddEmptySegment(segment, segment)
    scene.slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, volume)


@pytest.mark.parametrize("browsed", [(), (0, 2, 1)], ids=["at once", "after browsing"])
def test_undo_removes_all_frames_and_what_shows_them(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path, browsed: tuple[int, ...]
) -> None:
    browser, before = slicer_scene.slicer.util.getNode("Browser"), nodes(slicer_scene)
    result = logic.segmentSequence(shown, TASKS, str(random_model), "cpu")
    assert logic.canUndo
    for item in browsed:
        browse(slicer_scene, browser, item)
    logic.undoLastRun()
    assert nodes(slicer_scene) == before
    assert result.segmentationNode.GetScene() is result.sequenceNode.GetScene() is None
    assert browser.GetNumberOfSynchronizedSequenceNodes(True) == 1
    assert not logic.canUndo
    with pytest.raises(SegmentationError, match="no run to undo"):
        logic.undoLastRun()
    # The volumes are browsed as before, and segmented again.
    browse(slicer_scene, browser, 2)
    assert nodes(slicer_scene) == before
    assert logic.segmentSequence(shown, ["liver"], str(random_model), "cpu").structures


@pytest.mark.parametrize("frame", [1, 2], ids=["the frame that is shown", "another frame"])
def test_undo_asks_before_it_loses_the_edit_of_a_frame(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path, frame: int
) -> None:
    browser, before = slicer_scene.slicer.util.getNode("Browser"), nodes(slicer_scene)
    result = logic.segmentSequence(shown, ["liver"], str(random_model), "cpu")
    if frame == 1:
        draw(slicer_scene, result.segmentationNode, "liver", shown)
    else:
        browse(slicer_scene, browser, frame)
        draw(slicer_scene, result.segmentationNode, "liver", shown)
        browse(slicer_scene, browser, 0)
    with pytest.raises(EditsError, match="Edited since the run") as raised:
        logic.undoLastRun()
    assert raised.value.segments == (f"Liver (frame '{VALUES[frame]}')",)
    assert result.sequenceNode.GetScene() is not None
    logic.undoLastRun(discardEdits=True)
    assert nodes(slicer_scene) == before


def test_undo_leaves_what_somebody_drew_or_completed_in_a_frame(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    browser = slicer_scene.slicer.util.getNode("Browser")
    result = logic.segmentSequence(shown, ["liver", "spleen"], str(random_model), "cpu")
    node = result.segmentationNode
    browse(slicer_scene, browser, 2)
    draw(slicer_scene, node, "Mine", shown)
    browse(slicer_scene, browser, 0)
    markCompleted(node, "spleen")
    kept = maskOnVolume(node, "spleen", geometryFromVolumeNode(shown))
    logic.undoLastRun()
    assert not logic.canUndo
    left = {value: segmentIDs(result.sequenceNode.GetDataNodeAtValue(value)) for value in VALUES}
    assert left == {"0.0": ("spleen",), "0.5": (), "1.0": ("Mine",)}
    assert segmentIDs(node) == ("spleen",)
    found = maskOnVolume(node, "spleen", geometryFromVolumeNode(shown))
    np.testing.assert_array_equal(found.unpack(), kept.unpack())
    browse(slicer_scene, browser, 2)
    assert segmentIDs(node) == ("Mine",)
    assert maskOnVolume(node, "Mine", geometryFromVolumeNode(shown)).count == 3 * 7 * 9


@pytest.mark.parametrize("class_name", ["vtkMRMLSegmentationNode", "vtkMRMLSequenceBrowserNode"])
def test_undo_works_when_only_a_part_of_a_result_is_left(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path, class_name: str
) -> None:
    result = logic.segmentSequence(shown, ["liver"], str(random_model), "cpu")
    scene = slicer_scene.scene
    scene.RemoveNode(scene.GetFirstNodeByClass(class_name))
    logic.undoLastRun()
    assert result.segmentationNode.GetScene() is result.sequenceNode.GetScene() is None


def test_there_is_nothing_to_undo_when_the_sequence_is_gone(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    result = logic.segmentSequence(shown, ["liver"], str(random_model), "cpu")
    slicer_scene.scene.RemoveNode(result.sequenceNode)
    assert not logic.canUndo
    with pytest.raises(SegmentationError, match="no run to undo"):
        logic.undoLastRun()


def test_no_frame_is_lost_between_values_that_lie_close(
    logic: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    values = ("0", "0.0004", "0.0008")
    proxy = add_sequence(slicer_scene, {value: blobs((32, 56, 60), seed) for seed, value in enumerate(values)}, 0, 1e-5)
    result = logic.segmentSequence(proxy, ["liver"], str(random_model), "cpu")
    assert tuple(result.frames) == values
    assert result.sequenceNode.GetNumberOfDataNodes() == len(values)


def test_a_volume_that_shows_no_sequence_is_refused(logic: Any, volume: Any, random_model: Path) -> None:
    with pytest.raises(ImageError, match="shows no frames of a sequence"):
        logic.segmentSequence(volume, TASKS, str(random_model), "cpu")
    with pytest.raises(ImageError, match="No volume is chosen"):
        logic.segmentSequence(None, TASKS, str(random_model), "cpu")


def test_a_frame_on_another_grid_is_named(
    logic: Any, shown: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    image: Image = blobs((32, 56, 60), seed=9)
    moved = replace(image, geometry=replace(image.geometry, origin=(5.0, 0.0, 0.0)))
    frame = slicer_scene.add_volume(moved)
    slicer_scene.scene.GetFirstNodeByClass("vtkMRMLSequenceNode").SetDataNodeAtValue(frame, VALUES[2])
    with pytest.raises(ImageError, match=r"Frame '1\.0' of .* another grid"):
        logic.segmentSequence(shown, TASKS, str(random_model), "cpu")
    assert slicer_scene.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None
