"""What happens to the scene while a run goes on, and what it may look like before: nothing is lost, nothing crashes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from logic_cases import TASKS, large_scan, small_scan, spin, spin_until_underway, unexpected
from mrml_cases import REGISTRATION, add_bending_transform, add_transform

from PartialSegLib.errors import ImageError, PartialSegError, SegmentationError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.structures import catalogue
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.logic.errors import BusyError, EditsError
from PartialSegSlicer.segments import addSegment
from PartialSegSlicer.volumes import geometryFromVolumeNode
from slicer_scene import SlicerScene


@pytest.fixture
def large(slicer_scene: SlicerScene) -> Any:
    """A volume that takes long enough for something to happen meanwhile."""
    return slicer_scene.add_volume(large_scan(), "Größe 肝")


def underway(logic: Any, volume: Any, model: Path, **settings: Any) -> tuple[Any, list[PartialSegError]]:
    """Start a run and poll until it computes."""
    errors: list[PartialSegError] = []
    run = logic.segment(volume, model=str(model), device="cpu", **settings, onError=errors.append)
    spin_until_underway(logic, run)
    return run, errors


def segmentations(scene: SlicerScene) -> int:
    return int(scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))


def erase(scene: SlicerScene, node: Any, segment: str, volume: Any) -> None:
    """Erase all but one corner of a segment, as a user does in the Segment Editor."""
    array = np.zeros(geometryFromVolumeNode(volume).shape, np.uint8)
    array[2:4, 2:4, 2:4] = 1
    scene.slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, volume)


def test_a_volume_deleted_during_the_run_ends_it_as_cancelled(
    logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    run, errors = underway(logic, large, random_model)
    slicer_scene.scene.RemoveNode(large)
    spin(logic, run)
    assert run.state == "cancelled"
    assert "'Größe 肝' was removed" in errors[0].message
    assert segmentations(slicer_scene) == 0


def test_a_segmentation_deleted_during_the_run_ends_it_as_cancelled(
    logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    node = slicer_scene.add_segmentation(large, "Befund")
    run, errors = underway(logic, large, random_model, segmentationNode=node)
    slicer_scene.scene.RemoveNode(node)
    spin(logic, run)
    assert run.state == "cancelled"
    assert "'Befund' was removed" in errors[0].message


def test_a_scene_closed_during_the_run_ends_it_and_the_next_run_works(
    logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    run, errors = underway(logic, large, random_model)
    slicer_scene.scene.Clear(0)
    spin(logic, run)
    assert run.state == "cancelled"
    assert "scene was closed" in errors[0].message
    again = slicer_scene.add_volume(small_scan())
    assert logic.segment(again, tasks=TASKS, model=str(random_model), device="cpu").structures


def test_two_runs_at_once_are_refused_and_the_first_goes_on(logic: Any, large: Any, random_model: Path) -> None:
    run, errors = underway(logic, large, random_model)
    with pytest.raises(BusyError) as raised:
        logic.segment(large, model=str(random_model))
    assert "cancel" in raised.value.hint
    assert not run.ended
    logic.cancel()
    spin(logic, run)
    assert [error.code for error in errors] == ["cancelled"]


def test_a_cancelled_run_leaves_the_scene_as_it_was(
    logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    node = slicer_scene.add_segmentation(large)
    addSegment(node, catalogue()["liver"])
    erase(slicer_scene, node, "liver", large)
    run, _ = underway(logic, large, random_model, segmentationNode=node)
    logic.cancel()
    spin(logic, run)
    assert run.state == "cancelled"
    assert list(node.GetSegmentation().GetSegmentIDs()) == ["liver"]
    assert maskOnVolume(node, "liver", geometryFromVolumeNode(large)).count == 8


def test_a_worker_that_is_killed_leaves_the_scene_unchanged_and_the_next_run_works(
    own_logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    node = slicer_scene.add_segmentation(large)
    run, errors = underway(own_logic, large, random_model, segmentationNode=node)
    os.kill(own_logic.session.client.hello["pid"], getattr(signal, "SIGKILL", signal.SIGTERM))
    spin(own_logic, run)
    assert run.state == "failed"
    assert errors[0].code == "worker-crashed"
    assert "killed by signal" in errors[0].message
    assert "next run starts a new worker" in errors[0].hint
    assert node.GetSegmentation().GetNumberOfSegments() == 0
    assert "killed by signal" in own_logic.diagnostics()
    again = slicer_scene.add_volume(small_scan())
    result = own_logic.segment(again, tasks=["spleen"], model=str(random_model), device="cpu")
    assert result.structures[0].key == "spleen"


def test_closing_the_logic_during_a_run_ends_the_worker_and_deletes_the_voxels(
    own_logic: Any, large: Any, random_model: Path
) -> None:
    run, errors = underway(own_logic, large, random_model)
    worker, folder = psutil.Process(own_logic.session.client.hello["pid"]), own_logic.session.client.folder
    own_logic.close()
    assert run.state == "cancelled"
    assert [error.code for error in errors] == ["cancelled"]
    assert not folder.exists()
    worker.wait(10)


def test_a_segment_edited_during_the_run_is_not_overwritten(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    first = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu")
    node, row = first.segmentationNode, next(row for row in first.structures if row.key == "liver")
    run = logic.segment(
        volume, tasks=["liver"], segmentationNode=node, model=str(random_model), device="cpu", onError=unexpected
    )
    erase(slicer_scene, node, row.segmentID, volume)
    spin(logic, run)
    found = {item.key: item for item in run.result.structures}
    assert found["liver"].status == "edited"
    assert maskOnVolume(node, row.segmentID, geometryFromVolumeNode(volume)).count == 8
    assert any("edited during the run" in note for note in run.result.notes)


def test_a_segment_marked_completed_is_not_overwritten(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    first = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu")
    node, row = first.segmentationNode, first.structures[0]
    erase(slicer_scene, node, row.segmentID, volume)
    logic.markCorrected(node, row.segmentID)
    again = logic.segment(volume, tasks=["liver"], segmentationNode=node, model=str(random_model), device="cpu")
    assert again.structures[0].status == "completed"
    assert maskOnVolume(node, row.segmentID, geometryFromVolumeNode(volume)).count == 8


def test_a_locked_segment_loses_no_voxel_and_the_new_ones_stay_out_of_it(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    first = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu")
    node, row = first.segmentationNode, next(row for row in first.structures if row.voxels)
    logic.markCorrected(node, row.segmentID)
    geometry = geometryFromVolumeNode(volume)
    locked = maskOnVolume(node, row.segmentID, geometry)
    second = logic.segment(
        volume, tasks=["kidney"], segmentationNode=node, model=str(random_model), device="cpu", overlap="only unlocked"
    )
    for item in second.structures:
        assert not maskOnVolume(node, item.segmentID, geometry).overlaps(locked)
    assert maskOnVolume(node, row.segmentID, geometry).count == row.voxels


def test_an_undo_asks_before_it_loses_an_edit(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    result = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu")
    row = result.structures[0]
    erase(slicer_scene, result.segmentationNode, row.segmentID, volume)
    with pytest.raises(EditsError) as raised:
        logic.undoLastRun()
    assert raised.value.segments == (row.name,)
    logic.undoLastRun(discardEdits=True)
    assert result.segmentationNode.GetScene() is None
    assert not logic.canUndo
    with pytest.raises(SegmentationError, match="no run to undo"):
        logic.undoLastRun()


def test_a_volume_moved_during_the_run_gets_no_segments_at_the_wrong_place(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    errors: list[PartialSegError] = []
    run = logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu", onError=errors.append)
    add_transform(slicer_scene, REGISTRATION, volume)
    spin(logic, run)
    assert run.state == "failed"
    assert "moved" in errors[0].message
    assert segmentations(slicer_scene) == 0


def test_an_oblique_volume_under_a_sheared_transform_gets_its_segments_at_its_voxels(
    logic: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    turned = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
    image = small_scan()
    oblique = Image(image.voxels, Geometry(image.geometry.shape, (2.0, 2.0, 2.5), (5.0, 6.0, 7.0), turned))
    volume = slicer_scene.add_volume(oblique)
    add_transform(slicer_scene, REGISTRATION, volume)
    result = logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu")
    geometry = geometryFromVolumeNode(volume)
    assert sum(row.voxels for row in result.structures) > 0
    for row in result.structures:
        assert maskOnVolume(result.segmentationNode, row.segmentID, geometry).count == row.voxels


def test_a_volume_under_a_transform_that_bends_is_refused_with_what_to_do(
    logic: Any, volume: Any, slicer_scene: SlicerScene
) -> None:
    add_bending_transform(slicer_scene, volume)
    with pytest.raises(ImageError, match="Harden"):
        logic.segment(volume, tasks=TASKS)


@pytest.mark.parametrize("kind", ["2D", "RGB", "label map", "sequence", "empty", "removed", "none"])
def test_what_is_no_scan_is_refused_at_once(logic: Any, slicer_scene: SlicerScene, kind: str) -> None:
    scene, util = slicer_scene.scene, slicer_scene.slicer.util
    node: Any = None
    if kind in ("2D", "removed"):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", kind)
        util.updateVolumeFromArray(node, np.arange(2500, dtype=np.int16).reshape(1, 50, 50))
        if kind == "removed":
            scene.RemoveNode(node)
    elif kind == "RGB":
        node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", kind)
        util.updateVolumeFromArray(node, np.zeros((4, 5, 6, 3), np.uint8))
    elif kind == "label map":
        node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", kind)
        util.updateVolumeFromArray(node, np.ones((4, 5, 6), np.uint8))
    elif kind == "sequence":
        node = scene.AddNewNodeByClass("vtkMRMLSequenceNode", kind)
    elif kind == "empty":
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", kind)
    with pytest.raises(ImageError) as raised:
        logic.segment(node, tasks=TASKS)
    assert raised.value.hint
    assert not logic.busy


def test_a_segmentation_on_another_grid_is_refused_before_the_run(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    image = small_scan()
    other = slicer_scene.add_volume(Image(image.voxels, Geometry(image.geometry.shape, (1.5, 1.5, 3.0))), "other")
    node = logic.segment(other, tasks=["liver"], model=str(random_model), device="cpu").segmentationNode
    with pytest.raises(SegmentationError, match="do not coincide"):
        logic.segment(volume, tasks=["liver"], segmentationNode=node, model=str(random_model))
    assert not logic.busy


def test_an_image_of_another_modality_is_segmented_with_a_warning(
    logic: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    image = small_scan()
    voxels = (image.voxels - image.voxels.min()).astype(np.int16)
    mr = slicer_scene.add_volume(Image(voxels, image.geometry), "T1")
    result = logic.segment(mr, tasks=["liver"], model=str(random_model), device="cpu")
    assert "no Hounsfield units" in result.notes[0]
    ct = slicer_scene.add_volume(image, "CT")
    assert not any("Hounsfield" in note for note in logic.segment(ct, tasks=["liver"], model=str(random_model)).notes)
