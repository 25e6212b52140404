"""NIfTI headers as other programs write them: what is read, corrected, and refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from image_samples import SHEARED, SPACING, nifti, random_voxels, refusal

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry, Image, read_image, write_image


@pytest.fixture
def voxels() -> np.ndarray:
    return random_voxels()


def test_nifti_axes_are_turned_from_ras_to_lps(voxels: np.ndarray, tmp_path: Path) -> None:
    read = read_image(nifti(tmp_path / "scan.nii.gz", voxels))
    np.testing.assert_array_equal(read.geometry.axes, np.diag([-1, -1, 1]))
    assert read.geometry.origin == (-1, -2, 3)
    assert read.corrections == ()


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_big_endian_nifti_is_read(name: str, voxels: np.ndarray, tmp_path: Path) -> None:
    read = read_image(nifti(tmp_path / name, voxels, order=">"))
    np.testing.assert_array_equal(read.voxels, voxels)


def test_a_gzip_stream_named_nii_has_to_be_renamed(voxels: np.ndarray, tmp_path: Path) -> None:
    packed = nifti(tmp_path / "scan.nii.gz", voxels)
    assert "not named so" in refusal(packed.rename(tmp_path / "scan.nii"))


def test_an_uncompressed_file_named_gz_is_read(voxels: np.ndarray, tmp_path: Path) -> None:
    plain = nifti(tmp_path / "scan.nii", voxels)
    np.testing.assert_array_equal(read_image(plain.rename(tmp_path / "scan.nii.gz")).voxels, voxels)


def test_nifti_slope_and_intercept_are_applied(voxels: np.ndarray, tmp_path: Path) -> None:
    read = read_image(nifti(tmp_path / "scan.nii", voxels, rescale=(0.5, -10.0)))
    np.testing.assert_allclose(read.voxels, voxels * 0.5 - 10)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["tilted.nii", "tilted.nii.gz"])
@pytest.mark.parametrize("angle", [0.001, 0.3])
def test_a_sheared_sform_alone_is_read_exactly(
    angle: float, name: str, order: str, voxels: np.ndarray, tmp_path: Path
) -> None:
    axes = np.array([[1, 0, 0], [0, 1, np.sin(angle)], [0, 0, np.cos(angle)]])
    sform = np.column_stack([axes * SPACING, (1, 2, 3)])
    read = read_image(nifti(tmp_path / name, voxels, sform=sform, order=order))
    np.testing.assert_array_equal(read.voxels, voxels)
    np.testing.assert_allclose(read.geometry.affine[:3], np.diag([-1, -1, 1]) @ sform, rtol=1e-6, atol=1e-6)
    assert "sheared grid was kept" in read.corrections[0]


def test_a_contradiction_between_sform_and_qform_is_told(voxels: np.ndarray, tmp_path: Path) -> None:
    sform = np.column_stack([SHEARED * SPACING, (1, 2, 3)])
    read = read_image(nifti(tmp_path / "scan.nii", voxels, sform=sform, codes=(1, 1)))
    assert "contradicts its qform" in read.corrections[0]
    assert "mm" in read.corrections[0]


def test_nifti_without_orientation_is_told(voxels: np.ndarray, tmp_path: Path) -> None:
    assert "does not say how it lies" in read_image(nifti(tmp_path / "scan.nii", voxels, codes=(0, 0))).corrections[0]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_a_full_disk_leaves_the_older_file_and_is_said(
    voxels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture, name: str
) -> None:
    resource = pytest.importorskip("resource", reason="limits of files are those of POSIX")
    image = Image(voxels, Geometry(voxels.shape, (1.0, 1.0, 2.0)))
    write_image(image, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file of this process may grow any further, as on a disk without space.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(ImageError, match="could not be written"):
            write_image(image, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / name).read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_unusable_nifti_headers_are_refused(voxels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "scan.nii"
    assert "sform holds NaN" in refusal(nifti(path, voxels, sform=np.full((3, 4), np.nan)))
    assert "is not positive" in refusal(nifti(path, voxels, sform=np.zeros((3, 4))))
    assert "voxel size" in refusal(nifti(path, voxels, pixdim=(0.7, 0.0, 2.5)))
    assert "claims a size" in refusal(nifti(path, voxels, sizes=(7, -6, 5)))
    rgb = bytearray(nifti(path, voxels).read_bytes())
    struct.pack_into("<2h", rgb, 70, 128, 24)
    path.write_bytes(rgb)
    assert "voxels are RGB" in refusal(path)
    path.write_bytes(struct.pack("<i", 540) + b"n+2\0" + bytes(600))
    assert "NIfTI-2" in refusal(path)
    assert capfd.readouterr().err == ""
