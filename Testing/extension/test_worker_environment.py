"""The environment of a worker: a foreign Python is freed of what Slicer's launcher set, Slicer's own keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from PartialSegWorker.environment import child_environment, package_folders

HOME = os.path.abspath("/opt/Slicer 5.12")
SLICER = {
    "SLICER_HOME": HOME,
    "PYTHONHOME": os.path.join(HOME, "lib", "Python"),
    "PYTHONPATH": os.path.join(HOME, "bin", "Python"),
    "PYTHONNOUSERSITE": "1",
    "PYTHONIOENCODING": "cp1252",
    "PATH": os.pathsep.join((os.path.join(HOME, "bin"), os.path.abspath("/usr/bin"))),
    "LD_LIBRARY_PATH": os.pathsep.join((os.path.join(HOME, "lib"), os.path.join(HOME, "lib", "Python", "lib"))),
    "DYLD_LIBRARY_PATH": os.pathsep.join((os.path.join(HOME, "lib"), HOME + "-old/lib")),
    "HOME": "/home/zoë",
}
OURS = Path(os.path.abspath("/opt/modules"))


@pytest.fixture
def foreign() -> dict[str, str]:
    return child_environment("/home/zoë/env/bin/python", [OURS], SLICER)


def test_a_foreign_python_gets_no_home_and_only_our_modules(foreign: dict[str, str]) -> None:
    assert "PYTHONHOME" not in foreign
    assert "PYTHONNOUSERSITE" not in foreign
    assert foreign["PYTHONPATH"] == str(OURS)


def test_a_foreign_python_gets_no_library_of_slicer(foreign: dict[str, str]) -> None:
    assert "LD_LIBRARY_PATH" not in foreign
    assert foreign["PATH"] == os.path.abspath("/usr/bin")
    # Another folder whose name only begins like Slicer's is none of its own.
    assert foreign["DYLD_LIBRARY_PATH"] == HOME + "-old/lib"


def test_everything_else_stays(foreign: dict[str, str]) -> None:
    assert foreign["HOME"] == SLICER["HOME"]


def test_slicers_own_python_keeps_what_it_needs_to_start() -> None:
    own = child_environment(os.path.join(HOME, "bin", "PythonSlicer"), [OURS], SLICER)
    for name in ("PYTHONHOME", "LD_LIBRARY_PATH", "PATH", "PYTHONNOUSERSITE"):
        assert own[name] == SLICER[name]
    assert own["PYTHONPATH"] == os.pathsep.join((str(OURS), SLICER["PYTHONPATH"]))


@pytest.mark.parametrize("python", ["/usr/bin/python3", os.path.join(HOME, "bin", "PythonSlicer")])
def test_texts_are_utf8_for_every_python(python: str) -> None:
    environment = child_environment(python, [OURS], SLICER)
    assert environment["PYTHONUTF8"] == "1"
    assert "PYTHONIOENCODING" not in environment


def test_this_process_keeps_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLICER.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    child_environment("/usr/bin/python3", [OURS])
    assert dict(os.environ) == before


def test_the_worker_finds_every_package_of_ours() -> None:
    for package in ("PartialSegWorker", "PartialSegLib", "PartialSegTraining"):
        assert any((folder / package / "__init__.py").is_file() for folder in package_folders())
