"""What every format of a saved segmentation has to do: one suite for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_cases import arrays, dicom_image, grid, segmentation, structures

from PartialSegLib.errors import ImageError, PartialSegError, SegmentationError
from PartialSegLib.images import Image
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import read_segmentation, write_segmentation

TARGETS = ["case.seg.nrrd", "masks", "case_*.nii.gz", "case.dcm"]
KINDS = ["straight", "flipped", "oblique", "sheared"]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to write, one format after another."""
    if request.param.endswith(".dcm"):
        pytest.importorskip("highdicom", reason="highdicom is not installed")
    return tmp_path / request.param


@pytest.fixture
def image_for(target: Path, tmp_path: Path) -> Callable[[str], Image | None]:
    """Return a function that makes the DICOM series which that format needs."""

    def make(kind: str) -> Image | None:
        return dicom_image(tmp_path / f"series-{kind}", kind) if target.suffix == ".dcm" else None

    return make


def is_nifti(target: Path) -> bool:
    """Whether the target stands for one NIfTI file per structure."""
    return target.name.endswith(".nii.gz") or not target.suffix


def drawn_on(image: Image | None, kind: str, seed: int = 0, empty: str | None = None) -> Segmentation:
    """Return a segmentation on the grid of the image, or on a drawn grid."""
    geometry = grid(kind) if image is None else image.geometry
    return Segmentation.from_arrays(geometry, structures(), arrays(seed=seed, empty=empty), "Demo 1.0")


def assert_same(read: Segmentation, written: Segmentation) -> None:
    """Every voxel, name, code, color and containment is the same."""
    assert read.structures == written.structures
    assert read.algorithm == written.algorithm
    for key in written.keys:
        assert np.array_equal(read.array(key), written.array(key)), key


@pytest.mark.parametrize("kind", KINDS)
def test_every_voxel_and_tag_comes_back_or_the_format_says_why_not(
    target: Path, image_for: Callable[[str], Image | None], kind: str
) -> None:
    image = image_for(kind)
    written = drawn_on(image, kind)
    if kind == "sheared" and is_nifti(target):
        with pytest.raises(ImageError, match="sheared"):
            write_segmentation(written, target)
        assert not list(target.parent.rglob("*.nii.gz"))
        return
    write_segmentation(written, target, image=image)
    read = read_segmentation(target, image=image)
    assert_same(read, written)
    assert read.geometry.matches(written.geometry, tolerance=1e-9)


def test_the_geometry_of_the_image_is_the_geometry_of_the_result(
    target: Path, image_for: Callable[[str], Image | None]
) -> None:
    image = image_for("oblique") or Image(np.zeros(grid("oblique").shape, np.int16), grid("oblique"))
    write_segmentation(drawn_on(image, "oblique"), target, image=image)
    assert read_segmentation(target, image=image).geometry is image.geometry


def test_a_segmentation_of_another_image_is_refused(
    target: Path, image_for: Callable[[str], Image | None], tmp_path: Path
) -> None:
    image = image_for("straight")
    write_segmentation(drawn_on(image, "straight"), target, image=image)
    shifted = replace(grid("straight"), origin=(0.0, 0.0, 0.0))
    with pytest.raises(SegmentationError, match="does not coincide"):
        read_segmentation(target, image=Image(np.zeros(shifted.shape, np.int16), shifted))


def test_a_manual_segmentation_stays_manual(target: Path, image_for: Callable[[str], Image | None]) -> None:
    image = image_for("straight")
    written = replace(drawn_on(image, "straight"), algorithm="")
    write_segmentation(written, target, image=image)
    assert read_segmentation(target, image=image).algorithm == ""


def test_an_empty_structure_comes_back_empty(target: Path, image_for: Callable[[str], Image | None]) -> None:
    image = image_for("straight")
    written = drawn_on(image, "straight", empty="colon_tumor")
    write_segmentation(written, target, image=image)
    read = read_segmentation(target, image=image)
    if target.suffix == ".dcm":  # a DICOM segment without a frame does not exist
        assert set(read.keys) == set(written.keys) - {"colon_tumor"}
    else:
        assert_same(read, written)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_full_disk_leaves_the_older_result_and_no_half_file(
    target: Path, image_for: Callable[[str], Image | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_for("straight")
    older = drawn_on(image, "straight", seed=1)
    write_segmentation(older, target, image=image)
    before = _files(tmp_path)

    # What reaches the disk last in each format fails: the sync of a stream, or the rename of a mask.
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace" if is_nifti(target) else "fsync", no_space)
    with pytest.raises(PartialSegError, match="No space left"):
        write_segmentation(drawn_on(image, "straight", seed=2), target, image=image)
    monkeypatch.undo()
    assert _files(tmp_path) == before
    assert_same(read_segmentation(target, image=image), older)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size exist on POSIX only")
def test_a_write_that_the_system_stops_midway_leaves_the_older_file(tmp_path: Path) -> None:
    target = tmp_path / "case.seg.nrrd"
    older = segmentation(seed=1)
    write_segmentation(older, target)
    child = textwrap.dedent("""
        import resource, sys
        from drawn_cases import segmentation
        from PartialSegLib.segmentationfiles import write_segmentation

        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        write_segmentation(segmentation(seed=2), sys.argv[1])
    """)
    result = subprocess.run(
        [sys.executable, "-c", child, str(target)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        timeout=60,
    )
    assert "SegmentationError" in result.stderr
    assert "File too large" in result.stderr
    assert target.stat().st_size > 9000
    assert [path.name for path in tmp_path.iterdir()] == ["case.seg.nrrd"]
    assert_same(read_segmentation(target), older)


def test_a_killed_process_leaves_the_older_file(tmp_path: Path) -> None:
    target = tmp_path / "case.seg.nrrd"
    older = segmentation(seed=1)
    write_segmentation(older, target)
    child = textwrap.dedent("""
        import sys, time
        import PartialSegLib.segmentationfiles.segnrrd as segnrrd
        from drawn_cases import segmentation
        from PartialSegLib.segmentationfiles import write_segmentation

        draw = segnrrd._draw
        def slow(*arguments):
            print("writing", flush=True)
            time.sleep(60)
            draw(*arguments)
        segnrrd._draw = slow
        write_segmentation(segmentation(seed=2), sys.argv[1])
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", child, str(target)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        started = [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert started, "the child had begun a temporary file"
    assert_same(read_segmentation(target), older)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("case.txt", "no ending of a segmentation"),
        ("case.nii.gz", "one mask only"),
        ("missing/case.seg.nrrd", "could not be written"),
        ("case.dcm", "needs the DICOM series"),
    ],
)
def test_a_target_that_fits_no_format_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(SegmentationError, match=complaint):
        write_segmentation(segmentation(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["no.seg.nrrd", "no_*.nii.gz", "no", "no.json", "no.txt"])
def test_a_missing_segmentation_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SegmentationError, match=r"no"):
        read_segmentation(tmp_path / name)


def test_two_cases_share_a_folder(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_segmentation(segmentation(seed=seed), tmp_path / f"case{seed}_*.nii.gz")
    for seed in (1, 2):
        assert_same(read_segmentation(tmp_path / f"case{seed}_*.nii.gz"), segmentation(seed=seed))
        assert_same(read_segmentation(tmp_path / f"case{seed}_segmentation.json"), segmentation(seed=seed))


def test_masks_of_an_earlier_run_disappear_but_other_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    write_segmentation(segmentation(), folder)
    (folder / "notes.txt").write_text("keep me")
    fewer = Segmentation.from_arrays(grid(), structures()[:2], {"liver": arrays()["liver"]})
    write_segmentation(fewer, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"liver.nii.gz", "liver_tumor.nii.gz", "segmentation.json", "notes.txt"}
    assert_same(read_segmentation(folder), fewer)


def test_a_mask_that_was_saved_on_another_grid_is_refused(tmp_path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    write_segmentation(segmentation(), tmp_path / "masks")
    mask = sitk.ReadImage(str(tmp_path / "masks" / "liver.nii.gz"))
    sitk.WriteImage(sitk.Flip(mask, (True, False, False)), str(tmp_path / "masks" / "liver.nii.gz"))
    with pytest.raises(SegmentationError, match=r"liver.nii.gz lies on another grid"):
        read_segmentation(tmp_path / "masks")


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    write_segmentation(segmentation(), tmp_path / "masks")
    index = tmp_path / "masks" / "segmentation.json"
    index.write_text(index.read_text().replace('"geometry"', '"geometri"'))
    with pytest.raises(SegmentationError, match=r"segmentation.json is damaged"):
        read_segmentation(tmp_path / "masks")
    index.write_text("{")
    with pytest.raises(SegmentationError, match=r"segmentation.json is damaged"):
        read_segmentation(tmp_path / "masks")


def test_keys_that_a_file_system_refuses_get_safe_file_names(tmp_path: Path) -> None:
    odd = tuple(replace(structures()[0], key=key) for key in ("a/b", "a:b", "../up"))
    drawn = {item.key: array for item, array in zip(odd, arrays().values(), strict=False)}
    written = Segmentation.from_arrays(grid(), odd, drawn)
    write_segmentation(written, tmp_path / "masks")
    assert {path.parent for path in tmp_path.rglob("*.nii.gz")} == {tmp_path / "masks"}
    assert_same(read_segmentation(tmp_path / "masks"), written)
