"""The command line: results, and mistakes that each end in one clear line and an exit status."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dicom_factory import write_series
from scipy import ndimage

import PartialSegLib
from bundles import random_bundle
from PartialSegLib import catalog, cli
from PartialSegLib.bundle import WEIGHTS, ModelBundle
from PartialSegLib.commands import info
from PartialSegLib.images import Geometry, Image, read_image, write_image
from PartialSegLib.inference import Predictor, extractors
from PartialSegLib.networks import DoDNet
from PartialSegLib.segmentationfiles import read_segmentation

ROOT = Path(__file__).parents[2]
GEOMETRY = Geometry((24, 48, 48), (2.0, 2.0, 2.0), (-40.0, -30.0, 5.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scan, the same as DICOM, and the models ``random`` and ``blind``, which finds nothing."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "models").mkdir()
    bundle = random_bundle(folder / "models" / "random")
    weights = bundle.load_network().state_dict()
    blind = {name: 0 * weight - float(name == "controller.bias") for name, weight in weights.items()}
    ModelBundle.create(folder / "models" / "blind", replace(bundle.card, name="blind"), blind)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(GEOMETRY.shape), 2) * 2000
    image = Image(noise.astype(np.int16), GEOMETRY)
    write_image(image, folder / "scan.nii.gz")
    write_series(folder / "dicom", image.voxels, GEOMETRY, FrameOfReferenceUID="1.2.3", SliceThickness=2.0)
    return folder


@pytest.fixture(autouse=True)
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the models are installed, and ``random`` is used unless another is named."""
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(made / "models"))
    monkeypatch.setenv(catalog.MODEL_VARIABLE, "random")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: Any) -> int:
    return cli.main([str(word) for word in words])


def child(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], text=True, timeout=60, check=False, **options)


# ---- segment


def test_segment_writes_what_the_predictor_finds_in_every_format(made: Path, work: Path, capsys: Any) -> None:
    status = call("segment", made / "dicom", "-o", "a.seg.nrrd", "-o", "masks", "-o", "b.dcm", "--report", "r.json")
    assert status == 0
    image = read_image(made / "dicom")
    expected = Predictor(catalog.find("random")).segment(image).segmentation
    assert sum(mask.count for mask in expected.masks.values()) > 100
    for name in ("a.seg.nrrd", "masks", "b.dcm"):
        written = read_segmentation(work / name, image=image)
        for key in written.keys if name == "b.dcm" else expected.keys:
            np.testing.assert_array_equal(written.array(key), expected.array(key), err_msg=f"{name} {key}")
    report = json.loads((work / "r.json").read_text())
    assert report["outputs"] == ["a.seg.nrrd", "masks", "b.dcm"]
    assert {item["key"]: item["voxels"] for item in report["structures"]} == {
        key: mask.count for key, mask in expected.masks.items()
    }
    shown = capsys.readouterr().out
    for structure in expected.structures:
        assert f"{structure.name}  " in shown
    assert "Wrote a.seg.nrrd\nWrote masks\nWrote b.dcm\n" in shown


def test_chosen_tasks_and_structures_are_written_and_no_others(made: Path, work: Path) -> None:
    assert (
        call("segment", made / "scan.nii.gz", "--tasks", "Liver,lung_tumor", "--tasks", "spleen", "-o", "a.seg.nrrd")
        == 0
    )
    assert read_segmentation(work / "a.seg.nrrd").keys == ("liver", "liver_tumor", "lung_tumor", "spleen")


def test_segment_prints_its_report_as_json_and_nothing_else(made: Path, capsys: Any) -> None:
    assert call("segment", made / "scan.nii.gz", "--tasks", "liver", "-o", "a.seg.nrrd", "--json") == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert output.err == ""
    assert {"model", "preset", "device", "windows", "forecast", "seconds", "steps", "outputs"} <= set(report)
    assert [item["key"] for item in report["structures"]] == ["liver", "liver_tumor"]


def test_structures_without_voxels_are_said_to_be_absent(made: Path, capsys: Any) -> None:
    words = ("--model", "blind", "--tasks", "liver", "-o", "a.seg.nrrd")
    assert call("segment", made / "scan.nii.gz", *words) == 0
    shown = capsys.readouterr().out
    assert "Not found (0 voxels): Liver, Liver tumor\n" in shown


def test_a_region_with_negative_coordinates_bounds_the_result(made: Path, work: Path) -> None:
    assert call("segment", made / "scan.nii.gz", "-o", "a.seg.nrrd", "--region", -40, 0, -30.5, 64, 5, 51) == 0
    image = read_image(made / "scan.nii.gz")
    written = read_segmentation(work / "a.seg.nrrd", image=image)
    columns = np.any([written.array(key).any(axis=(0, 1)) for key in written.keys], axis=0)
    positions = GEOMETRY.origin[0] + GEOMETRY.spacing[0] * np.flatnonzero(columns)
    assert positions.size > 0
    assert positions.max() <= 0.0 + GEOMETRY.spacing[0] / 2


def test_the_uncertainty_lies_on_the_grid_of_the_scan(made: Path, work: Path) -> None:
    words = ("--uncertainty", "u.nrrd", "--tasks", "liver", "--preset", "fast")
    assert call("segment", made / "scan.nii.gz", "-o", "a.seg.nrrd", *words) == 0
    entropy = read_image(work / "u.nrrd")
    assert entropy.geometry.matches(read_image(made / "scan.nii.gz").geometry)
    assert entropy.voxels.min() >= 0.0
    assert 0.0 < entropy.voxels.max() <= 1.0


def test_threads_limits_the_threads_of_torch(made: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert call("segment", made / "scan.nii.gz", "-o", "a.seg.nrrd", "--tasks", "spleen", "--threads", 3) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_output_that_fails_does_not_cost_the_others(made: Path, work: Path, capsys: Any) -> None:
    # Found only when it is written: DICOM keeps no segmentation without a voxel.
    assert call("segment", made / "dicom", "--model", "blind", "-o", "a.dcm", "-o", "a.seg.nrrd") == 4
    output = capsys.readouterr()
    assert "every mask is empty" in output.err
    assert "Wrote a.seg.nrrd" in output.out
    assert os.listdir(work) == ["a.seg.nrrd"]


# ---- mistakes


def truncated(made: Path) -> list[Any]:
    Path("scan.nii.gz").write_bytes((made / "scan.nii.gz").read_bytes()[:2000])
    return ["segment", "scan.nii.gz"]


def text_file(made: Path) -> list[Any]:
    Path("scan.nii.gz").write_text("This is a letter, not a scan.")
    return ["segment", "scan.nii.gz"]


def empty_folder(made: Path) -> list[Any]:
    Path("series").mkdir()
    return ["segment", "series"]


def one_slice(made: Path) -> list[Any]:
    write_series(Path("series"), np.zeros((1, 8, 8), np.int16), Geometry((1, 8, 8)))
    return ["segment", "series"]


def nan_volume(made: Path) -> list[Any]:
    write_image(Image(np.full((8, 8, 8), np.nan, np.float32), Geometry((8, 8, 8))), "scan.nrrd")
    return ["segment", "scan.nrrd"]


def frameless_series(made: Path) -> list[Any]:
    image = read_image(made / "scan.nii.gz")
    write_series(Path("series"), image.voxels, image.geometry)
    return ["segment", "series", "-o", "a.dcm"]


def damaged_model(made: Path) -> list[Any]:
    bundle = random_bundle(Path("damaged").resolve())
    data = bytearray((bundle.folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (bundle.folder / WEIGHTS).write_bytes(data)
    return ["segment", made / "scan.nii.gz", "--model", "./damaged"]


def scan(*words: Any) -> Callable[[Path], list[Any]]:
    return lambda made: ["segment", made / "scan.nii.gz", *words]


#: What is wrong, how it is called, the exit status, and what the message says.
MISTAKES: dict[str, tuple[Callable[[Path], list[Any]], int, str]] = {
    "truncated NIfTI": (truncated, 3, "'scan.nii.gz' is truncated"),
    "text file named .nii.gz": (text_file, 3, "scan.nii.gz"),
    "empty folder": (empty_folder, 3, "series"),
    "one-slice series": (one_slice, 3, "slice"),
    "NaN volume": (nan_volume, 3, "every voxel is NaN"),
    "no such file": (lambda made: ["segment", "nothing.nii.gz"], 3, "There is no file or folder 'nothing.nii.gz'"),
    "unknown task": (scan("--tasks", "livr"), 5, "Unknown task or structure 'livr'"),
    "no task": (scan("--tasks", ","), 5, "No task was named"),
    "damaged model": (damaged_model, 6, "its checksum is not the card's"),
    "unknown model": (scan("--model", "randm"), 6, "Did you mean random?"),
    "unknown device": (scan("--device", "gpu9"), 1, "There is no device 'gpu9'"),
    "region outside": (scan("--region", 900, 950, 0, 1, 0, 1), 3, "lies outside the image"),
    "region of text": (scan("--region", "a", "b", 0, 1, 0, 1), 2, "invalid float value: 'a'"),
    "no threads": (scan("--threads", "0"), 2, "'0' is no number of threads"),
    "unknown preset": (scan("--preset", "best"), 2, "invalid choice: 'best'"),
    "unknown format": (scan("-o", "a.docx"), 4, "a.docx has no ending of a segmentation"),
    "one NIfTI file": (scan("-o", "a.nii.gz"), 4, "would hold one mask only"),
    "missing folder": (scan("-o", "none/a.seg.nrrd"), 4, "There is no folder 'none'"),
    "DICOM from NIfTI": (scan("-o", "a.dcm"), 4, "is no DICOM series"),
    "DICOM without frame of reference": (frameless_series, 4, "it has no FrameOfReferenceUID"),
    "report in missing folder": (scan("--report", "none/r.json"), 4, "There is no folder 'none'"),
    "uncertainty as text": (scan("--uncertainty", "u.txt"), 3, "Images cannot be written as 'u.txt'"),
    "series of a file": (scan("--series", "1.2"), 3, "it has no series '1.2'"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "status", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_clear_line_and_its_exit_status(
    made: Path, work: Path, capsys: Any, words: Callable[[Path], list[Any]], status: int, message: str
) -> None:
    called = words(made)
    before = sorted(os.listdir(work))
    assert call(*called, "-o", "a.seg.nrrd") == status
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("partialseg: error: ")
    assert message in line
    assert output.out == ""
    assert sorted(os.listdir(work)) == before


def test_an_output_never_overwrites_the_scan(made: Path, work: Path, capsys: Any) -> None:
    write_image(read_image(made / "scan.nii.gz"), "scan.nrrd")
    before = (work / "scan.nrrd").read_bytes()
    assert call("segment", "scan.nrrd", "-o", "./scan.nrrd") == 4
    assert "is the scan itself" in capsys.readouterr().err
    assert (work / "scan.nrrd").read_bytes() == before


def test_with_json_a_mistake_is_an_object_on_stdout_too(capsys: Any) -> None:
    assert call("segment", "nothing.nii.gz", "-o", "a.seg.nrrd", "--json") == 3
    output = capsys.readouterr()
    assert json.loads(output.out)["error"] == {
        "code": "image",
        "message": "There is no file or folder 'nothing.nii.gz'.",
        "hint": "Check the spelling of the path.",
        "exit_code": 3,
    }
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["segmnt"], ["segment"], ["info", "--jsn"]])
def test_a_wrong_command_line_names_the_help(words: list[str], capsys: Any) -> None:
    assert call(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("partialseg: error: ")
    assert line.endswith("--help'.")


def test_a_defect_ends_in_one_line_that_names_debug(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail() -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(info, "collect", fail)
    assert call("info") == cli.DEFECT
    expected = "partialseg: error: RuntimeError: first line second line Run again with --debug for the traceback.\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(RuntimeError, match="first line"):
        call("info", "--debug")


# ---- being stopped


def test_ctrl_c_stops_before_the_next_window_and_writes_nothing(
    made: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    windows = []

    def interrupted(self: DoDNet, image: torch.Tensor, task: torch.Tensor | None = None) -> Any:
        if image.device.type != "meta":
            windows.append(image)
            signal.raise_signal(signal.SIGINT)
        return original(self, image, task)

    original = DoDNet.features
    monkeypatch.setattr(DoDNet, "features", interrupted)
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)
    handler = signal.getsignal(signal.SIGINT)
    assert call("segment", made / "scan.nii.gz", "-o", "a.seg.nrrd") == 130
    assert len(windows) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("partialseg: error: Stopped by the user during 'segment'")
    assert os.listdir(work) == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_outside_of_long_work_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(info, "collect", lambda: signal.raise_signal(signal.SIGINT))
    # Processes that a shell starts in the background ignore it.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert call("info") == 130
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert capsys.readouterr().err == "partialseg: error: Stopped by the user.\n"


def test_a_terminated_write_leaves_no_half_file(made: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        call("segment", made / "scan.nii.gz", "--tasks", "spleen", "-o", "a.seg.nrrd")
    assert stopped.value.code == cli.TERMINATED
    assert os.listdir(work) == []


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = child("-m", "PartialSegLib", "info", "--json", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


# ---- what there is


def test_info_lists_versions_packages_and_models_without_heavy_imports() -> None:
    code = (
        "import sys; from PartialSegLib.cli import main; main(['info', '--json']); "
        "heavy = {'torch', 'numpy', 'SimpleITK', 'openvino', 'vtk', 'PartialSegTraining'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    ended = child("-c", code, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["version"] == PartialSegLib.__version__
    assert document["packages"]["torch"] == importlib.metadata.version("torch")
    assert [preset["name"] for preset in document["presets"]] == ["fast", "standard", "paper"]
    model = next(model for model in document["models"] if model["name"] == "random")
    assert model["tasks"][0]["key"] == "liver"


def test_every_package_that_info_names_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {requirement.split(">")[0].split("!")[0] for requirement in required}
    assert set(info.PACKAGES) <= names


def test_tasks_lists_every_structure_of_the_model(capsys: Any) -> None:
    assert call("tasks", "--json") == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert sum(len(task["structures"]) for task in tasks) == 11
    assert call("tasks") == 0
    shown = capsys.readouterr().out
    for task in tasks:
        for structure in task["structures"]:
            assert structure["key"] in shown
            assert structure["name"] in shown


def test_models_lists_good_ones_and_says_what_is_wrong_with_others(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(work))
    random_bundle(work / "good")
    (work / "bad").mkdir()
    assert call("models") == 0
    shown = capsys.readouterr().out
    assert "Random weights" in shown
    assert f"Problem: {work / 'bad'}: {work / 'bad'} is no model" in shown
    assert call("models", "--json") == 0
    listed = {model["name"]: model["problem"] for model in json.loads(capsys.readouterr().out)["models"]}
    assert listed["good"] == ""
    assert "is no model" in listed["bad"]


def test_the_version_is_the_librarys(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        call("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"partialseg {PartialSegLib.__version__}\n"


@pytest.mark.parametrize("command", [*cli.COMMANDS, "train", "phantom", "evaluate", "demo"])
def test_every_command_explains_itself(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        call(command, "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: partialseg {command}")
    assert len(shown.splitlines()) > 5


# ---- commands of other packages


def test_commands_of_other_packages_are_found_by_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def register(subparsers: Any) -> None:
        subparsers.add_parser("greet").set_defaults(run=lambda arguments: 7)

    points = [SimpleNamespace(name="greet", value="other:register", load=lambda: register)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    assert call("greet") == 7


def test_a_broken_package_takes_no_other_command_away(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail() -> None:
        raise ImportError("No module named 'missing'")

    points = [SimpleNamespace(name="broken", value="broken:register", load=fail)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    with pytest.raises(SystemExit):
        call("--help")
    output = capsys.readouterr()
    assert output.err == "partialseg: warning: broken:register cannot be loaded: No module named 'missing'\n"
    assert "segment a CT scan" in output.out


def test_the_librarys_commands_ask_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(group: str) -> None:
        raise AssertionError("entry points were searched")

    monkeypatch.setattr(importlib.metadata, "entry_points", asked)
    assert call("tasks") == 0
