"""DICOM Segmentation objects, as pydicom and highdicom see them."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_cases import arrays, dicom_image, grid, segmentation, structures, write_slices

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Image, read_image
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import read_segmentation, write_segmentation
from PartialSegLib.structures import Code, LabelSpace, catalogue

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")


@pytest.fixture(params=["straight", "oblique", "sheared"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Image:
    """A CT series: straight, oblique, with gantry tilt."""
    return dicom_image(tmp_path / "series", request.param)


@pytest.fixture
def straight(tmp_path: Path) -> Image:
    """A straight CT series."""
    return dicom_image(tmp_path / "series")


def drawn_on(image: Image, algorithm: str = "Demo 1.0") -> Segmentation:
    """Return eleven overlapping structures, one of them empty."""
    return Segmentation.from_arrays(image.geometry, structures(), arrays(), algorithm)


def test_pydicom_finds_every_voxel_on_its_slice(image: Image, tmp_path: Path) -> None:
    drawn = drawn_on(image)
    write_segmentation(drawn, tmp_path / "seg.dcm", image=image)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    slice_of = {
        pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID: index
        for index, file in enumerate(image.dicom_files)
    }
    key_of = {item.SegmentNumber: item.TrackingID for item in dataset.SegmentSequence}
    found = {key: np.zeros(image.geometry.shape, bool) for key in drawn.keys}
    for frame, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[key_of[number]][slice_of[source]] = frame
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        corner = (image.geometry.affine @ [0, 0, slice_of[source], 1])[:3]
        assert np.abs(position - corner).max() < 1e-6
    for key in drawn.keys:
        assert np.array_equal(found[key], drawn.array(key)), key


def test_highdicom_finds_every_voxel(straight: Image, tmp_path: Path) -> None:
    drawn = drawn_on(straight)
    write_segmentation(drawn, tmp_path / "seg.dcm", image=straight)
    dataset = highdicom.seg.segread(tmp_path / "seg.dcm")
    for number in dataset.segment_numbers:
        key = dataset.get_segment_description(number).tracking_id
        volume = dataset.get_volume(segment_numbers=[number])
        indices = np.argwhere(volume.array[..., 0])
        found = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        affine = straight.geometry.affine
        expected = np.argwhere(drawn.array(key))[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
        assert len(found) == len(expected) > 0
        order, other = (np.lexsort(np.round(item, 4).T) for item in (found, expected))
        assert np.abs(found[order] - expected[other]).max() < 1e-6


def test_the_object_belongs_to_the_patient_and_says_what_made_it(straight: Image, tmp_path: Path) -> None:
    write_segmentation(drawn_on(straight, "DoDNet demo 1.2"), tmp_path / "seg.dcm", image=straight)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    source = pydicom.dcmread(straight.dicom_files[0])
    assert dataset.SOPClassUID.name == "Segmentation Storage"
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert dataset[keyword].value == source[keyword].value
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert (dataset.SegmentationType, dataset.SegmentsOverlap) == ("BINARY", "YES")
    assert dataset.SeriesDescription == "PartialSeg: DoDNet demo 1.2"
    tumor = next(item for item in dataset.SegmentSequence if item.SegmentLabel == "Liver tumor")
    assert (tumor.SegmentAlgorithmType, tumor.SegmentAlgorithmName) == ("AUTOMATIC", "DoDNet demo 1.2")
    algorithm = tumor.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert tumor.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeValue == "4147007"
    assert tumor.AnatomicRegionSequence[0].CodeValue == "10200004"
    assert tumor.TrackingID == "liver_tumor"
    assert len({item.TrackingUID for item in dataset.SegmentSequence}) == len(dataset.SegmentSequence)


def test_a_segmentation_without_algorithm_is_manual(straight: Image, tmp_path: Path) -> None:
    write_segmentation(drawn_on(straight, ""), tmp_path / "seg.dcm", image=straight)
    for item in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence:
        assert item.SegmentAlgorithmType == "MANUAL"
        assert "SegmentAlgorithmName" not in item


def test_two_writes_make_two_objects(straight: Image, tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        write_segmentation(drawn_on(straight), tmp_path / name, image=straight)
    first, second = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_laterality_and_every_color_come_back(straight: Image, tmp_path: Path) -> None:
    known = {item.key: item for name in ("mots", "btcv", "kits21") for item in LabelSpace.named(name).structures}
    known |= catalogue()
    sided = replace(
        known["liver_tumor"],
        key="sided",
        type_modifier=Code("7771000", "Left"),
        region_modifier=Code("24028007", "Right"),
    )
    wanted = (*known.values(), sided)
    drawn = Segmentation.from_arrays(
        straight.geometry, wanted, {item.key: np.ones(straight.geometry.shape, bool) for item in wanted}
    )
    write_segmentation(drawn, tmp_path / "seg.dcm", image=straight)
    assert read_segmentation(tmp_path / "seg.dcm", image=straight).structures == wanted


def test_without_an_image_the_masks_come_back_on_the_slices_they_fill(straight: Image, tmp_path: Path) -> None:
    drawn = drawn_on(straight)
    write_segmentation(drawn, tmp_path / "seg.dcm", image=straight)
    alone = read_segmentation(tmp_path / "seg.dcm")
    placed = read_segmentation(tmp_path / "seg.dcm", geometry=straight.geometry)
    for key in alone.keys:
        assert np.array_equal(placed.array(key), drawn.array(key)), key
        assert alone.masks[key].count == drawn.masks[key].count


def test_gantry_tilt_is_read_back_with_the_image_only(tmp_path: Path) -> None:
    tilted = dicom_image(tmp_path / "series", "sheared")
    write_segmentation(drawn_on(tilted), tmp_path / "seg.dcm", image=tilted)
    with pytest.raises(SegmentationError, match="no regular grid"):
        read_segmentation(tmp_path / "seg.dcm")
    read = read_segmentation(tmp_path / "seg.dcm", image=tilted)
    assert np.array_equal(read.array("liver"), arrays()["liver"])


def test_a_series_without_its_patient_attributes_is_accepted(tmp_path: Path) -> None:
    write_slices(tmp_path / "series", grid())
    for file in (tmp_path / "series").iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.PatientID, dataset.PatientName
        dataset.save_as(file)
    image = read_image(tmp_path / "series")
    write_segmentation(drawn_on(image), tmp_path / "seg.dcm", image=image)
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientID == ""


def test_a_segmentation_of_another_series_is_refused(straight: Image, tmp_path: Path) -> None:
    write_segmentation(drawn_on(straight), tmp_path / "seg.dcm", image=straight)
    other = dicom_image(tmp_path / "other")
    with pytest.raises(SegmentationError, match="drawn on other slices"):
        read_segmentation(tmp_path / "seg.dcm", image=other)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda image: replace(image, dicom_files=()), "is no DICOM series"),
        (lambda image: replace(image, dicom_files=image.dicom_files[1:]), "14 slices but 13 DICOM files"),
        (lambda image: replace(image, geometry=grid("oblique")), "which is not the image's"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(straight: Image, tmp_path: Path, change, complaint: str) -> None:
    with pytest.raises(SegmentationError, match=complaint):
        write_segmentation(drawn_on(straight), tmp_path / "seg.dcm", image=change(straight))
    assert not (tmp_path / "seg.dcm").exists()


def test_only_empty_masks_are_refused(straight: Image, tmp_path: Path) -> None:
    with pytest.raises(SegmentationError, match="every mask is empty"):
        write_segmentation(Segmentation(straight.geometry, structures()), tmp_path / "seg.dcm", image=straight)


def test_slices_that_have_gone_are_named(straight: Image, tmp_path: Path) -> None:
    straight.dicom_files[3].unlink()
    with pytest.raises(SegmentationError, match=straight.dicom_files[3].name):
        write_segmentation(drawn_on(straight), tmp_path / "seg.dcm", image=straight)


def test_a_ct_slice_is_no_segmentation(straight: Image) -> None:
    with pytest.raises(SegmentationError, match="no readable DICOM segmentation"):
        read_segmentation(straight.dicom_files[0])


def test_a_text_file_is_no_segmentation(tmp_path: Path) -> None:
    (tmp_path / "seg.dcm").write_text("hello")
    with pytest.raises(SegmentationError, match="no readable DICOM segmentation"):
        read_segmentation(tmp_path / "seg.dcm")


def test_the_error_names_the_extra_to_install(straight: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_highdicom(name: str, *arguments, **options):
        if name.split(".")[0] == "highdicom":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_highdicom)
    with pytest.raises(SegmentationError, match=r"pip install partialseg\[dicom\]"):
        write_segmentation(segmentation(), tmp_path / "seg.dcm", image=straight)
