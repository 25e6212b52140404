"""Corrected segments become a training case without a changed voxel, and without a word about the rest."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_cases import SHAPE, arrays
from mrml_cases import REGISTRATION, add_bending_transform, add_transform, draw, everything, result, voxels
from mrml_cases import scan as ct

from PartialSegLib.errors import PartialSegError, SegmentationError
from PartialSegLib.structures import LabelSpace, Structure
from PartialSegSlicer import cases
from PartialSegSlicer.cases import exportCase
from PartialSegSlicer.labelmaps import orientedImageData
from PartialSegSlicer.nodes import createSegmentationNode
from PartialSegSlicer.segments import markCompleted, segmentOf, tagOf
from PartialSegSlicer.writing import writeSegmentation
from PartialSegTraining.cases import read_mask_folders
from slicer_scene import SlicerScene

#: A hand-drawn spleen that meets the liver of the result.
CORRECTED = np.zeros(SHAPE, bool)
CORRECTED[2:12, 3:17, 4:20] = True
ANNOTATED = ("liver", "liver_tumor", "colon_tumor", "spleen")


def scene_with_result(scene: SlicerScene, kind: str = "oblique") -> tuple[Any, Any]:
    """Return a volume and a segmentation of all structures, of which :data:`ANNOTATED` are completed."""
    volume = scene.add_volume(ct(kind))
    node = createSegmentationNode(volume)
    writeSegmentation(result(volume), node, volumeNode=volume)
    for key in ANNOTATED:
        markCompleted(node, key)
    return volume, node


def read(folder: Path) -> tuple[Any, dict[str, np.ndarray], Any]:
    """Return image, masks and the case, as the training library reads them."""
    (case,) = read_mask_folders(folder.parent, LabelSpace.named("mots"))
    image, masks = case.load()
    return image, masks, case


@pytest.mark.parametrize("kind", ["straight", "flipped", "oblique"])
def test_the_training_library_reads_exactly_the_segments(slicer_scene: SlicerScene, tmp_path: Path, kind: str) -> None:
    volume, node = scene_with_result(slicer_scene, kind)
    slicer_scene.slicer.util.updateSegmentBinaryLabelmapFromArray(CORRECTED.astype(np.uint8), node, "spleen", volume)
    before = everything(slicer_scene, node)
    assert exportCase(volume, node, tmp_path / "cas n° 1 é肝") == ANNOTATED
    image, masks, case = read(tmp_path / "cas n° 1 é肝")
    assert case.name == "cas n° 1 é肝"
    assert case.annotated == frozenset(ANNOTATED)
    assert image.voxels.dtype == np.int16
    assert np.array_equal(image.voxels, ct(kind).voxels)
    assert image.geometry.matches(ct(kind).geometry)
    for key in ANNOTATED:
        assert np.array_equal(masks[key], voxels(slicer_scene, node, key)), key
    assert np.array_equal(masks["spleen"], CORRECTED)
    assert not masks["colon_tumor"].any()
    assert (masks["liver"] & masks["spleen"]).any()
    assert everything(slicer_scene, node) == before


def test_the_case_says_what_was_annotated(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    exportCase(volume, node, tmp_path / "case")
    document = json.loads((tmp_path / "case" / "case.json").read_text(encoding="utf-8"))
    assert document["version"] == 1
    assert document["annotated"] == list(ANNOTATED)
    counts = {key: int(voxels(slicer_scene, node, key).sum()) for key in ANNOTATED}
    assert {key: entry["voxels"] for key, entry in document["masks"].items()} == counts
    assert all((tmp_path / "case" / entry["file"]).is_file() for entry in document["masks"].values())
    space = LabelSpace.named("mots")
    assert [Structure.from_json(entry) for entry in document["structures"]] == [
        space.structure(key) for key in ANNOTATED
    ]


def test_a_transformed_volume_is_saved_where_it_lies(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    rotation = np.array([[0.8, 0, -0.6, 4.0], [0, 1, 0, -7.5], [0.6, 0, 0.8, 30.0], [0, 0, 0, 1]])
    add_transform(slicer_scene, rotation, volume, node)
    expected = voxels(slicer_scene, node, "liver")
    exportCase(volume, node, tmp_path / "case")
    image, masks, _ = read(tmp_path / "case")
    assert np.array_equal(masks["liver"], expected)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert np.abs(image.geometry.affine - lps @ rotation @ lps @ ct("oblique").geometry.affine).max() < 1e-4


def test_segments_smaller_and_larger_than_the_volume_come_out_exactly(
    slicer_scene: SlicerScene, tmp_path: Path
) -> None:
    volume = slicer_scene.add_volume(ct("oblique"))
    node = createSegmentationNode(volume)
    drawn = arrays(seed=6)["liver"]
    larger = np.pad(drawn, 5)
    for name, array, start in (
        ("liver", larger, (-5, -5, -5)),
        ("spleen", np.ones((1, 2, 3), bool), (13, 18, 24)),
        ("pancreas", np.zeros((40, 50, 60), bool), (-9, -9, -9)),
    ):
        _put(slicer_scene, node, volume, name, array, start)
    exportCase(volume, node, tmp_path / "case", annotated=["liver", "spleen", "pancreas"])
    _, masks, _ = read(tmp_path / "case")
    assert np.array_equal(masks["liver"], drawn)
    corner = np.zeros(SHAPE, bool)
    corner[13:, 18:, 24:] = True
    assert np.array_equal(masks["spleen"], corner)
    assert not masks["pancreas"].any()


def _put(scene: SlicerScene, node: Any, volume: Any, name: str, array: np.ndarray, start: tuple[int, int, int]) -> None:
    """Add a segment whose label map has this very extent."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    from PartialSegSlicer.geometry import arrayFromMatrix

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    data = orientedImageData(arrayFromMatrix(matrix), array.shape, start)
    data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    vtk_to_numpy(data.GetPointData().GetScalars())[:] = array.ravel()
    segment = scene.slicer.vtkSegment()
    segment.SetName(name.capitalize())
    segment.AddRepresentation("Binary labelmap", data)
    assert node.GetSegmentation().AddSegment(segment, name)


def test_a_segment_that_reaches_outside_the_volume_is_refused(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    _put(slicer_scene, node, volume, "liver", np.ones((3, 4, 5), bool), (-1, 2, 2))
    with pytest.raises(SegmentationError, match="'Liver' has 20 voxels outside the volume"):
        exportCase(volume, node, tmp_path / "case", annotated=["liver"])
    assert list(tmp_path.iterdir()) == []


def test_surfaces_are_converted_on_the_grid_of_the_volume(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume = slicer_scene.add_volume(ct("oblique"))
    node = createSegmentationNode(volume)
    solid = np.zeros(SHAPE, bool)
    solid[3:10, 4:15, 5:20] = True
    liver = draw(slicer_scene, node, volume, "Liver", solid)
    spleen = draw(slicer_scene, node, volume, "Spleen", np.roll(solid, 3, axis=2))
    segmentation = node.GetSegmentation()
    segmentation.SetConversionParameter("Smoothing factor", "0")
    segmentation.SetConversionParameter("Decimation factor", "0")
    assert node.CreateClosedSurfaceRepresentation()
    segmentation.SetSourceRepresentationName("Closed surface")
    segmentation.RemoveRepresentation("Binary labelmap")
    exportCase(volume, node, tmp_path / "case", annotated=[liver, spleen])
    _, masks, _ = read(tmp_path / "case")
    # The conversion to a surface and back is Slicer's; boxes with straight faces survive it.
    assert np.array_equal(masks["liver"], solid)
    assert np.array_equal(masks["spleen"], np.roll(solid, 3, axis=2))
    assert segmentation.GetSourceRepresentationName() == "Closed surface"
    assert not segmentation.ContainsRepresentation("Binary labelmap")


def test_segments_of_the_user_are_named_by_their_name(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    drawn = arrays(seed=1)["liver"]
    segment = draw(slicer_scene, node, volume, "Liver tumor", drawn)
    markCompleted(node, segment)
    assert exportCase(volume, node, tmp_path / "case") == ("liver_tumor",)
    assert np.array_equal(read(tmp_path / "case")[1]["liver_tumor"], drawn)


def test_marking_a_mask_of_the_network_as_corrected_makes_it_semiautomatic(slicer_scene: SlicerScene) -> None:
    _, node = scene_with_result(slicer_scene)
    assert tagOf(segmentOf(node, "liver"), "DICOM.SegmentAlgorithmType") == "SEMIAUTOMATIC"
    assert tagOf(segmentOf(node, "liver"), "Segmentation.Status") == "completed"
    assert tagOf(segmentOf(node, "pancreas"), "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
    logic = slicer_scene.slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.GetSegmentStatus(segmentOf(node, "liver")) == logic.Completed
    markCompleted(node, "liver", False)
    assert logic.GetSegmentStatus(segmentOf(node, "liver")) == logic.InProgress
    with pytest.raises(SegmentationError, match="no segment 'heart'"):
        markCompleted(node, "heart")


# ---- what is refused, and leaves no folder behind


def refused(scene: SlicerScene, tmp_path: Path, volume: Any, node: Any, match: str, **options: Any) -> None:
    """Exporting fails with these words, and writes nothing."""
    with pytest.raises(PartialSegError, match=match):
        exportCase(volume, node, tmp_path / "case", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_case_without_corrected_segments_is_refused(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume = slicer_scene.add_volume(ct())
    node = createSegmentationNode(volume)
    writeSegmentation(result(volume), node)
    refused(slicer_scene, tmp_path, volume, node, "No segment .* is marked as corrected")
    refused(slicer_scene, tmp_path, volume, node, "no segment 'heart'", annotated=["heart"])


def test_two_masks_of_one_structure_are_refused(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    segmentation = node.GetSegmentation()
    segmentation.CopySegmentFromSegmentation(segmentation, "liver")
    refused(slicer_scene, tmp_path, volume, node, "both show 'liver'")


def test_a_tag_that_is_no_key_never_names_a_file(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    segmentOf(node, "liver").SetTag("PartialSeg.Key", "../../liver")
    refused(slicer_scene, tmp_path, volume, node, "which is no key")


def test_a_volume_on_another_grid_is_refused(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    _, node = scene_with_result(slicer_scene)
    other = slicer_scene.add_volume(ct("straight"), "Other")
    refused(slicer_scene, tmp_path, other, node, "do not coincide")


def test_bent_and_removed_nodes_are_refused(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    transform = add_bending_transform(slicer_scene, node)
    refused(slicer_scene, tmp_path, volume, node, "not linear")
    slicer_scene.scene.RemoveNode(transform)
    slicer_scene.scene.RemoveNode(volume)
    refused(slicer_scene, tmp_path, volume, node, "'CT' was removed")
    slicer_scene.scene.RemoveNode(node)
    refused(slicer_scene, tmp_path, volume, node, "was removed")


def test_a_sheared_scan_is_refused(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    add_transform(slicer_scene, REGISTRATION, volume, node)
    refused(slicer_scene, tmp_path, volume, node, "'CT' is sheared, by its transform or a gantry tilt")


def test_only_an_older_case_is_ever_replaced(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    exportCase(volume, node, tmp_path / "case")
    with pytest.raises(SegmentationError, match="There is a training case"):
        exportCase(volume, node, tmp_path / "case", annotated=["pancreas"])
    assert exportCase(volume, node, tmp_path / "case", annotated=["pancreas"], replace=True) == ("pancreas",)
    assert read(tmp_path / "case")[2].annotated == frozenset({"pancreas"})
    (tmp_path / "Documents").mkdir()
    (tmp_path / "Documents" / "letter.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(SegmentationError, match="is no training case"):
        exportCase(volume, node, tmp_path / "Documents", replace=True)
    assert (tmp_path / "Documents" / "letter.txt").read_text(encoding="utf-8") == "precious"


def test_a_missing_parent_folder_is_named(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    with pytest.raises(SegmentationError, match="could not be written"):
        exportCase(volume, node, tmp_path / "nowhere" / "case")


def test_a_name_that_is_too_long_is_refused(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    volume, node = scene_with_result(slicer_scene)
    with pytest.raises(SegmentationError, match="could not be written"):
        exportCase(volume, node, tmp_path / ("é" * 300))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_case_as_it_was(
    slicer_scene: SlicerScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, node = scene_with_result(slicer_scene)
    exportCase(volume, node, tmp_path / "case")
    write = cases.write_image

    def full(image: Any, path: Path) -> None:
        # A full disk cannot be had in a test: the second mask finds no space.
        if path.name == "liver_tumor.nii.gz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(image, path)

    monkeypatch.setattr(cases, "write_image", full)
    with pytest.raises(SegmentationError, match="No space left"):
        exportCase(volume, node, tmp_path / "case", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
    assert read(tmp_path / "case")[2].annotated == frozenset(ANNOTATED)
