"""Undo of a run gives back exactly what was there, and loses no edit that was made since without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_cases import SHAPE
from mrml_cases import RIGID, add_transform, draw, everything, result, voxels
from mrml_cases import scan as ct

from PartialSegLib.errors import SegmentationError
from PartialSegSlicer.nodes import createSegmentationNode
from PartialSegSlicer.segments import markCompleted, segmentIDs, segmentOf, tagOf
from PartialSegSlicer.writing import Overlap, writeSegmentation
from slicer_scene import SlicerScene


def block(low: int, high: int) -> np.ndarray:
    """Return a (z, y, x) array with a cube of voxels."""
    array = np.zeros(SHAPE, bool)
    array[low:high, low:high, low:high] = True
    return array


@pytest.fixture
def scene(slicer_scene: SlicerScene) -> tuple[SlicerScene, Any, Any]:
    """A volume under a transform, and a segmentation with results of a run and segments of the user."""
    volume = slicer_scene.add_volume(ct("oblique"))
    add_transform(slicer_scene, RIGID, volume)
    node = createSegmentationNode(volume)
    writeSegmentation(result(volume, seed=1, keys=("liver", "spleen", "pancreas")), node, volumeNode=volume)
    draw(slicer_scene, node, volume, "Kyste à suivre", block(2, 9))
    node.GetSegmentation().AddEmptySegment("empty", "Empty")
    segmentOf(node, "spleen").SetTag("Segmentation.Status", "flagged")
    segmentOf(node, "spleen").SetTag("Radiologist.Note", "à revoir")
    node.GetDisplayNode().SetSegmentOpacity2DFill("liver", 0.3)
    return slicer_scene, volume, node


@pytest.mark.parametrize("overlap", list(Overlap))
@pytest.mark.parametrize("collapsed", [False, True])
def test_undo_gives_back_exactly_what_was_there(
    scene: tuple[SlicerScene, Any, Any], overlap: Overlap, collapsed: bool
) -> None:
    slicer, volume, node = scene
    if collapsed:
        node.GetSegmentation().CollapseBinaryLabelmaps(False)
    before = everything(slicer, node)
    report = writeSegmentation(result(volume, seed=2, algorithm="Other 2"), node, volumeNode=volume, overlap=overlap)
    changed = everything(slicer, node)
    assert changed != before
    report.undo.restore()
    assert everything(slicer, node) == before


def test_undo_of_several_parts_goes_back_to_before_the_first(scene: tuple[SlicerScene, Any, Any]) -> None:
    slicer, volume, node = scene
    before = everything(slicer, node)
    report = writeSegmentation(result(volume, seed=2, keys=("liver", "kidneys")), node)
    writeSegmentation(result(volume, seed=3, keys=("liver", "colon_tumor")), node, undo=report.undo)
    assert set(report.undo.segmentIDs) == {"liver", "kidneys", "colon_tumor"}
    report.undo.restore()
    assert everything(slicer, node) == before


def test_undo_can_be_undone(scene: tuple[SlicerScene, Any, Any]) -> None:
    slicer, volume, node = scene
    before = everything(slicer, node)
    report = writeSegmentation(result(volume, seed=2), node, overlap=Overlap.REPLACE)
    after = everything(slicer, node)
    redo = report.undo.restore()
    undo = redo.restore()
    assert sorted(everything(slicer, node)) == sorted(after)
    undo.restore()
    assert everything(slicer, node) == before


def test_undo_leaves_segments_alone_that_the_run_did_not_change(scene: tuple[SlicerScene, Any, Any]) -> None:
    slicer, volume, node = scene
    report = writeSegmentation(result(volume, seed=2, keys=("liver",)), node)
    later = draw(slicer, node, volume, "Drawn later", block(4, 8))
    slicer.slicer.util.updateSegmentBinaryLabelmapFromArray(block(1, 3).astype(np.uint8), node, "pancreas", volume)
    report.undo.restore()
    assert np.array_equal(voxels(slicer, node, later), block(4, 8))
    assert np.array_equal(voxels(slicer, node, "pancreas"), block(1, 3))


def test_undo_tells_what_was_edited_since(scene: tuple[SlicerScene, Any, Any]) -> None:
    slicer, volume, node = scene
    report = writeSegmentation(result(volume, seed=2, keys=("liver", "spleen", "pancreas")), node)
    assert report.undo.editedSegments() == ()
    slicer.slicer.util.updateSegmentBinaryLabelmapFromArray(block(1, 3).astype(np.uint8), node, "spleen", volume)
    node.GetSegmentation().RemoveSegment("pancreas")
    assert report.undo.editedSegments() == ("pancreas", "spleen")


def test_undo_brings_a_deleted_segment_back_with_its_place_and_display(scene: tuple[SlicerScene, Any, Any]) -> None:
    slicer, volume, node = scene
    before = everything(slicer, node)
    report = writeSegmentation(result(volume, seed=2, keys=("liver",)), node)
    node.GetSegmentation().RemoveSegment("liver")
    report.undo.restore()
    assert everything(slicer, node) == before


def test_undo_leaves_a_segment_alone_that_was_completed_since(scene: tuple[SlicerScene, Any, Any]) -> None:
    slicer, volume, node = scene
    drawn = result(volume, seed=2, keys=("liver", "kidneys"))
    report = writeSegmentation(drawn, node)
    markCompleted(node, "liver")
    markCompleted(node, "kidneys")
    report.undo.restore()
    assert np.array_equal(voxels(slicer, node, "liver"), drawn.array("liver"))
    assert "kidneys" in segmentIDs(node)


def test_undo_without_its_segmentation_says_so(scene: tuple[SlicerScene, Any, Any]) -> None:
    slicer, volume, node = scene
    report = writeSegmentation(result(volume, seed=2), node)
    slicer.scene.RemoveNode(node)
    with pytest.raises(SegmentationError, match="was removed from the scene"):
        report.undo.restore()
    with pytest.raises(SegmentationError, match="was removed from the scene"):
        report.undo.editedSegments()


def test_a_run_keeps_the_tags_of_others(scene: tuple[SlicerScene, Any, Any]) -> None:
    _, volume, node = scene
    report = writeSegmentation(result(volume, seed=2), node)
    assert tagOf(segmentOf(node, "spleen"), "Radiologist.Note") == "à revoir"
    segmentOf(node, "spleen").RemoveTag("Radiologist.Note")
    report.undo.restore()
    assert tagOf(segmentOf(node, "spleen"), "Radiologist.Note") == "à revoir"


def test_undo_of_a_segmentation_turned_into_surfaces_is_refused(scene: tuple[SlicerScene, Any, Any]) -> None:
    _, volume, node = scene
    report = writeSegmentation(result(volume, seed=2), node)
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(SegmentationError, match="stored as 'Closed surface'"):
        report.undo.restore()


def test_undo_works_without_a_display_node(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Hidden")
    drawn = result(volume, seed=1)
    writeSegmentation(drawn, node, volumeNode=volume)
    report = writeSegmentation(result(volume, seed=2), node, volumeNode=volume)
    report.undo.restore()
    for key in drawn.keys:
        assert np.array_equal(voxels(slicer_scene, node, key), drawn.array(key)), key
