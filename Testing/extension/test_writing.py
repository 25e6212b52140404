"""A result in a real scene: every voxel of every structure, and not one voxel of anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vtk
from drawn_cases import SHAPE, structures
from mrml_cases import (
    REGISTRATION,
    RIGID,
    add_bending_transform,
    add_transform,
    draw,
    drawn_points,
    everything,
    result,
    voxels,
    world_points,
)
from mrml_cases import scan as ct

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import read_segmentation, slicertags
from PartialSegSlicer import writing
from PartialSegSlicer.nodes import createSegmentationNode, placeInStudy
from PartialSegSlicer.segments import findSegment, isCompleted, markCompleted, segmentOf, tagOf
from PartialSegSlicer.volumes import imageFromVolumeNode
from PartialSegSlicer.writing import Overlap, writeSegmentation
from slicer_scene import SlicerScene

KINDS = ["straight", "flipped", "oblique", "sheared"]


def cube(start: tuple[int, int, int], size: int = 4) -> np.ndarray:
    """Return a (z, y, x) array with a cube in it."""
    array = np.zeros(SHAPE, bool)
    array[tuple(slice(at, at + size) for at in start)] = True
    return array


def made(volume: Any, **masks: np.ndarray) -> Segmentation:
    """Return a result with the given masks on the grid of a volume."""
    chosen = tuple(item for item in structures() if item.key in masks)
    return Segmentation.from_arrays(imageFromVolumeNode(volume).geometry, chosen, masks, "Demo 1.0")


# ---- every voxel at its place


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("matrix", [None, RIGID, REGISTRATION], ids=["no transform", "rigid", "registration"])
def test_every_structure_lies_where_the_library_put_it(
    slicer_scene: SlicerScene, kind: str, matrix: np.ndarray | None
) -> None:
    volume = slicer_scene.add_volume(ct(kind))
    if matrix is not None:
        add_transform(slicer_scene, matrix, volume)
    drawn = result(volume)
    node = createSegmentationNode(volume)
    report = writeSegmentation(drawn, node, volumeNode=volume)
    assert node.GetParentTransformNode() is volume.GetParentTransformNode()
    assert report.written == {key: key for key in drawn.keys}
    assert report.empty == ("colon_tumor",)
    for key in drawn.keys:
        expected, found = drawn_points(drawn.geometry, drawn.array(key)), world_points(slicer_scene, node, key)
        assert len(found) == drawn.masks[key].count, key
        if len(expected):
            assert np.abs(found - expected).max() < 1e-9, key


def test_overlap_of_structures_is_kept_voxel_by_voxel(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    drawn = result(volume)
    node = createSegmentationNode(volume)
    writeSegmentation(drawn, node)
    meeting = 0
    for first in drawn.keys:
        for second in drawn.keys:
            both = (voxels(slicer_scene, node, first) & voxels(slicer_scene, node, second)).sum()
            assert both == (drawn.array(first) & drawn.array(second)).sum()
            meeting += int(both) if first != second else 0
    assert meeting > 1000


@pytest.mark.parametrize("moved", ["segmentation", "volume", "both apart"])
def test_segmentation_and_volume_may_lie_under_different_transforms(slicer_scene: SlicerScene, moved: str) -> None:
    volume = slicer_scene.add_volume(ct("oblique"))
    node = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Existing")
    node.CreateDefaultDisplayNodes()
    if moved != "segmentation":
        add_transform(slicer_scene, REGISTRATION, volume)
    if moved != "volume":
        add_transform(slicer_scene, RIGID, node)
    drawn = result(volume)
    writeSegmentation(drawn, node, volumeNode=volume)
    for key in ("liver", "spleen"):
        expected = drawn_points(drawn.geometry, drawn.array(key))
        assert np.abs(world_points(slicer_scene, node, key) - expected).max() < 1e-9


def test_only_the_box_of_a_structure_is_stored(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(made(volume, liver=cube((2, 3, 5))), node)
    assert node.GetSegmentation().GetSegment("liver").GetRepresentation("Binary labelmap").GetExtent() == (
        *(5, 8),
        *(3, 6),
        *(2, 5),
    )


def test_a_result_without_its_volume_is_not_lost(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct("oblique"))
    drawn = result(volume)
    node = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Rescued")
    slicer_scene.scene.RemoveNode(volume)
    writeSegmentation(drawn, node)
    expected = drawn_points(drawn.geometry, drawn.array("liver"))
    assert np.abs(world_points(slicer_scene, node, "liver") - expected).max() < 1e-9
    other = slicer_scene.add_volume(ct("oblique"))
    found = node.GetSegmentation().GetConversionParameter("Reference image geometry").split(";")[:22]
    wanted = createSegmentationNode(other).GetSegmentation().GetConversionParameter("Reference image geometry")
    numbers = [np.array([float(item) for item in values]) for values in (found, wanted.split(";")[:22])]
    assert np.abs(numbers[0] - numbers[1]).max() < 1e-9


# ---- how a segment is dressed


def test_segments_carry_name_color_codes_status_and_algorithm(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    drawn = result(volume)
    node = createSegmentationNode(volume)
    writeSegmentation(drawn, node, volumeNode=volume)
    for structure in drawn.structures:
        segment = segmentOf(node, structure.key)
        assert segment.GetName() == structure.name
        assert [round(255 * value) for value in segment.GetColor()] == list(structure.color)
        assert not segment.GetNameAutoGenerated()
        assert not segment.GetColorAutoGenerated()
        assert segment.GetTerminology() == slicertags.terminology_entry(structure)
        expected = slicertags.structure_tags(structure, algorithm="Demo 1.0", empty=structure.key == "colon_tumor")
        assert {name: tagOf(segment, name) for name in expected} == expected
    assert tagOf(segmentOf(node, "liver"), "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
    assert tagOf(segmentOf(node, "liver"), "DICOM.SegmentAlgorithmName") == "Demo 1.0"


def test_what_was_written_survives_saving_and_reading(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    image = ct("oblique")
    volume = slicer_scene.add_volume(image)
    drawn = result(volume)
    node = createSegmentationNode(volume, "Foie à revoir")
    writeSegmentation(drawn, node, volumeNode=volume)
    folder = tmp_path / "é ñ 肝"
    folder.mkdir()
    slicer_scene.save_segmentation(node, folder / "case.seg.nrrd")
    read = read_segmentation(folder / "case.seg.nrrd", image=image)
    assert read.structures == drawn.structures
    assert read.algorithm == "Demo 1.0"
    again = slicer_scene.load_segmentation(folder / "case.seg.nrrd")
    for key in drawn.keys:
        assert np.array_equal(read.array(key), drawn.array(key)), key
        assert np.array_equal(voxels(slicer_scene, again, key), drawn.array(key)), key
    report = writeSegmentation(result(volume, seed=9), again, volumeNode=volume)
    assert report.written == {key: key for key in drawn.keys}


def test_a_new_node_lies_beside_its_volume_in_the_study(slicer_scene: SlicerScene) -> None:
    hierarchy = slicer_scene.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer_scene.scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Phantom")
    study = hierarchy.CreateStudyItem(patient, "CT thorax")
    volume = slicer_scene.add_volume(ct())
    hierarchy.CreateItem(study, volume)
    node = createSegmentationNode(volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), hierarchy.GetSceneItemID())
    placeInStudy(node, volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert createSegmentationNode(volume).GetName() != node.GetName()


# ---- what is replaced and what stays


def test_a_second_run_replaces_in_place_and_keeps_id_name_color_and_display(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(result(volume), node, volumeNode=volume)
    segment, display = segmentOf(node, "liver"), node.GetDisplayNode()
    segment.SetName("Foie")
    segment.SetColor(0.25, 0.5, 0.75)
    display.SetSegmentVisibility("liver", False)
    display.SetSegmentOpacity2DFill("liver", 0.35)
    order = node.GetSegmentation().GetSegmentIDs()
    drawn = result(volume, seed=5)
    writeSegmentation(drawn, node, volumeNode=volume)
    assert node.GetSegmentation().GetSegmentIDs() == order
    assert segmentOf(node, "liver") is segment
    assert (segment.GetName(), segment.GetColor()) == ("Foie", (0.25, 0.5, 0.75))
    assert display.GetSegmentVisibility("liver") == 0
    assert display.GetSegmentOpacity2DFill("liver") == 0.35
    for key in drawn.keys:
        assert np.array_equal(voxels(slicer_scene, node, key), drawn.array(key)), key


def test_segments_in_a_shared_layer_do_not_touch_one_another(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(made(volume, liver=cube((1, 1, 1)), spleen=cube((8, 8, 8))), node)
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    writeSegmentation(made(volume, liver=cube((7, 7, 7))), node)
    assert np.array_equal(voxels(slicer_scene, node, "liver"), cube((7, 7, 7)))
    assert np.array_equal(voxels(slicer_scene, node, "spleen"), cube((8, 8, 8)))


def test_other_and_completed_segments_keep_every_voxel(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(result(volume), node)
    own = draw(slicer_scene, node, volume, "Liver", cube((3, 3, 3), 8))
    markCompleted(node, "spleen")
    before = {item[0]: item for item in everything(slicer_scene, node)}
    report = writeSegmentation(result(volume, seed=4, keys=("liver", "spleen")), node)
    after = {item[0]: item for item in everything(slicer_scene, node)}
    assert report.completed == {"spleen": "spleen"}
    assert report.written == {"liver": "liver"}
    assert {key for key in before if before[key] != after[key]} == {"liver"}
    assert own in after
    assert isCompleted(segmentOf(node, "spleen"))


def test_a_copy_of_a_segment_belongs_to_the_user(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(made(volume, liver=cube((1, 1, 1))), node)
    segmentation = node.GetSegmentation()
    assert segmentation.CopySegmentFromSegmentation(segmentation, "liver")
    segmentation.SetSegmentIndex(segmentation.GetNthSegmentID(1), 0)
    copied = segmentation.GetNthSegmentID(0)
    assert findSegment(node, "liver") == "liver"
    writeSegmentation(made(volume, liver=cube((6, 6, 6))), node)
    assert np.array_equal(voxels(slicer_scene, node, copied), cube((1, 1, 1)))


def test_an_empty_result_empties_its_segment_and_is_reported(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(made(volume, liver=cube((1, 1, 1)), spleen=cube((2, 2, 2))), node)
    node.CreateClosedSurfaceRepresentation()
    report = writeSegmentation(made(volume, liver=np.zeros(SHAPE, bool)), node)
    assert report.empty == ("liver",)
    assert tagOf(segmentOf(node, "liver"), slicertags.STATUS) == "notstarted"
    assert not voxels(slicer_scene, node, "liver").any()
    surface = vtk.vtkPolyData()
    assert node.GetClosedSurfaceRepresentation("spleen", surface)
    assert surface.GetNumberOfPoints() > 0
    node.GetClosedSurfaceRepresentation("liver", surface)
    assert surface.GetNumberOfPoints() == 0
    writeSegmentation(made(volume, liver=cube((3, 3, 3))), node)
    node.GetClosedSurfaceRepresentation("liver", surface)
    assert surface.GetNumberOfPoints() > 0
    assert np.array_equal(voxels(slicer_scene, node, "spleen"), cube((2, 2, 2)))


def test_surfaces_follow_the_new_voxels(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(made(volume, liver=cube((1, 1, 1))), node)
    node.CreateClosedSurfaceRepresentation()
    surface, before = vtk.vtkPolyData(), [0.0] * 6
    node.GetClosedSurfaceRepresentation("liver", surface)
    surface.GetBounds(before)
    writeSegmentation(made(volume, liver=cube((8, 10, 12))), node)
    node.GetClosedSurfaceRepresentation("liver", surface)
    assert surface.GetNumberOfPoints() > 0
    assert abs(surface.GetBounds()[0] - before[0]) > 5


# ---- overlap choices


def overlapping(scene: SlicerScene) -> tuple[Any, Any, str, str]:
    """Return a volume and a node with a user's segment and a completed one, which both meet the liver."""
    volume = scene.add_volume(ct())
    node = createSegmentationNode(volume)
    user = draw(scene, node, volume, "Kyste", cube((2, 2, 2)))
    locked = draw(scene, node, volume, "Rate", cube((4, 4, 4)))
    markCompleted(node, locked)
    return volume, node, user, locked


def test_keep_changes_no_other_segment(slicer_scene: SlicerScene) -> None:
    volume, node, user, locked = overlapping(slicer_scene)
    report = writeSegmentation(made(volume, liver=cube((3, 3, 3))), node)
    assert (report.taken, report.withheld) == ({}, {})
    assert voxels(slicer_scene, node, user).sum() == voxels(slicer_scene, node, locked).sum() == 64
    assert voxels(slicer_scene, node, "liver").sum() == 64


def test_replace_takes_exactly_the_shared_voxels_of_unlocked_segments(slicer_scene: SlicerScene) -> None:
    volume, node, user, locked = overlapping(slicer_scene)
    drawn = made(volume, liver=cube((3, 3, 3)), liver_tumor=cube((4, 4, 4), 2))
    report = writeSegmentation(drawn, node, overlap=Overlap.REPLACE)
    assert report.taken == {user: 27}
    assert np.array_equal(voxels(slicer_scene, node, user), cube((2, 2, 2)) & ~cube((3, 3, 3)))
    assert np.array_equal(voxels(slicer_scene, node, locked), cube((4, 4, 4)))
    assert np.array_equal(voxels(slicer_scene, node, "liver"), cube((3, 3, 3)))
    assert np.array_equal(voxels(slicer_scene, node, "liver_tumor"), cube((4, 4, 4), 2))


def test_only_unlocked_leaves_exactly_the_voxels_of_completed_segments(slicer_scene: SlicerScene) -> None:
    volume, node, user, locked = overlapping(slicer_scene)
    report = writeSegmentation(made(volume, liver=cube((3, 3, 3))), node, overlap=Overlap.UNLOCKED)
    assert report.withheld == {"liver": 27}
    assert np.array_equal(voxels(slicer_scene, node, "liver"), cube((3, 3, 3)) & ~cube((4, 4, 4)))
    assert np.array_equal(voxels(slicer_scene, node, user), cube((2, 2, 2)))
    assert np.array_equal(voxels(slicer_scene, node, locked), cube((4, 4, 4)))


def test_parts_of_one_run_take_nothing_from_one_another(slicer_scene: SlicerScene) -> None:
    volume, node, user, _ = overlapping(slicer_scene)
    first = writeSegmentation(made(volume, liver=cube((3, 3, 3))), node, overlap=Overlap.REPLACE)
    writeSegmentation(made(volume, spleen=cube((2, 2, 2), 3)), node, overlap=Overlap.REPLACE, undo=first.undo)
    assert np.array_equal(voxels(slicer_scene, node, "liver"), cube((3, 3, 3)))
    left = cube((2, 2, 2)) & ~cube((3, 3, 3)) & ~cube((2, 2, 2), 3)
    assert np.array_equal(voxels(slicer_scene, node, user), left)


# ---- what is refused, and changes nothing


def test_a_removed_segmentation_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume, "Partie")
    slicer_scene.scene.RemoveNode(node)
    with pytest.raises(SegmentationError, match="'Partie' was removed"):
        writeSegmentation(result(volume), node)
    with pytest.raises(SegmentationError, match="There is no segmentation"):
        writeSegmentation(result(volume), None)
    with pytest.raises(SegmentationError, match="'CT' is no segmentation"):
        writeSegmentation(result(volume), volume)


def test_a_segmentation_on_another_grid_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct("oblique"))
    other = slicer_scene.add_volume(ct("straight"), "Other")
    node = createSegmentationNode(other)
    draw(slicer_scene, node, other, "Liver", cube((1, 1, 1)))
    before = everything(slicer_scene, node)
    with pytest.raises(SegmentationError, match="do not coincide"):
        writeSegmentation(result(volume), node, volumeNode=volume)
    assert everything(slicer_scene, node) == before


def test_a_larger_grid_of_the_same_lattice_is_accepted(slicer_scene: SlicerScene) -> None:
    image = ct("oblique")
    volume = slicer_scene.add_volume(image)
    origin = tuple(float(value) for value in (image.geometry.affine @ [-3, -2, -1, 1])[:3])
    larger = Geometry((20, 30, 40), image.geometry.spacing, origin, image.geometry.direction)
    node = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Larger")
    writing.setReferenceGrid(node.GetSegmentation(), larger)
    drawn = result(volume)
    writeSegmentation(drawn, node, volumeNode=volume)
    expected = drawn_points(drawn.geometry, drawn.array("liver"))
    assert np.abs(world_points(slicer_scene, node, "liver") - expected).max() < 1e-9


def test_a_volume_that_moved_during_the_run_is_noticed(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    drawn = result(volume)
    add_transform(slicer_scene, RIGID, volume)
    with pytest.raises(SegmentationError, match="'CT' was moved or changed"):
        writeSegmentation(drawn, node, volumeNode=volume)
    assert node.GetSegmentation().GetNumberOfSegments() == 0


def test_a_segmentation_under_a_bending_transform_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    add_bending_transform(slicer_scene, node)
    with pytest.raises(SegmentationError, match="not linear"):
        writeSegmentation(result(volume), node)


def test_a_segmentation_of_surfaces_is_refused_unless_empty(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    draw(slicer_scene, node, volume, "Liver", cube((1, 1, 1)))
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(SegmentationError, match="stored as 'Closed surface'"):
        writeSegmentation(result(volume), node)
    node.GetSegmentation().RemoveAllSegments()
    drawn = result(volume)
    writeSegmentation(drawn, node)
    assert np.array_equal(voxels(slicer_scene, node, "liver"), drawn.array("liver"))


def test_a_failure_midway_undoes_the_whole_run(slicer_scene: SlicerScene, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(result(volume, keys=("liver", "pancreas")), node)
    before = everything(slicer_scene, node)
    write, calls = writing.writeMask, []

    def failing(*arguments: Any) -> None:
        calls.append(arguments[1])
        if len(calls) == 4:
            raise MemoryError("no memory")
        write(*arguments)

    monkeypatch.setattr(writing, "writeMask", failing)
    with pytest.raises(MemoryError):
        writeSegmentation(result(volume, seed=8), node)
    assert len(calls) == 4
    assert everything(slicer_scene, node) == before


def test_a_run_stays_in_one_segmentation(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(ct())
    report = writeSegmentation(result(volume), createSegmentationNode(volume, "First"))
    with pytest.raises(SegmentationError, match="began in 'First'"):
        writeSegmentation(result(volume), createSegmentationNode(volume), undo=report.undo)
