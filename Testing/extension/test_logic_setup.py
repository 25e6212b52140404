"""Installing what is missing: by the means that Slicer has, after consent, and with the reason where it fails.

That the worker's Python is asked, and what it says, is tested in ``test_hostile_files.py``. Nothing is
installed here: pip and the extension PyTorch are stand-ins, which note what they are asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
from host import Host

from PartialSegSlicer.logic import setup
from PartialSegSlicer.logic.errors import SettingError, SetupError
from PartialSegSlicer.logic.headless import HeadlessLogic
from PartialSegSlicer.logic.interpreter import ownPython
from PartialSegSlicer.logic.setup import REQUIREMENTS, PackageState, SetupState, install

TORCH = "torch>=2.6,!=2.9.*"
GOOD = PackageState("numpy", "numpy>=2.0", "2.1.0", "")
MISSING = PackageState("scipy", "scipy>=1.13", "", "not installed")
DAMAGED = PackageState("safetensors", "safetensors>=0.5", "0.5.2", "cannot be loaded: OSError: no such DLL")
NO_TORCH = PackageState("torch", TORCH, "", "not installed")
HALF_TORCH = PackageState("torch", TORCH, "2.6.0", "cannot be loaded: OSError: WinError 206")


def state(*packages: PackageState, own: bool = True) -> SetupState:
    return SetupState("/opt/Slicer/bin/PythonSlicer", own, "3.12.10", packages)


@pytest.fixture(autouse=True)
def _no_torch_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Slicer: these tests share a process with others that compute."""
    monkeypatch.setattr(setup, "_loaded", lambda name: False)


@pytest.fixture
def torch_requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the extension PyTorch is asked to install."""
    asked: list[dict[str, Any]] = []

    class Logic:
        def installTorch(self, **wanted: Any) -> str:  # noqa: N802
            asked.append(wanted)
            return "torch"

    module = types.ModuleType("PyTorchUtils")
    vars(module)["PyTorchUtilsLogic"] = Logic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    return asked


def test_only_what_is_missing_is_installed_and_torch_by_the_extension_of_that_name(
    slicer_app: Host, torch_requests: list[dict[str, Any]]
) -> None:
    lines: list[str] = []
    install(state(GOOD, MISSING, NO_TORCH), lines.append)
    assert slicer_app.packages.installed == ["scipy>=1.13"]
    assert torch_requests == [{"askConfirmation": False, "torchVersionRequirement": ">=2.6,!=2.9.*"}]
    assert [line.split()[1] for line in lines] == ["scipy>=1.13", TORCH]


def test_a_package_that_is_there_and_does_not_load_is_installed_anew(slicer_app: Host) -> None:
    install(state(GOOD, DAMAGED))
    assert slicer_app.packages.installed == ["--force-reinstall", "--no-deps", "safetensors>=0.5", "safetensors>=0.5"]


def test_the_remains_of_a_half_installed_torch_are_removed_first(
    slicer_app: Host, torch_requests: list[dict[str, Any]]
) -> None:
    install(state(GOOD, HALF_TORCH))
    assert slicer_app.packages.uninstalled == ["torch torchvision"]
    assert len(torch_requests) == 1


def test_a_torch_that_slicer_has_loaded_is_replaced_after_a_restart_only(
    slicer_app: Host, torch_requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_loaded", lambda name: name == "torch")
    with pytest.raises(SetupError) as raised:
        install(state(MISSING, HALF_TORCH))
    assert "Restart Slicer" in raised.value.hint
    assert (slicer_app.packages.installed, slicer_app.packages.uninstalled, torch_requests) == ([], [], [])
    # Other packages have nothing to do with it.
    install(state(MISSING))
    assert slicer_app.packages.installed == ["scipy>=1.13"]


def test_without_the_extension_pytorch_its_place_is_said(slicer_app: Host) -> None:
    with pytest.raises(SetupError) as raised:
        install(state(GOOD, NO_TORCH))
    assert "Extensions Manager" in raised.value.hint
    assert slicer_app.packages.installed == []


def test_an_older_slicer_without_its_packaging_module_uses_what_it_has(
    slicer_app: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer_app.slicer.util, "pip_install", asked.append)
    install(state(MISSING))
    assert asked == [["scipy>=1.13"]]


@pytest.mark.parametrize(
    "failure",
    [subprocess.CalledProcessError(1, "pip"), RuntimeError("No space left on device"), OSError("proxy")],
    ids=["pip", "disk", "proxy"],
)
def test_an_installation_that_fails_says_why_and_what_to_check(slicer_app: Host, failure: Exception) -> None:
    slicer_app.packages.failure = failure
    with pytest.raises(SetupError) as raised:
        install(state(MISSING))
    assert str(failure) in raised.value.message
    assert "proxy" in raised.value.hint


def test_a_python_that_is_not_slicers_is_never_installed_into(slicer_app: Host) -> None:
    other = state(MISSING, NO_TORCH, own=False)
    with pytest.raises(SetupError):
        install(other)
    assert slicer_app.packages.installed == []
    assert other.command == f'"/opt/Slicer/bin/PythonSlicer" -m pip install "scipy>=1.13" "{TORCH}"'
    assert other.command in other.hint


def test_the_worker_runs_in_slicers_python_and_not_in_the_application_itself(
    slicer_app: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / name).touch()
    monkeypatch.setattr(slicer_app.slicer, "app", types.SimpleNamespace(slicerHome=str(tmp_path)))
    assert ownPython() == str(tmp_path / "bin" / name)


def test_the_choice_of_another_python_belongs_to_the_computer_and_can_be_taken_back(
    slicer_app: Host, tmp_path: Path
) -> None:
    first = HeadlessLogic()
    assert first.interpreter.own
    first.setPython(sys.executable)
    assert HeadlessLogic().python == sys.executable
    assert not HeadlessLogic().interpreter.own
    first.setPython()
    assert HeadlessLogic().interpreter.own
    with pytest.raises(SettingError, match="is no program"):
        first.setPython(tmp_path / "missing" / "python")
    assert HeadlessLogic().interpreter.own


def test_a_state_says_what_is_missing_in_one_sentence() -> None:
    assert state(GOOD, MISSING, HALF_TORCH).missing == ("scipy>=1.13", TORCH)
    sentence = state(GOOD, MISSING, HALF_TORCH).sentence
    assert "scipy (not installed)" in sentence
    assert "torch (cannot be loaded" in sentence
    good = state(GOOD, PackageState("torch", TORCH, "2.8.0", ""))
    assert good.ready
    assert "PyTorch 2.8.0" in good.sentence


def test_the_requirements_of_the_module_are_those_of_the_library() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    assert sorted(line for line in lines if line) == sorted(project["dependencies"])
