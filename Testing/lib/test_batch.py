"""A folder of scans becomes a folder of results; started again, only what is missing is done."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_work import make_job, make_scans, work
from dicom_factory import write_series
from safetensors.torch import load_file

from bundles import random_bundle
from PartialSegLib import catalog, cli
from PartialSegLib.batch import BatchError, BatchJob, Outcome, Scan, Shard, find_scans, is_batch_folder, segment_scan
from PartialSegLib.batch.driver import run_batch
from PartialSegLib.batch.engines.local import ProcessEngine, SerialEngine
from PartialSegLib.batch.markers import marker_path, read_marker
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CancelledError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.inference import extractors
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentationfiles import read_segmentation

GEOMETRY = Geometry((12, 24, 24), (4.0, 4.0, 4.0))


def write_scan(path: Path, seed: int = 0, geometry: Geometry = GEOMETRY) -> Path:
    voxels = np.random.default_rng(seed).normal(0, 200, geometry.shape).astype(np.int16)
    write_image(Image(voxels, geometry), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return random_bundle(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
def scans(tmp_path: Path, model: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two scans and a broken one; the model ``random`` is installed."""
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(model.folder.parent))
    monkeypatch.setenv(catalog.MODEL_VARIABLE, "random")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    write_scan(tmp_path / "scans" / "b.nii.gz", 1)
    write_scan(tmp_path / "scans" / "a.nrrd", 2)
    (tmp_path / "scans" / "c.nii.gz").write_bytes(b"no scan")
    return tmp_path / "scans"


def run(*words: str) -> int:
    return cli.main(["segment", "scans", "-o", "results", "--tasks", "liver,spleen", *words])


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


# ---- scans and shards


def test_image_files_case_folders_and_dicom_series_are_scans(tmp_path: Path) -> None:
    write_scan(tmp_path / "one.nii.gz")
    (tmp_path / "two").mkdir()
    write_scan(tmp_path / "two" / "image.nrrd")
    (tmp_path / "three").mkdir()
    write_series(tmp_path / "three", np.zeros((3, 8, 8), np.int16), Geometry((3, 8, 8), (2.0, 2.0, 2.0)))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read me.txt").write_text("nothing")
    (tmp_path / "old.seg.nrrd").write_bytes(b"a result, no scan")
    (tmp_path / ".hidden.nii.gz").write_bytes(b"unfinished")
    found = {scan.name: scan.path.name for scan in find_scans(tmp_path)}
    assert found == {"one": "one.nii.gz", "two": "image.nrrd", "three": "three"}


def test_a_folder_without_scans_or_with_two_of_one_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="holds no scan"):
        find_scans(tmp_path)
    write_scan(tmp_path / "one.nii.gz")
    write_scan(tmp_path / "one.nrrd")
    with pytest.raises(BatchError, match="both give a result named 'one'"):
        find_scans(tmp_path)
    with pytest.raises(BatchError, match="There is no folder"):
        find_scans(tmp_path / "nowhere")


def test_the_folder_of_a_dicom_series_is_one_scan_as_before(tmp_path: Path) -> None:
    write_series(tmp_path, np.zeros((3, 8, 8), np.int16), Geometry((3, 8, 8), (2.0, 2.0, 2.0)))
    assert not is_batch_folder(tmp_path)
    write_scan(tmp_path / "also.nii.gz")
    assert not is_batch_folder(tmp_path)
    (tmp_path / "scans").mkdir()
    write_scan(tmp_path / "scans" / "one.nii.gz")
    assert is_batch_folder(tmp_path / "scans")
    assert not is_batch_folder(tmp_path / "scans" / "one.nii.gz")


@pytest.mark.parametrize("count", [1, 3, 4, 11])
def test_shards_hold_every_scan_once_and_are_alike_in_size(count: int) -> None:
    scans = [Scan(f"scan{number:02d}", Path("x")) for number in range(10)]
    parts = [Shard(number, count).of(scans[::-1]) for number in range(1, count + 1)]
    assert sorted(scan.name for part in parts for scan in part) == [scan.name for scan in scans]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no shard"):
        Shard.parse(text)
    assert Shard.parse("2/4") == Shard(2, 4)


# ---- markers


@pytest.mark.parametrize("change", ["job", "scan", "result", "marker"])
def test_a_marker_counts_while_nothing_has_changed(tmp_path: Path, change: str) -> None:
    (scan,), job = make_scans(tmp_path / "scans", a="fine"), make_job(tmp_path)
    run_batch(job, [scan], SerialEngine(job, work=work))
    assert read_marker(job, scan) is not None
    if change == "job":
        job = make_job(tmp_path, preset="fast")
    elif change == "scan":
        scan.path.write_text("another")
    elif change == "result":
        job.target(scan).unlink()
    else:
        path = marker_path(job, scan)
        path.write_text(path.read_text()[:-40])
    assert read_marker(job, scan) is None


def test_a_model_that_prepares_images_or_masks_otherwise_makes_another_job(tmp_path: Path) -> None:
    first = random_bundle(tmp_path / "first")
    card = first.card
    finer = replace(card, preprocessing=replace(card.preprocessing, spacing=(1.0, 1.0, 1.0)), weights={})
    second = ModelBundle.create(tmp_path / "second", finer, load_file(first.folder / "weights.safetensors"))
    jobs = [BatchJob.of(bundle, tmp_path / "out", ("liver",)) for bundle in (first, second)]
    assert first.card.weights["sha256"] == second.card.weights["sha256"]
    assert jobs[0].digest != jobs[1].digest


def test_device_and_threads_do_not_make_another_job(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert job.digest == job.divided(2).digest
    assert job.digest != make_job(tmp_path, format="dcm").digest


# ---- the command line, with a real model


def test_a_folder_of_scans_becomes_a_folder_of_results_and_a_report(
    scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--quiet") == 1
    told = capsys.readouterr()
    assert "1 of 3 scans could not be segmented, 'c' first" in told.err
    assert "2 of 3 scans are done" in told.out
    results = scans.parent / "results"
    first = read_segmentation(results / "a.seg.nrrd")
    table = rows(results / "report.csv")
    assert [table[name]["state"] for name in "abc"] == ["done", "done", "failed"]
    assert table["c"]["error"] == "image"
    assert float(table["a"]["liver_ml"]) == pytest.approx(first.volume_ml("liver"), abs=1e-3)
    document = json.loads((results / "report.json").read_text())
    assert (document["done"], document["failed"], document["shard"]) == (2, 1, "1/1")

    before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.seg.nrrd")}
    shutil.copy(scans / "b.nii.gz", scans / "c.nii.gz")
    assert run("--quiet", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [(item["scan"], item["earlier"]) for item in document["outcomes"]] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in results.glob("*.seg.nrrd")}.items()


@pytest.mark.parametrize(("kind", "expected"), [("masks", "a/liver.nii.gz"), ("seg.nrrd", "a.seg.nrrd")])
def test_results_are_written_in_the_chosen_format(scans: Path, kind: str, expected: str) -> None:
    (scans / "c.nii.gz").unlink()
    assert run("--quiet", "--format", kind, "--shard", "1/2") == 0
    results = scans.parent / "results"
    assert (results / expected).exists()
    assert set(rows(results / "report-1-of-2.csv")) == {"a"}
    assert not (results / "b").exists()
    assert not (results / "b.seg.nrrd").exists()


def test_a_folder_of_masks_is_left_by_no_scan_that_failed(scans: Path) -> None:
    sheared = Geometry(GEOMETRY.shape, (4.0, 4.0, 4.0), direction=(1, 0, 0, 0, 1, 0.3, 0, 0, 1))
    write_scan(scans / "a.nrrd", geometry=sheared)
    shutil.copy(scans / "b.nii.gz", scans / "1.2.840.nii.gz")
    assert run("--quiet", "--format", "masks") == 1
    results = scans.parent / "results"
    assert "sheared grid" in rows(results / "report.csv")["a"]["message"]
    assert {path.name for path in results.iterdir() if path.is_dir()} == {"b", "1.2.840", ".partialseg"}


def test_a_scan_that_the_format_cannot_hold_is_told_in_the_report(scans: Path) -> None:
    assert run("--quiet", "--format", "dcm") == 1
    table = rows(scans.parent / "results" / "report.csv")
    assert {row["state"] for row in table.values()} == {"failed"}
    assert "DICOM" in table["a"]["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--report", "r.json"], "--report is for one scan"),
        (["--region", "0", "1", "0", "1", "0", "1"], "--region is for one scan"),
        (["-o", "more"], "has one folder of results"),
        (["--engine", "local", "--address", "x"], "'local' has no address"),
        (["--shard", "3/2"], "is no shard"),
        (["--jobs", "0"], "is no number of scans"),
        (["--tasks", "livre"], "livre"),
    ],
)
def test_a_command_that_makes_no_batch_ends_in_one_line(
    scans: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(*words) != 0
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not (scans.parent / "results" / "report.csv").exists()


@pytest.mark.parametrize("output", ["scans", "result.seg.nrrd", "result.dcm"])
def test_results_need_a_folder_of_their_own(scans: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    assert cli.main(["segment", "scans", "-o", output]) == 1
    assert f"{output}' is" in capsys.readouterr().err


def test_a_defect_in_one_scan_is_told_and_costs_no_other(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defective(path: Path) -> Image:
        raise ZeroDivisionError("a defect")

    job = make_job(scans.parent)
    monkeypatch.setattr("PartialSegLib.images.read_image", defective)
    outcome = segment_scan(job, Scan("a", scans / "a.nrrd"))
    assert (outcome.done, outcome.code, outcome.message) == (False, "defect", "ZeroDivisionError: a defect")


def test_a_scan_that_is_cancelled_between_its_windows_leaves_nothing(scans: Path, model: ModelBundle) -> None:
    monitor, results = Monitor(), scans.parent / "results"
    results.mkdir()
    job = BatchJob.of(model, results, ("liver",), device="cpu")
    engine = SerialEngine(job, monitor)
    monitor.cancel()
    with pytest.raises(CancelledError):
        engine.submit(Scan("a", scans / "a.nrrd"))
    assert not list(results.iterdir())


# ---- killed


def killed(begin: Callable[[], subprocess.Popen[bytes]], seen: Callable[[], bool]) -> None:
    """Begin a batch and kill its process once something is seen."""
    process = begin()
    deadline = time.monotonic() + 300
    while not seen() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_batch_that_was_killed_does_again_only_what_was_not_done(tmp_path: Path) -> None:
    """A batch of one process is killed in its third scan, which hangs; the next batch is told not to."""
    fates = dict.fromkeys("abcd", "fine")
    scans, job = make_scans(tmp_path / "scans", **fates), make_job(tmp_path)
    script = tmp_path / "batch.py"
    script.write_text(HANGING.format(root=tmp_path, here=Path(__file__).parent))
    killed(lambda: subprocess.Popen([sys.executable, str(script)]), (tmp_path / "hangs").exists)
    assert {outcome.scan for scan in scans if (outcome := read_marker(job, scan))} == {"a", "b"}
    times = {name: job.target(Scan(name, tmp_path)).stat().st_mtime_ns for name in "ab"}
    with ProcessEngine(job, 1, work) as engine:
        report = run_batch(job, scans, engine)
    assert [outcome.done for outcome in report.outcomes] == [True] * 4
    assert [outcome.earlier for outcome in report.outcomes] == [True, True, False, False]
    assert times == {name: job.target(Scan(name, tmp_path)).stat().st_mtime_ns for name in "ab"}


#: A batch whose third scan never ends, and says so.
HANGING = """
import sys, time
from pathlib import Path

sys.path.insert(0, "{here}")
from batch_work import make_job, make_scans, work
from PartialSegLib.batch import find_scans, run_batch
from PartialSegLib.batch.engines.local import SerialEngine

root = Path("{root}")

def hanging(job, scan):
    if scan.name == "c":
        job.target(scan).with_suffix(".part").write_text("half")
        (root / "hangs").touch()
        time.sleep(600)
    return work(job, scan)

job = make_job(root)
run_batch(job, find_scans(root / "scans"), SerialEngine(job, work=hanging))
"""


def test_the_report_of_an_engine_is_plain_values() -> None:
    outcome = Outcome.failed(Scan("a", Path("a.nii.gz")), "image", "It is damaged.")
    assert Outcome(**json.loads(json.dumps(outcome.to_json()))) == outcome
    assert os.fspath(outcome.image) == "a.nii.gz"


def test_an_organ_can_be_segmented_without_the_tumors_of_its_task(scans: Path) -> None:
    assert cli.main(["segment", "scans", "-o", "organs", "--tasks", "liver/liver"]) == 1, "One scan is broken."
    assert read_segmentation(Path("organs") / "a.seg.nrrd").keys == ("liver",)
