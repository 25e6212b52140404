"""Volume nodes become images on their own grid, or are refused in words that a radiologist understands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mrml_cases import REGISTRATION, RIGID, add_bending_transform, add_transform, scan

from PartialSegLib.errors import ImageError
from PartialSegLib.images import read_image, write_image
from PartialSegSlicer.volumes import geometryFromVolumeNode, imageFromVolumeNode, imagesFromSequence
from slicer_scene import LPS_RAS, SlicerScene

KINDS = ["straight", "flipped", "oblique", "sheared"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_comes_back_with_every_voxel_at_its_place(slicer_scene: SlicerScene, kind: str) -> None:
    image = scan(kind)
    copied = imageFromVolumeNode(slicer_scene.add_volume(image))
    assert copied.voxels.dtype == np.int16
    assert np.array_equal(copied.voxels, image.voxels)
    assert np.abs(copied.geometry.affine - image.geometry.affine).max() < 1e-12
    assert copied.geometry.is_sheared == (kind == "sheared")


@pytest.mark.parametrize("matrix", [RIGID, REGISTRATION], ids=["rigid", "registration"])
def test_a_linear_transform_is_part_of_the_copy(slicer_scene: SlicerScene, matrix: np.ndarray) -> None:
    image = scan("oblique")
    volume = slicer_scene.add_volume(image)
    add_transform(slicer_scene, matrix, volume)
    copied = imageFromVolumeNode(volume)
    expected = LPS_RAS @ matrix @ LPS_RAS @ image.geometry.affine
    assert np.abs(copied.geometry.affine - expected).max() < 1e-10
    assert np.array_equal(copied.voxels, image.voxels)
    assert volume.GetParentTransformNode() is not None


def test_nested_transforms_are_multiplied_in_their_order(slicer_scene: SlicerScene) -> None:
    image = scan()
    volume = slicer_scene.add_volume(image)
    inner = add_transform(slicer_scene, REGISTRATION, volume)
    add_transform(slicer_scene, RIGID, inner)
    expected = LPS_RAS @ RIGID @ REGISTRATION @ LPS_RAS @ image.geometry.affine
    assert np.abs(geometryFromVolumeNode(volume).affine - expected).max() < 1e-10


def test_the_copy_agrees_with_hardening_in_slicer(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(scan("flipped"))
    add_transform(slicer_scene, RIGID, volume)
    before = geometryFromVolumeNode(volume)
    assert volume.HardenTransform()
    assert geometryFromVolumeNode(volume).matches(before, 1e-9)


def test_a_bending_transform_is_refused_with_its_name(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(scan(), "Thorax")
    add_bending_transform(slicer_scene, volume)
    with pytest.raises(ImageError, match=r"'Thorax' lies under the transform 'Déformation'.*Harden"):
        imageFromVolumeNode(volume)


def test_a_transform_that_flattens_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(scan())
    add_transform(slicer_scene, np.diag([1.0, 1.0, 0.0, 1.0]), volume)
    with pytest.raises(ImageError, match="grid of 'CT' cannot be used"):
        imageFromVolumeNode(volume)


def test_the_copy_survives_edits_and_removal_of_the_node(slicer_scene: SlicerScene) -> None:
    image = scan()
    volume = slicer_scene.add_volume(image)
    copied = imageFromVolumeNode(volume)
    slicer_scene.slicer.util.arrayFromVolume(volume)[:] = 0
    slicer_scene.scene.RemoveNode(volume)
    assert np.array_equal(copied.voxels, image.voxels)
    with pytest.raises(ImageError, match="'CT' was removed"):
        imageFromVolumeNode(volume)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_copy_in_a_file_has_the_same_voxels(slicer_scene: SlicerScene, tmp_path: Path, dtype: type) -> None:
    image = scan("oblique")
    volume = slicer_scene.add_volume(image)
    slicer_scene.slicer.util.updateVolumeFromArray(volume, (image.voxels // 7).clip(0).astype(dtype))
    copied = imageFromVolumeNode(volume)
    assert copied.voxels.dtype == dtype
    write_image(copied, tmp_path / "copie é.nrrd")
    assert np.array_equal(read_image(tmp_path / "copie é.nrrd").voxels, copied.voxels)


def test_double_precision_becomes_single(slicer_scene: SlicerScene) -> None:
    image = scan()
    volume = slicer_scene.add_volume(image)
    slicer_scene.slicer.util.updateVolumeFromArray(volume, image.voxels.astype(np.float64) / 3)
    copied = imageFromVolumeNode(volume)
    assert copied.voxels.dtype == np.float32
    assert np.array_equal(copied.voxels, (image.voxels / 3).astype(np.float32))


def test_an_image_whose_extent_starts_elsewhere_keeps_its_place(slicer_scene: SlicerScene) -> None:
    image = scan("oblique")
    volume = slicer_scene.add_volume(image)
    depth, height, width = image.voxels.shape
    volume.GetImageData().SetExtent(5, 4 + width, -2, height - 3, 1, depth)
    expected = image.geometry.affine @ [5, -2, 1, 1]
    assert np.abs(geometryFromVolumeNode(volume).origin - expected[:3]).max() < 1e-10


# ---- what is refused


def test_a_volume_without_an_image_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Vide")
    with pytest.raises(ImageError, match="'Vide' holds no image"):
        imageFromVolumeNode(volume)


def test_a_color_volume_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    slicer_scene.slicer.util.updateVolumeFromArray(volume, np.zeros((4, 5, 6, 3), np.uint8))
    with pytest.raises(ImageError, match="'Photo' has 3 values in each voxel"):
        imageFromVolumeNode(volume)


def test_a_label_map_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    with pytest.raises(ImageError, match="'Labels' is a label map"):
        imageFromVolumeNode(volume)


def test_another_node_is_refused(slicer_scene: SlicerScene) -> None:
    with pytest.raises(ImageError, match="is no volume"):
        imageFromVolumeNode(slicer_scene.scene.AddNewNodeByClass("vtkMRMLModelNode", "Liver"))
    with pytest.raises(ImageError, match="There is no volume"):
        imageFromVolumeNode(None)


def test_a_single_slice_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(scan())
    slicer_scene.slicer.util.updateVolumeFromArray(volume, np.zeros((1, 5, 6), np.int16))
    with pytest.raises(ImageError, match=r"2D: 6 x 5 x 1 voxels"):
        imageFromVolumeNode(volume)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_no_numbers_are_refused(slicer_scene: SlicerScene, value: float) -> None:
    volume = slicer_scene.add_volume(scan())
    bad = scan().voxels.astype(np.float64)
    bad[3, 4, 5] = value
    slicer_scene.slicer.util.updateVolumeFromArray(volume, bad)
    with pytest.raises(ImageError, match="NaN, infinite or beyond"):
        imageFromVolumeNode(volume)


def test_a_volume_of_one_value_is_refused(slicer_scene: SlicerScene) -> None:
    volume = slicer_scene.add_volume(scan())
    slicer_scene.slicer.util.updateVolumeFromArray(volume, np.full((4, 5, 6), -1024, np.int16))
    with pytest.raises(ImageError, match="every voxel has the value -1024"):
        imageFromVolumeNode(volume)


# ---- sequences


def test_a_sequence_is_read_frame_by_frame_where_its_proxy_lies(slicer_scene: SlicerScene) -> None:
    sequence = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    frames = [scan("oblique", seed) for seed in (1, 2, 3)]
    for index, frame in enumerate(frames):
        sequence.SetDataNodeAtValue(slicer_scene.add_volume(frame), str(0.5 * index))
    proxy = slicer_scene.add_volume(frames[0], "Proxy")
    transform = add_transform(slicer_scene, RIGID, proxy)
    found = list(imagesFromSequence(sequence, transform))
    assert [value for value, _ in found] == ["0.0", "0.5", "1.0"]
    for (_, image), frame in zip(found, frames, strict=True):
        assert np.array_equal(image.voxels, frame.voxels)
        assert image.geometry.matches(geometryFromVolumeNode(proxy), 1e-9)


def test_the_proxy_of_a_sequence_is_the_frame_that_it_shows(slicer_scene: SlicerScene) -> None:
    slicer = slicer_scene.slicer
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(slicer_scene.scene)
    sequence = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    frames = [scan("oblique", seed) for seed in (1, 2)]
    for index, frame in enumerate(frames):
        sequence.SetDataNodeAtValue(slicer_scene.add_volume(frame), str(index))
    browser = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    for index in (0, 1):
        browser.SetSelectedItemNumber(index)
        logic.UpdateProxyNodesFromSequences(browser)
        image = imageFromVolumeNode(browser.GetProxyNode(sequence))
        assert np.array_equal(image.voxels, frames[index].voxels)


def test_a_sequence_without_frames_is_refused(slicer_scene: SlicerScene) -> None:
    sequence = slicer_scene.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    with pytest.raises(ImageError, match="'4D' has no frames"):
        next(imagesFromSequence(sequence))
    slicer_scene.scene.RemoveNode(sequence)
    with pytest.raises(ImageError, match="removed"):
        next(imagesFromSequence(sequence))
