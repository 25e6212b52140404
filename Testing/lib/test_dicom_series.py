"""Which DICOM folders become a volume, on which grid, and what is said about the others."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import SERIES, edit, write_enhanced, write_series, write_structure_set
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry, read_image

SHAPE = (6, 32, 24)
SPACING = (0.7, 0.8125, 2.5)
ORIGIN = (-171.3, 22.125, -1033.5)
STRAIGHT = Geometry(SHAPE, SPACING, ORIGIN)
TILT = np.radians(12.0)
#: The gantry leans by 12 degrees while the table moves along z: the slices lie sheared.
TILTED = Geometry(SHAPE, SPACING, ORIGIN, (1.0, 0.0, 0.0, 0.0, float(np.cos(TILT)), 0.0, 0.0, float(np.sin(TILT)), 1.0))
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)
OTHER = "1.2.826.0.1.3680043.8.498.2002"


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(5).integers(-1024, 3000, SHAPE).astype(np.int16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scan"


def refusal(path: Path, series: str | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(path, series)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert "(0x" not in caught.value.message
    return caught.value


def positions(heights: list[float]) -> np.ndarray:
    return np.array([(ORIGIN[0], ORIGIN[1], ORIGIN[2] + height) for height in heights])


# Order and grid.


def test_slices_are_ordered_by_place_not_by_name_or_number(voxels: np.ndarray, folder: Path) -> None:
    shuffled = [3, 0, 5, 1, 4, 2]
    files = write_series(folder, voxels, STRAIGHT, name=lambda i: f"IM{shuffled[i]:04d}.dcm")
    for number, file in enumerate(reversed(files)):
        edit(file, InstanceNumber=number)
    image = read_image(folder)
    np.testing.assert_array_equal(image.voxels, voxels)
    assert image.voxels.dtype == np.int16
    assert image.geometry == STRAIGHT
    assert image.dicom_files == tuple(files)
    assert image.corrections == ()


def test_files_of_any_name_in_subfolders_are_found_and_others_skipped(voxels: np.ndarray, folder: Path) -> None:
    files = write_series(folder, voxels, STRAIGHT, name=lambda i: f"1.2.840.{i}")
    for i, file in enumerate(files):
        (folder / f"part{i % 2}" / "deep").mkdir(parents=True, exist_ok=True)
        files[i] = file.rename(folder / f"part{i % 2}" / "deep" / file.name)
    (folder / "README").write_text("Viewer: start autorun.exe")
    (folder / "DICOMDIR").write_bytes(files[0].read_bytes())
    (folder / "part0" / "._1.2.840.0.dcm").write_bytes(b"resource fork")
    write_structure_set(folder / "part1" / "contours")
    image = read_image(folder)
    np.testing.assert_array_equal(image.voxels, voxels)
    assert image.dicom_files == tuple(files)
    assert image.corrections == ()


def test_a_file_that_only_pretends_to_be_dicom_is_told(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels, STRAIGHT)
    (folder / "note.dcm").write_text("not a slice")
    assert "note.dcm" in read_image(folder).corrections[0]


def test_one_file_stands_for_its_series(voxels: np.ndarray, folder: Path) -> None:
    files = write_series(folder, voxels, STRAIGHT)
    write_series(folder, voxels + 1, STRAIGHT, uid=OTHER, name="other{}".format)
    image = read_image(files[2])
    np.testing.assert_array_equal(image.voxels, voxels)
    assert image.dicom_files == tuple(files)


def test_the_directory_of_a_medium_stands_for_its_folder(voxels: np.ndarray, folder: Path) -> None:
    files = write_series(folder / "IMAGES", voxels, STRAIGHT)
    shutil.copy(files[0], folder / "DICOMDIR")
    np.testing.assert_array_equal(read_image(folder / "DICOMDIR").voxels, voxels)


def test_slices_there_twice_are_read_once_and_told(voxels: np.ndarray, folder: Path) -> None:
    files = write_series(folder / "a", voxels, STRAIGHT)
    shutil.copytree(folder / "a", folder / "backup")
    image = read_image(folder)
    assert image.dicom_files == tuple(files)
    assert "6 slices were there twice" in image.corrections[0]


def test_a_tilted_gantry_keeps_its_sheared_grid(voxels: np.ndarray, folder: Path) -> None:
    files = write_series(folder, voxels, TILTED)
    image = read_image(folder)
    np.testing.assert_array_equal(image.voxels, voxels)
    assert image.geometry.matches(TILTED, tolerance=1e-5)
    assert image.geometry.is_sheared
    assert image.dicom_files == tuple(files)
    assert "tilted by 12.0 degrees" in image.corrections[0]


def test_rounded_positions_are_accepted_with_the_mean_distance(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels, STRAIGHT, positions=positions([0, 0.6, 1.2, 1.9, 2.5, 3.1]))
    image = read_image(folder)
    assert image.geometry.spacing[2] == pytest.approx(0.62)
    assert "off their even distance" in image.corrections[0]


def test_a_path_may_be_foreign_and_long(voxels: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "é ñ 肝" / ("folder " * 20) / ("series " * 20)
    files = write_series(folder, voxels, STRAIGHT, name="Läsion 肝 {}".format)
    assert len(str(files[0])) > 300
    np.testing.assert_array_equal(read_image(folder).voxels, voxels)


# Voxels.


def test_every_slice_has_its_own_rescaling(folder: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 4000, SHAPE).astype(np.uint16)
    slopes = [1, 0.5, 30, 1.25, 2, 1]
    write_series(folder, stored, STRAIGHT, slopes=slopes)
    image = read_image(folder)
    assert image.voxels.dtype == np.float32
    np.testing.assert_allclose(image.voxels, stored * np.array(slopes)[:, None, None] - 1024, rtol=1e-6)


def test_values_beyond_int16_are_kept(folder: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 65535, SHAPE).astype(np.uint16)
    write_series(folder, stored, STRAIGHT, slopes=[1] * 6)
    image = read_image(folder)
    np.testing.assert_array_equal(image.voxels, stored.astype(int) - 1024)


@pytest.mark.parametrize(
    "transfer_syntax",
    [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLosslessSV1],
    ids=lambda uid: uid.keyword,
)
def test_compressed_series_are_read(transfer_syntax: str, voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels, STRAIGHT, transfer_syntax=transfer_syntax)
    np.testing.assert_array_equal(read_image(folder).voxels, voxels)


# The choice between several series.


@pytest.fixture
def two_series(voxels: np.ndarray, folder: Path) -> Path:
    write_series(folder, voxels, STRAIGHT)
    coronal = Geometry(SHAPE, SPACING, ORIGIN, CORONAL)
    write_series(folder, voxels + 1, coronal, uid=OTHER, name="b{}".format, SeriesDescription="Über kor", Modality="MR")
    return folder


def test_several_series_are_listed(two_series: Path) -> None:
    error = refusal(two_series)
    assert "holds 2 DICOM series" in error.message
    assert "--series" in error.hint
    assert f"{SERIES}  CT, 6 slices, axial, 'Portal 2.5'" in error.hint
    assert f"{OTHER}  MR, 6 slices, coronal, 'Über kor'" in error.hint


@pytest.mark.parametrize("name", [OTHER, OTHER[:-3], "Über kor", "über KOR "])
def test_a_series_is_chosen_by_uid_its_beginning_or_its_description(
    name: str, two_series: Path, voxels: np.ndarray
) -> None:
    np.testing.assert_array_equal(read_image(two_series, series=name).voxels, voxels + 1)


@pytest.mark.parametrize(("name", "words"), [("1.2.826", "2 series"), ("9.9", "no series"), ("", "no series")])
def test_an_ambiguous_or_unknown_choice_lists_the_series(name: str, words: str, two_series: Path) -> None:
    error = refusal(two_series, name)
    assert words in error.message
    assert SERIES in error.hint


def test_a_description_in_another_character_set_is_read(two_series: Path) -> None:
    for file in two_series.glob("b*"):
        edit(file, SpecificCharacterSet="ISO_IR 100", SeriesDescription="Übersicht")
    assert "'Übersicht'" in refusal(two_series).hint


def test_a_topogram_series_beside_the_volume_is_left_out_and_told(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels, STRAIGHT)
    write_series(folder, voxels[:1], STRAIGHT, uid=OTHER, name="t{}".format, SeriesDescription="Topogram")
    image = read_image(folder)
    np.testing.assert_array_equal(image.voxels, voxels)
    assert "CT, 1 slice, axial, 'Topogram'" in image.corrections[0]


def test_segmentations_beside_the_scan_are_no_series_to_choose(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels, STRAIGHT)
    write_series(folder, voxels, STRAIGHT, uid=OTHER, name="s{}".format, Modality="SEG")
    np.testing.assert_array_equal(read_image(folder).voxels, voxels)


# What is refused.


def test_a_folder_without_a_scan_is_refused(folder: Path) -> None:
    folder.mkdir()
    assert "it is empty" in refusal(folder).message
    (folder / "letter.txt").write_text("Dear colleague")
    write_structure_set(folder / "contours.dcm")
    assert "none of its 2 files" in refusal(folder).message
    assert "holds no scan" in refusal(folder / "contours.dcm").message


def test_one_slice_is_refused(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels[:1], STRAIGHT)
    assert "a single slice" in refusal(folder).message


@pytest.mark.parametrize(("lost", "where"), [([3], "lacks 1 slice between"), ([2, 3], "lacks 2 slices between")])
def test_missing_slices_are_refused_with_their_place(
    lost: list[int], where: str, voxels: np.ndarray, folder: Path
) -> None:
    files = write_series(folder, voxels, STRAIGHT)
    for index in lost:
        files[index].unlink()
    message = refusal(folder).message
    before, after = (ORIGIN[2] + 2.5 * index for index in (lost[0] - 1, lost[-1] + 1))
    assert where in message
    assert f"between {before:.2f} and {after:.2f} mm" in message
    assert "2.50 mm apart" in message


def test_uneven_slices_are_refused(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels, STRAIGHT, positions=positions([0, 1, 2, 3.3, 4.8, 6.5]))
    error = refusal(folder)
    assert "1.00 to 1.70 mm apart" in error.message
    assert "Resample" in error.hint


def test_slices_of_two_phases_at_one_place_are_refused(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels, STRAIGHT, name="a{}".format, AcquisitionNumber=1)
    write_series(folder, voxels, STRAIGHT, name="b{}".format, AcquisitionNumber=2)
    message = refusal(folder).message
    assert "(acquisitions 1, 2)" in message
    assert "'a0' and 'b0'" in message


def test_a_localizer_within_the_series_is_refused(voxels: np.ndarray, folder: Path) -> None:
    coronal = Geometry((1, *SHAPE[1:]), SPACING, ORIGIN, CORONAL)
    write_series(folder, voxels[:1], coronal, name="A_localizer{}".format)
    write_series(folder, voxels, STRAIGHT)
    message = refusal(folder).message
    assert "6 slices are axial" in message
    assert "'A_localizer0', coronal" in message


def test_a_slice_shifted_sideways_is_refused(voxels: np.ndarray, folder: Path) -> None:
    places = positions([0, 2.5, 5, 7.5, 10, 12.5])
    places[2, 0] += 1.5
    write_series(folder, voxels, STRAIGHT, positions=places)
    assert "shifted sideways: 'IM0002' by 1.50 mm" in refusal(folder).message


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PixelSpacing": [0.9, 0.9]}, "'IM0004' is 24 x 32 pixels of 0.9 x 0.9 mm"),
        ({"ImagePositionPatient": None}, "does not say where the slice 'IM0004' lies"),
        ({"PixelSpacing": None}, "does not say where the slice 'IM0004' lies"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "lies nowhere"),
        ({"PixelSpacing": [0.0, 0.7]}, "lies nowhere"),
    ],
)
def test_a_slice_that_does_not_fit_is_named(
    attributes: dict[str, object], words: str, voxels: np.ndarray, folder: Path
) -> None:
    files = write_series(folder, voxels, STRAIGHT)
    edit(files[4], **attributes)
    message = refusal(folder).message
    assert words in message
    assert "IM0004" in message


def test_a_slice_of_another_size_is_named(voxels: np.ndarray, folder: Path) -> None:
    write_series(folder, voxels[:5], STRAIGHT)
    write_series(folder, voxels[5:, :16], STRAIGHT, name="small{}".format, positions=positions([12.5]))
    assert "'small0' is 24 x 16 pixels" in refusal(folder).message


def test_color_is_refused(voxels: np.ndarray, folder: Path) -> None:
    files = write_series(folder, voxels, STRAIGHT)
    for file in files:
        plane = np.zeros((*SHAPE[1:], 3), np.uint8).tobytes()
        edit(file, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, PixelData=plane)
        edit(file, BitsAllocated=8, BitsStored=8, HighBit=7)
    assert "color image" in refusal(folder).message


@pytest.mark.parametrize("part", [0.2, 0.9])
def test_a_truncated_slice_is_refused_not_skipped(
    part: float, voxels: np.ndarray, folder: Path, capfd: pytest.CaptureFixture
) -> None:
    last = write_series(folder, voxels, STRAIGHT)[-1]
    last.write_bytes(last.read_bytes()[: int(part * last.stat().st_size)])
    message = refusal(folder).message
    assert "damaged or truncated" in message
    assert last.name in message
    assert capfd.readouterr().err == ""


def test_a_slice_with_too_few_pixels_is_refused(voxels: np.ndarray, folder: Path) -> None:
    file = write_series(folder, voxels, STRAIGHT)[2]
    edit(file, PixelData=bytes(700))
    message = refusal(folder).message
    assert "700 of 1536 bytes" in message
    assert file.name in message


def test_damaged_compressed_pixels_are_refused(voxels: np.ndarray, folder: Path) -> None:
    file = write_series(folder, voxels, STRAIGHT, transfer_syntax=JPEG2000Lossless)[3]
    content = bytearray(file.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start : start + 60] = bytes(60)
    file.write_bytes(content)
    assert file.name in refusal(folder).message


def test_an_empty_scan_is_refused(folder: Path) -> None:
    write_series(folder, np.full(SHAPE, -1024, np.int16), STRAIGHT)
    assert "every voxel has the value -1024" in refusal(folder).message


# Multi-frame files.


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("geometry", [STRAIGHT, TILTED], ids=["straight", "tilted"])
def test_an_enhanced_object_is_read_by_the_places_of_its_frames(
    geometry: Geometry, descending: bool, voxels: np.ndarray, tmp_path: Path
) -> None:
    write_enhanced(tmp_path / "enhanced.dcm", voxels, geometry, descending=descending)
    for path in (tmp_path, tmp_path / "enhanced.dcm"):
        image = read_image(path)
        np.testing.assert_array_equal(image.voxels, voxels)
        assert image.geometry.matches(geometry, tolerance=1e-5)
        assert image.dicom_files == ()


def test_an_enhanced_object_with_a_gap_is_refused(voxels: np.ndarray, tmp_path: Path) -> None:
    kept = [0, 1, 3, 4, 5]
    places = Geometry((5, *SHAPE[1:]), SPACING, ORIGIN)
    write_enhanced(tmp_path / "enhanced.dcm", voxels[kept], places, descending=False, indices=kept)
    assert "lacks 1 slice" in refusal(tmp_path).message


def test_an_enhanced_object_that_rescales_each_frame_is_refused(voxels: np.ndarray, tmp_path: Path) -> None:
    write_enhanced(tmp_path / "enhanced.dcm", voxels, STRAIGHT, descending=False, slopes=[1, 2, 3, 4, 5, 6])
    assert "rescales each of its 6 frames differently" in refusal(tmp_path).message


def test_an_enhanced_object_without_pydicom_says_what_to_install(
    voxels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_enhanced(tmp_path / "enhanced.dcm", voxels, STRAIGHT, descending=False)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "partialseg[dicom]" in refusal(tmp_path).hint


def test_ordinary_series_need_no_pydicom(voxels: np.ndarray, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(folder, voxels, STRAIGHT)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    np.testing.assert_array_equal(read_image(folder).voxels, voxels)


def test_a_multi_frame_picture_without_places_is_refused(voxels: np.ndarray, tmp_path: Path) -> None:
    write_enhanced(tmp_path / "film.dcm", voxels, STRAIGHT, descending=False)
    edit(tmp_path / "film.dcm", PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None)
    edit(tmp_path / "film.dcm", SeriesInstanceUID=generate_uid())
    assert "does not say where the slice 'film.dcm' lies" in refusal(tmp_path).message
