"""The whole story on real MRML, with the bundled model: from a DICOM series to a training case.

The patient is a synthetic phantom; the model was trained on phantoms.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from PartialSegLib import catalog
from PartialSegLib.images import Image, read_image
from PartialSegLib.inference import Predictor
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import read_segmentation, slicertags, write_segmentation
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.segments import segmentIDs, segmentOf, structureOf, tagOf
from PartialSegSlicer.volumes import geometryFromVolumeNode, imageFromVolumeNode
from PartialSegTraining.finetuning import read_case_folder
from PartialSegTraining.phantoms import generate_phantom, write_dicom_series
from slicer_scene import SlicerScene

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

#: Liver, kidney and hepatic vessel, each of which was another dataset.
TASKS = ["liver", "kidney", "hepatic_vessel"]


@dataclass(frozen=True)
class Patient:
    """A DICOM series and what the library finds in it."""

    folder: Path
    image: Image
    expected: Segmentation


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """The part of a phantom that holds liver and kidneys, as a scanner would send it."""
    phantom = generate_phantom(3, show=("liver", "kidneys"), spacing=(3.0, 3.0, 5.0))
    truth = phantom.segmentation()
    boxes = [truth.masks[key].box for key in ("liver", "kidneys")]
    part = tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)
    )
    geometry = phantom.image.geometry
    start = geometry.affine @ np.array([part[2].start, part[1].start, part[0].start, 1.0])
    voxels = phantom.image.voxels[part]
    origin = (float(start[0]), float(start[1]), float(start[2]))
    cropped = Image(voxels, type(geometry)(voxels.shape, geometry.spacing, origin, geometry.direction))
    folder = tmp_path_factory.mktemp("patient") / "dicom"
    write_dicom_series(cropped, folder, seed=3)
    image = read_image(folder)
    expected = Predictor(catalog.find("demo"), "cpu").segment(image, TASKS, "fast").segmentation
    return Patient(folder, image, expected)


def load_dicom(scene: SlicerScene, folder: Path) -> Any:
    """Load a series with Slicer's own reader."""
    files = sorted(str(file) for file in folder.iterdir())
    storage = scene.scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(files[0])
    for file in files:
        storage.AddFileName(file)
    storage.SetSingleFile(False)
    node = scene.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert storage.ReadData(node) == 1
    return node


def give_cache(scene: SlicerScene, folder: Path) -> None:
    """Give the scene the folder in which the application unpacks bundles."""
    folder.mkdir()
    cache = scene.slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(str(folder))
    files = scene.slicer.vtkDataIOManager()
    files.SetCacheManager(cache)
    scene.scene.SetCacheManager(cache)
    scene.scene.SetDataIOManager(files)


def shown(node: Any, volume: Any) -> Segmentation:
    """Return what a segmentation node shows, on the grid of the volume."""
    geometry = geometryFromVolumeNode(volume)
    structures = {item: structureOf(segmentOf(node, item)) for item in segmentIDs(node)}
    masks = {structure.key: maskOnVolume(node, item, geometry) for item, structure in structures.items()}
    name = tagOf(segmentOf(node, segmentIDs(node)[0]), slicertags.ALGORITHM_NAME)
    return Segmentation(geometry, tuple(structures.values()), masks, name)


def counts(segmentation: Segmentation) -> dict[str, int]:
    return {key: segmentation.masks[key].count for key in segmentation.keys}


def assert_equal(found: Segmentation, expected: Segmentation) -> None:
    assert counts(found) == counts(expected)
    for key in expected.keys:
        np.testing.assert_array_equal(found.array(key), expected.array(key))


def test_a_patient_is_segmented_saved_exported_corrected_and_kept_for_training(
    slicer_scene: SlicerScene, patient: Patient, tmp_path: Path
) -> None:
    from PartialSegSlicer.logic.headless import HeadlessLogic

    logic = HeadlessLogic(sys.executable, tmp_path / "cases")
    try:
        volume = load_dicom(slicer_scene, patient.folder)
        assert imageFromVolumeNode(volume).geometry.matches(patient.image.geometry)
        np.testing.assert_array_equal(imageFromVolumeNode(volume).voxels, patient.image.voxels)

        # The run gives the library's own result, and its structures overlap.
        result = logic.segment(volume, tasks=TASKS, model="demo", quality="fast", device="cpu")
        node = result.segmentationNode
        assert_equal(shown(node, volume), patient.expected)
        assert {row.key: row.voxels for row in result.structures} == counts(patient.expected)
        masks = patient.expected.masks
        assert masks["liver"].count > 10_000
        assert masks["hepatic_vessels"].overlaps(masks["liver"])

        # What Slicer saves and loads again is the same, voxel by voxel, with codes and tags.
        file = tmp_path / "result.seg.nrrd"
        slicer_scene.save_segmentation(node, file)
        assert_equal(shown(slicer_scene.load_segmentation(file), volume), patient.expected)
        assert_equal(read_segmentation(file, image=patient.image), patient.expected)

        # What Slicer's DICOM exporter needs is there; the object that an archive gets has the same voxels.
        for segment in segmentIDs(node):
            assert tagOf(segmentOf(node, segment), slicertags.ALGORITHM_TYPE) == "AUTOMATIC"
            assert tagOf(segmentOf(node, segment), slicertags.ALGORITHM_NAME)
            assert tagOf(segmentOf(node, segment), slicertags.TERMINOLOGY)
        write_segmentation(shown(node, volume), tmp_path / "result.dcm", image=patient.image)
        archived = read_segmentation(tmp_path / "result.dcm", image=patient.image)
        found = {key: count for key, count in counts(patient.expected).items() if count}
        assert {key: archived.masks[key].count for key in found} == found

        # A correction: the radiologist erases a slab of the liver, and draws something at its edge.
        corrected = patient.expected.array("liver")
        corrected[: corrected.shape[0] // 3] = False
        corrected[-3:, :5, :5] = True
        row = next(row for row in result.structures if row.key == "liver")
        slicer_scene.slicer.util.updateSegmentBinaryLabelmapFromArray(
            corrected.astype(np.uint8), node, row.segmentID, volume
        )
        vessels = next(row for row in result.structures if row.key == "hepatic_vessels")
        for segment in (row.segmentID, vessels.segmentID):
            logic.markCorrected(node, segment)
        assert tagOf(segmentOf(node, row.segmentID), slicertags.ALGORITHM_TYPE) == "SEMIAUTOMATIC"

        # The case holds exactly the edited masks, overlap kept, and says what was annotated.
        kept = logic.saveTrainingCase(volume, node)
        case = read_case_folder(kept.folder)
        assert case.annotated == {"liver", "hepatic_vessels"}
        liver = read_image(kept.folder / "segmentations" / "liver.nii.gz")
        np.testing.assert_array_equal(liver.voxels != 0, corrected)
        tree = read_image(kept.folder / "segmentations" / "hepatic_vessels.nii.gz")
        np.testing.assert_array_equal(tree.voxels != 0, patient.expected.array("hepatic_vessels"))
        scan = read_image(kept.folder / "image.nii.gz")
        np.testing.assert_array_equal(scan.voxels, patient.image.voxels)

        # The next run changes neither of the corrected segments.
        again = logic.segment(volume, tasks=TASKS, segmentationNode=node, model="demo", quality="fast", device="cpu")
        status = {item.key: item.status for item in again.structures}
        assert status["liver"] == status["hepatic_vessels"] == "completed"
        np.testing.assert_array_equal(shown(node, volume).array("liver"), corrected)
    finally:
        logic.close()


def test_the_scene_with_its_segments_survives_being_saved_as_a_bundle(
    slicer_scene: SlicerScene, patient: Patient, tmp_path: Path
) -> None:
    from PartialSegSlicer.nodes import createSegmentationNode
    from PartialSegSlicer.writing import writeSegmentation

    volume = load_dicom(slicer_scene, patient.folder)
    node = createSegmentationNode(volume, "Befund é 肝")
    writeSegmentation(patient.expected, node, volumeNode=volume)
    bundle = tmp_path / "scene.mrb"
    assert slicer_scene.scene.WriteToMRB(str(bundle))
    slicer_scene.scene.Clear(0)
    give_cache(slicer_scene, tmp_path / "cache")
    assert slicer_scene.scene.ReadFromMRB(str(bundle))
    loaded = slicer_scene.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert loaded.GetName() == "Befund é 肝"
    assert_equal(shown(loaded, slicer_scene.scene.GetFirstNodeByName("CT")), patient.expected)
