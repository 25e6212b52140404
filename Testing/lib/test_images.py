"""What is read as a scan, on which grid, and what is refused with which sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_factory import write_series
from image_samples import DIRECTIONS, EXACT, NIFTI, ORIGIN, SHAPE, SHEARED, SPACING, grid, random_voxels, refusal

from PartialSegLib import imagefiles
from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry, Image, read_image, read_labels, write_image


@pytest.fixture
def voxels() -> np.ndarray:
    return random_voxels()


@pytest.fixture
def image(voxels: np.ndarray) -> Image:
    return Image(voxels, grid(DIRECTIONS["oblique"]))


# The contract of every format.


def write_as(kind: str, image: Image, folder: Path) -> Path:
    if kind == "dicom":
        write_series(folder / "dicom", image.voxels, image.geometry)
        return folder / "dicom"
    path = folder / f"scan{kind}"
    if kind == ".mhd":
        volume = SimpleITK.GetImageFromArray(image.voxels)
        volume.SetSpacing(image.geometry.spacing)
        volume.SetOrigin(image.geometry.origin)
        volume.SetDirection(image.geometry.direction)
        SimpleITK.WriteImage(volume, str(path), True)
    else:
        write_image(image, path)
    return path


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", [*NIFTI, *EXACT, ".mhd", "dicom"])
def test_voxels_and_grid_come_back(kind: str, direction: str, voxels: np.ndarray, tmp_path: Path) -> None:
    written = Image(voxels, grid(DIRECTIONS[direction]))
    path = write_as(kind, written, tmp_path)
    read = read_image(path)
    if kind == "dicom" and np.linalg.det(written.geometry.axes) < 0:
        # Slices ascend along their normal, so that a mirrored stack comes back from its other end.
        first = written.geometry.affine @ [0, 0, SHAPE[0] - 1, 1]
        axes = written.geometry.axes * [1, 1, -1]
        written = Image(voxels[::-1], Geometry(SHAPE, SPACING, tuple(first[:3]), tuple(axes.ravel())))
    assert read.voxels.dtype == np.int16
    np.testing.assert_array_equal(read.voxels, written.voxels)
    assert read.source == path
    assert read.corrections == ()
    # Headers keep float32 (NIfTI) or 16 characters (DICOM) of each number.
    precision = 0.0 if kind in (".mha", ".mhd") else 1e-15 if kind == ".nrrd" else 1e-7
    for field in ("spacing", "origin", "direction"):
        ours, theirs = (np.array(getattr(item.geometry, field)) for item in (read, written))
        np.testing.assert_allclose(ours, theirs, rtol=precision, atol=precision)
    assert read.geometry.matches(written.geometry, tolerance=1e-4)


@pytest.mark.parametrize("kind", [*NIFTI, *EXACT])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32"])
def test_number_type_is_kept(kind: str, dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 100, SHAPE).astype(dtype)
    write_image(Image(values, grid(np.eye(3))), tmp_path / f"scan{kind}")
    read = read_image(tmp_path / f"scan{kind}")
    assert read.voxels.dtype == dtype
    np.testing.assert_array_equal(read.voxels, values)


@pytest.mark.parametrize("kind", [*NIFTI, *EXACT])
def test_double_precision_is_read_as_float32(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(0, 500, SHAPE)
    write_image(Image(values, grid(np.eye(3))), tmp_path / f"scan{kind}")
    read = read_image(tmp_path / f"scan{kind}")
    assert read.voxels.dtype == np.float32
    np.testing.assert_array_equal(read.voxels, values.astype(np.float32))


@pytest.mark.parametrize("kind", [*NIFTI, *EXACT])
def test_a_file_name_may_be_upper_case_foreign_and_long(kind: str, image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "é ñ 肝 ü" / ("long " * 24) / ("path " * 24) / ("name " * 24)
    folder.mkdir(parents=True)
    path = folder / f"Läsion 肝{kind.upper()}"
    assert len(str(path)) > 300
    write_image(image, path)
    np.testing.assert_array_equal(read_image(path).voxels, image.voxels)


# Sheared grids.


@pytest.mark.parametrize("kind", EXACT)
def test_a_sheared_grid_is_kept(kind: str, voxels: np.ndarray, tmp_path: Path) -> None:
    write_image(Image(voxels, grid(SHEARED)), tmp_path / f"tilted{kind}")
    assert read_image(tmp_path / f"tilted{kind}").geometry.matches(grid(SHEARED), tolerance=1e-12)


@pytest.mark.parametrize("kind", NIFTI)
def test_nifti_refuses_to_bend_a_sheared_grid(kind: str, voxels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="sheared") as caught:
        write_image(Image(voxels, grid(SHEARED)), tmp_path / f"tilted{kind}")
    assert ".nrrd" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# NRRD headers.


def nrrd(path: Path, voxels: np.ndarray, space: str) -> Path:
    sizes = " ".join(map(str, voxels.shape[::-1]))
    header = f"NRRD0004\ntype: short\ndimension: 3\n{space}sizes: {sizes}\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header.encode() + voxels.astype("<i2").tobytes())
    return path


def test_nrrd_in_ras_is_turned_to_lps(voxels: np.ndarray, tmp_path: Path) -> None:
    space = "space: right-anterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (1,2,3)\n"
    read = read_image(nrrd(tmp_path / "scan.nrrd", voxels, space))
    assert read.geometry.origin == (-1, -2, 3)
    np.testing.assert_array_equal(read.geometry.axes, np.diag([-1, -1, 1]))
    assert read.corrections == ()


def test_nrrd_without_space_is_told(voxels: np.ndarray, tmp_path: Path) -> None:
    assert "does not say how it lies" in read_image(nrrd(tmp_path / "scan.nrrd", voxels, "")).corrections[0]


# What is refused.


@pytest.mark.parametrize("kind", [*NIFTI, *EXACT])
@pytest.mark.parametrize("part", [0.98, 0.6, 0.1, 0.0])
def test_a_truncated_file_is_refused(
    kind: str, part: float, image: Image, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / f"scan{kind}"
    write_image(image, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refusal(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [".nii.gz", *EXACT])
def test_damaged_compressed_voxels_are_refused(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    values = np.random.default_rng(0).integers(-1024, 3000, (10, 32, 32)).astype(np.int16)
    path = tmp_path / f"scan{kind}"
    write_image(Image(values, Geometry(values.shape)), path)
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    path.write_bytes(content)
    refusal(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [*NIFTI, *EXACT, ".mhd", ".nhdr"])
def test_a_text_file_with_the_name_of_an_image_is_refused(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / f"letter{kind}"
    path.write_text("Dear colleague,\nthank you for referring this patient.\n" * 20, encoding="utf-8")
    assert "no " in refusal(path)
    path.write_bytes(b"")
    refusal(path)
    assert capfd.readouterr().err == ""


def save(path: Path, values: np.ndarray, vector: bool = False) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values, isVector=vector), str(path))
    return path


@pytest.mark.parametrize("kind", [*NIFTI, *EXACT])
def test_each_kind_of_unusable_image_has_its_own_message(
    kind: str, voxels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / f"scan{kind}"
    holes = voxels.astype(np.float32)
    holes[2, 3, 4], holes[0, 0, 0] = np.nan, np.inf
    unusable = {
        "2D image of 7 x 6 pixels": (voxels[0], False),
        "single slice of 7 x 6 x 1": (voxels[:1], False),
        "4D with 3 volumes": (np.stack([voxels] * 3), False),
        "no scalar image": (np.ones((*SHAPE, 3), np.uint8), True),
        "empty: every voxel has the value -1024": (np.full(SHAPE, -1024, np.int16), False),
        "every voxel is NaN": (np.full(SHAPE, np.nan, np.float32), False),
        "2 of 210 voxels that are NaN": (holes, False),
    }
    messages = set()
    for words, (values, vector) in unusable.items():
        message = refusal(save(path, values, vector))
        assert words in message
        messages.add(message)
    assert len(messages) == len(unusable)
    assert capfd.readouterr().err == ""


def test_a_complex_image_is_refused(tmp_path: Path) -> None:
    assert "complex" in refusal(save(tmp_path / "kspace.nrrd", np.ones(SHAPE, np.complex64)))


def test_a_value_beyond_float32_is_refused(tmp_path: Path) -> None:
    values = np.linspace(0.0, 1.0, 210).reshape(SHAPE)
    values[1, 1, 1] = 1e300
    assert "1 of 210 voxels" in refusal(save(tmp_path / "scan.nrrd", values))


@pytest.mark.parametrize("kind", EXACT)
def test_a_single_time_point_is_read_as_3d_and_told(kind: str, voxels: np.ndarray, tmp_path: Path) -> None:
    volume = SimpleITK.GetImageFromArray(voxels[None], isVector=False)
    volume.SetSpacing((*SPACING, 1.0))
    volume.SetOrigin((*ORIGIN, 0.0))
    axes = np.eye(4)
    axes[:3, :3] = DIRECTIONS["oblique"]
    volume.SetDirection(axes.ravel().tolist())
    SimpleITK.WriteImage(volume, str(tmp_path / f"scan{kind}"))
    read = read_image(tmp_path / f"scan{kind}")
    np.testing.assert_array_equal(read.voxels, voxels)
    assert read.geometry.matches(grid(DIRECTIONS["oblique"]), tolerance=1e-9)
    assert "single time point" in read.corrections[0]


def test_paths_that_are_no_image_are_refused(tmp_path: Path) -> None:
    assert "no file or folder" in refusal(tmp_path / "absent.nii.gz")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff" * 100)
    assert "no known image format" in refusal(tmp_path / "photo.jpg")
    (tmp_path / "empty").mkdir()
    assert "it is empty" in refusal(tmp_path / "empty")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(tmp_path / ("x" * 300))


def test_a_series_of_a_volume_file_is_refused(image: Image, tmp_path: Path) -> None:
    write_image(image, tmp_path / "scan.nrrd")
    with pytest.raises(ImageError, match=r"has no series '1\.2\.3'"):
        read_image(tmp_path / "scan.nrrd", series="1.2.3")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_metaimage_without_its_data_is_refused(
    compressed: bool, voxels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "scan.mhd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(path), compressed)
    data = next(file for file in tmp_path.iterdir() if file != path)
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)
    data.unlink()
    assert f"its data file '{data}' is missing" in refusal(path)
    assert capfd.readouterr().err == ""


# Masks.


def test_an_empty_mask_is_a_label_map_but_no_scan(tmp_path: Path) -> None:
    write_image(Image(np.zeros(SHAPE, bool), Geometry(SHAPE)), tmp_path / "mask.nii.gz")
    read = read_labels(tmp_path / "mask.nii.gz")
    assert read.voxels.dtype == np.uint8
    assert not read.voxels.any()
    assert "empty" in refusal(tmp_path / "mask.nii.gz")


def test_whole_numbers_in_floating_point_are_labels(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, SHAPE)
    write_image(Image(labels.astype(np.float64), Geometry(SHAPE)), tmp_path / "labels.nii.gz")
    read = read_labels(tmp_path / "labels.nii.gz")
    assert read.voxels.dtype == np.int32
    np.testing.assert_array_equal(read.voxels, labels)


def test_a_scan_is_no_label_map(tmp_path: Path) -> None:
    write_image(Image(np.linspace(0, 1, 210).reshape(SHAPE), Geometry(SHAPE)), tmp_path / "scan.nrrd")
    assert "no label map" in refusal(tmp_path / "scan.nrrd", read_labels)


# Writing.


@pytest.mark.parametrize("name", ["scan.mhd", "scan.png", "scan", "scan.gz"])
def test_an_unknown_ending_is_refused_with_the_list(name: str, image: Image, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        write_image(image, tmp_path / name)
    assert ".nii.gz, .nii, .nrrd, .mha" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_missing_folder_is_refused(image: Image, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no folder"):
        write_image(image, tmp_path / "absent" / "scan.nrrd")


@pytest.mark.parametrize("kind", [*NIFTI, *EXACT])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_leaves_no_half_file(
    kind: str, interruption: type[BaseException], image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"scan{kind}"
    write_image(image, path)
    before = path.read_bytes()
    write = SimpleITK.WriteImage

    def half(volume: SimpleITK.Image, name: str, *rest: object, **options: object) -> None:
        # ITK cannot be stopped at a known byte: what it wrote is cut, and the interruption follows.
        write(volume, name, *rest, **options)
        Path(name).write_bytes(Path(name).read_bytes()[:100])
        raise interruption

    monkeypatch.setattr(imagefiles.simpleitk(), "WriteImage", half)
    with pytest.raises(interruption):
        write_image(image, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_file_cannot_take_the_name_of_a_folder(image: Image, tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").mkdir()
    with pytest.raises(ImageError, match="could not be written"):
        write_image(image, tmp_path / "scan.nrrd")
    assert [file.name for file in tmp_path.iterdir()] == ["scan.nrrd"]


# Grids.


def test_index_zero_lies_at_the_origin_and_steps_follow_the_axes() -> None:
    geometry = grid(DIRECTIONS["oblique"])
    np.testing.assert_allclose(geometry.affine @ [0, 0, 0, 1], [*ORIGIN, 1])
    step = (geometry.affine @ [0, 0, 1, 1] - geometry.affine @ [0, 0, 0, 1])[:3]
    np.testing.assert_allclose(step, geometry.axes[:, 2] * 2.5)


def test_shear_makes_a_voxel_smaller() -> None:
    volume = float(np.prod(SPACING))
    assert grid(DIRECTIONS["oblique and mirrored"]).voxel_volume == pytest.approx(volume)
    assert grid(SHEARED).voxel_volume == pytest.approx(volume * np.cos(0.3))
    assert grid(SHEARED).is_sheared
    assert not any(grid(direction).is_sheared for direction in DIRECTIONS.values())


def test_grids_match_within_a_part_of_a_voxel() -> None:
    geometry = grid(np.eye(3))
    near = Geometry(SHAPE, SPACING, (ORIGIN[0] + 5e-4, *ORIGIN[1:]))
    far = Geometry(SHAPE, SPACING, (ORIGIN[0] + 5e-3, *ORIGIN[1:]))
    assert geometry.matches(near)
    assert not geometry.matches(far)
    assert not geometry.matches(Geometry((4, 6, 7), SPACING, ORIGIN))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": (3, 4)}, "3 dimensions"),
        ({"shape": (3, 0, 4)}, "no voxel"),
        ({"spacing": (1.0, -1.0, 1.0)}, "not positive"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "not positive"),
        ({"origin": (0.0, float("inf"), 0.0)}, "no point"),
        ({"direction": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)}, "does not span"),
    ],
)
def test_an_impossible_grid_is_refused(fields: dict[str, tuple], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        Geometry(**{"shape": SHAPE, **fields})


def test_voxels_have_to_fit_their_grid(voxels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="do not fit"):
        Image(voxels, Geometry((5, 6, 8)))


def test_the_module_imports_neither_torch_nor_simpleitk() -> None:
    code = "import sys, PartialSegLib.images; print(sorted({'torch', 'SimpleITK', 'pydicom'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
