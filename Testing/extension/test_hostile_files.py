"""Disks, names and models as users have them: each problem is said, and the next run works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logic_cases import TASKS, small_scan

from bundles import bundle_of, random_dodnet
from PartialSegLib.batch import BatchError
from PartialSegLib.bundle import WEIGHTS
from PartialSegLib.errors import BundleError, ImageError, LabelSpaceError, SegmentationError
from PartialSegLib.images import write_image
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegWorker.errors import WorkerError
from slicer_scene import SlicerScene

ACCENTED = "é ñ 肝 Größe"


@contextmanager
def disk_full() -> Iterator[None]:
    """Let no file of this process grow beyond 4 kB, as on a disk without space."""
    resource = pytest.importorskip("resource", reason="limits of files are those of POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def long_folder(folder: Path, length: int = 300) -> Path:
    """Return a folder whose path has at least this many characters."""
    while len(str(folder)) < length:
        folder = folder / "a rather long name of a folder with spaces in it"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("kind", ["accented", "300 characters"])
def test_any_path_of_scans_results_models_and_temporary_files_works(
    own_logic: Any,
    slicer_scene: SlicerScene,
    random_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    root = tmp_path / ACCENTED if kind == "accented" else long_folder(tmp_path)
    temporary = root / "tmp"
    temporary.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    model = Path(shutil.copytree(random_model, root / "models" / random_model.name))
    volume = slicer_scene.add_volume(small_scan(), ACCENTED)
    result = own_logic.segment(volume, tasks=TASKS, model=str(model), device="cpu")
    assert str(own_logic.session.client.folder).startswith(str(temporary))
    scans = root / "scans"
    scans.mkdir()
    write_image(small_scan(), scans / f"{ACCENTED}.nrrd")
    report = own_logic.segmentFolder(scans, root / "results", tasks=TASKS, model=str(model), device="cpu")
    assert [item.done for item in report.outcomes] == [True]
    found = read_segmentation(report.outcomes[0].output)
    assert {key: found.masks[key].count for key in found.keys} == {row.key: row.voxels for row in result.structures}


def test_a_full_disk_is_said_before_the_run_and_the_next_run_works(logic: Any, volume: Any, random_model: Path) -> None:
    with disk_full(), pytest.raises(ImageError, match="disk"):
        logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu")
    assert not logic.busy
    assert logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu").structures


def test_a_full_disk_loses_no_training_case(logic: Any, volume: Any, random_model: Path) -> None:
    result = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu")
    row = result.structures[0]
    case = logic.saveTrainingCase(volume, result.segmentationNode, [row.segmentID], "first")
    before = sorted((file.name, file.read_bytes()) for file in case.folder.rglob("*") if file.is_file())
    with disk_full(), pytest.raises((ImageError, SegmentationError)):
        logic.saveTrainingCase(volume, result.segmentationNode, [row.segmentID], "first", replace=True)
    assert sorted((file.name, file.read_bytes()) for file in case.folder.rglob("*") if file.is_file()) == before
    assert [item.name for item in logic.trainingCases()] == ["first"]
    logic.removeTrainingCase("first")


def test_an_output_folder_that_cannot_be_written_is_refused_before_the_first_case(
    logic: Any, scan: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BatchError, match="cannot be made"):
        logic.segmentFolder(scan.parent, tmp_path / "file" / "results")
    assert not logic.busy


def test_an_output_folder_that_takes_no_file_is_refused_before_the_first_case(
    logic: Any, scan: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.csv").mkdir()
    with pytest.raises(BatchError, match="cannot be written"):
        logic.segmentFolder(scan.parent, tmp_path)
    assert not logic.busy


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_refused_before_the_first_case(logic: Any, scan: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(BatchError, match="cannot be written"):
        logic.segmentFolder(scan.parent, tmp_path)


def test_an_unknown_task_is_refused_with_the_names_that_come_close(logic: Any, volume: Any) -> None:
    with pytest.raises(LabelSpaceError) as raised:
        logic.segment(volume, tasks=["livr"])
    assert "liver" in str(raised.value)


def test_a_model_that_was_removed_between_two_runs_is_said_and_another_one_works(
    logic: Any, volume: Any, random_model: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / random_model.name))
    logic.segment(volume, tasks=["liver"], model=str(model), device="cpu")
    shutil.rmtree(model)
    with pytest.raises(BundleError):
        logic.segment(volume, tasks=["liver"], model=str(model), device="cpu")
    assert logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu").structures


@pytest.mark.parametrize("damage", ["cut short", "one bit"])
def test_a_damaged_model_is_never_run(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path, tmp_path: Path, damage: str
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / random_model.name))
    data = bytearray((model / WEIGHTS).read_bytes())
    if damage == "one bit":
        data[-5] ^= 1
    else:
        del data[-50:]
    (model / WEIGHTS).write_bytes(data)
    logic.unload()
    with pytest.raises((BundleError, WorkerError)) as raised:
        logic.segment(volume, tasks=["liver"], model=str(model), device="cpu")
    assert raised.value.code == "bundle"
    assert slicer_scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_result_without_a_voxel_is_said_and_leaves_an_empty_segment(logic: Any, volume: Any, tmp_path: Path) -> None:
    network = random_dodnet()
    for parameter in network.parameters():
        parameter.data.zero_()
    model = bundle_of(tmp_path / "zeros", "DoDNet", network)
    result = logic.segment(volume, tasks=["liver"], model=str(model.folder), device="cpu", uncertainty=True)
    assert {row.status for row in result.structures} == {"empty"}
    assert result.notes[0].startswith("Not found: Liver")
    assert result.structures[0].center is None
    assert result.structures[0].reviewPoint is None


def test_a_broken_scan_and_a_4d_scan_are_reported_and_the_others_segmented(
    logic: Any, scan: Path, random_model: Path, tmp_path: Path
) -> None:
    import SimpleITK

    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(scan, folder / "c.nrrd")
    (folder / "a.nrrd").write_bytes(scan.read_bytes()[:3000])
    frames = SimpleITK.JoinSeries([SimpleITK.ReadImage(str(scan)) for _ in range(2)])
    SimpleITK.WriteImage(frames, str(folder / "b.nrrd"))
    report = logic.segmentFolder(folder, tmp_path / "results", tasks=TASKS, model=str(random_model), device="cpu")
    assert [item.done for item in report.outcomes] == [False, False, True]
    assert [item.code for item in report.failed] == ["image", "image"]
    assert all(item.message for item in report.failed)
    left = sorted(item.name for item in (tmp_path / "results").iterdir() if not item.name.startswith("."))
    assert left == ["c.seg.nrrd", "report.csv", "report.json"]


def test_volumes_of_floating_point_keep_their_values_on_the_way_to_the_worker(
    logic: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    from PartialSegLib.images import Image, read_image

    image = small_scan()
    values = image.voxels.astype(np.float64) + 0.25
    volume = slicer_scene.add_volume(Image(values, image.geometry))
    sent = logic.session.scans.of(volume)
    np.testing.assert_array_equal(read_image(sent.file).voxels, values.astype(np.float32))
    assert logic.session.scans.of(volume).file == sent.file
    slicer_scene.slicer.util.arrayFromVolume(volume)[0, 0, 0] = 7
    slicer_scene.slicer.util.arrayFromVolumeModified(volume)
    again = logic.session.scans.of(volume)
    assert again.file != sent.file
    assert not sent.file.exists()
    assert read_image(again.file).voxels[0, 0, 0] == 7
