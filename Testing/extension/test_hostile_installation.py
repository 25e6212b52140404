"""Installations as users have them: half a torch, no memory, another Python: the cause is said, and a repair helps."""

from __future__ import annotations

import shutil
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from logic_cases import TASKS

from PartialSegSlicer.logic.errors import ConsentError, SetupError
from PartialSegSlicer.logic.setup import REQUIREMENTS
from PartialSegWorker.environment import package_folders
from PartialSegWorker.errors import WorkerError
from PartialSegWorker.installation import read_requirements
from slicer_scene import SlicerScene


def broken_package(folder: Path, name: str, code: str) -> Path:
    """Put a package before the installed ones."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code, encoding="utf-8")
    return folder


def worker_finds_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker's Python look for packages in a folder before all others."""
    for module in ("PartialSegWorker.client", "PartialSegSlicer.logic.setup"):
        monkeypatch.setattr(f"{module}.package_folders", lambda: (folder, *package_folders()))


def test_too_little_memory_is_refused_with_numbers_and_what_to_do(
    own_logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    # The worker is a real process; only what the system says of its free memory is made up.
    (tmp_path / "sitecustomize.py").write_text(
        "import psutil\n"
        "real = psutil.virtual_memory\n"
        "psutil.virtual_memory = lambda: real()._replace(available=100_000)\n"
    )
    worker_finds_first(tmp_path, monkeypatch)
    with pytest.raises(WorkerError) as raised:
        own_logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu")
    assert raised.value.code == "memory"
    assert any(letter.isdigit() for letter in raised.value.message)
    assert raised.value.hint
    assert slicer_scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("torch", "raise OSError('[WinError 206] The filename or extension is too long')"),
        ("torch", "from torch._C import nothing_here"),
        ("safetensors", "raise AttributeError(\"module 'numpy' has no attribute 'bool'\")"),
    ],
    ids=["half-installed torch", "torch without its core", "package for another NumPy"],
)
def test_a_broken_package_is_named_by_the_run_and_by_the_setup(
    own_logic: Any, volume: Any, random_model: Path, tmp_path: Path, monkeypatch: Any, name: str, code: str
) -> None:
    worker_finds_first(broken_package(tmp_path / "broken", name, code), monkeypatch)
    with pytest.raises(WorkerError) as raised:
        own_logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu")
    assert raised.value.code == "installation"
    state = own_logic.setupState()
    assert not state.ready
    assert f"{name} (cannot be loaded" in state.sentence
    assert [item.split(">")[0] for item in state.missing] == [name]
    with pytest.raises(ConsentError, match="Nothing was installed"):
        own_logic.repair()
    shutil.rmtree(tmp_path / "broken")
    # As after a repair: the next run finds a worker that works.
    assert own_logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu").structures


def test_a_package_that_crashes_as_it_is_loaded_is_named(own_logic: Any, tmp_path: Path, monkeypatch: Any) -> None:
    worker_finds_first(broken_package(tmp_path, "scipy", "import os\nos._exit(3)"), monkeypatch)
    state = own_logic.setupState()
    assert "scipy (crashes as it is loaded (exit status 3))" in state.sentence
    assert state.missing[0].startswith("scipy")


def test_another_python_without_packages_is_told_the_command_that_installs_them(
    own_logic: Any, volume: Any, tmp_path: Path
) -> None:
    venv.create(tmp_path / "environment", with_pip=False, symlinks=True)
    python = tmp_path / "environment" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    own_logic.setPython(python)
    state = own_logic.setupState()
    assert "torch (not installed)" in state.sentence
    assert state.python == str(python)
    assert not state.own
    assert state.command.startswith(f'"{python}" -m pip install')
    assert '"torch>=2.6' in state.command
    with pytest.raises(SetupError, match="not Slicer's own"):
        own_logic.repair(consent=True)
    with pytest.raises(WorkerError) as raised:
        own_logic.segment(volume, tasks=["liver"])
    assert raised.value.code == "installation"
    assert "'numpy' cannot be loaded" in raised.value.message


def test_a_program_that_is_no_python_is_said_by_the_setup(own_logic: Any, tmp_path: Path) -> None:
    program = tmp_path / "no-python"
    program.write_text("#!/bin/sh\necho it is something else >&2\nexit 1\n")
    program.chmod(0o755)
    own_logic.setPython(program)
    state = own_logic.setupState()
    assert "does not start: it is something else" in state.sentence
    assert "Slicer's own" in state.hint


def test_every_requirement_is_looked_at_and_the_python_of_these_tests_has_them(own_logic: Any) -> None:
    state = own_logic.setupState()
    assert state.ready, state.sentence
    assert state.hint == ""
    wanted = read_requirements(REQUIREMENTS.read_text(encoding="utf-8"))
    assert [package.requirement for package in state.packages] == wanted
    assert all(package.version for package in state.packages)
