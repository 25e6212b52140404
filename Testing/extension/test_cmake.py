"""Slicer's build gets every file: CMake itself configures the extension, with stand-ins for Slicer's macros."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "PartialSegExtension"

#: What Slicer's package gives, as far as the extension calls it: each macro notes what it was called with.
SLICER = r"""
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(BUILD_TESTING ON)
set(Slicer_FOUND TRUE)
"""
USE = r"""
function(note kind)
  file(APPEND ${CMAKE_BINARY_DIR}/calls.txt "${kind}|${CMAKE_CURRENT_SOURCE_DIR}|${ARGN}\n")
endfunction()
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  note(module_scripts ${MY_SCRIPTS})
  note(module_resources ${MY_RESOURCES})
endmacro()
macro(ctkMacroCompilePythonScript)
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR" "TARGET_NAME;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  note(${MY_TARGET_NAME} ${MY_SCRIPTS} ${MY_RESOURCES})
  note(destination ${MY_DESTINATION_DIR})
endmacro()
macro(slicer_add_python_unittest)
  note(test ${ARGN})
endmacro()
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[str]]]:
    """What the extension's CMake files called: the folder and the arguments of each."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("CMake is not installed")
    folder = tmp_path_factory.mktemp("cmake")
    package, build = folder / "slicer", folder / "build"
    package.mkdir()
    for name, text in {"SlicerConfig.cmake": SLICER, "use.cmake": USE, "nothing.cmake": ""}.items():
        (package / name).write_text(text, encoding="utf-8")
    command = [cmake, "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={package}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in (build / "calls.txt").read_text(encoding="utf-8").splitlines():
        kind, place, arguments = line.split("|")
        found[kind] = (Path(place), arguments.split(";"))
    return found


def tracked(folder: Path, *patterns: str) -> set[str]:
    """Return the files below a folder that git knows or would take, relative to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split("\n")
    return {name for name in listed if name and (folder / name).is_file()}


def test_every_script_of_the_module_is_listed(calls: dict[str, tuple[Path, list[str]]]) -> None:
    _, listed = calls["module_scripts"]
    there = tracked(EXTENSION, "*.py")
    assert sorted(set(listed) - there) == [], "listed in PartialSegExtension/CMakeLists.txt, and not there"
    assert sorted(there - set(listed)) == [], "add these to MODULE_PYTHON_SCRIPTS in PartialSegExtension/CMakeLists.txt"
    assert len(listed) == len(set(listed))


def test_every_resource_of_the_module_is_listed(calls: dict[str, tuple[Path, list[str]]]) -> None:
    _, listed = calls["module_resources"]
    there = {name for name in tracked(EXTENSION) if not name.endswith((".py", "CMakeLists.txt"))}
    assert sorted(set(listed)) == sorted(there), "mend MODULE_PYTHON_RESOURCES in PartialSegExtension/CMakeLists.txt"


@pytest.mark.parametrize(("package", "parent"), [("PartialSegLib", ROOT), ("PartialSegTraining", ROOT / "Training")])
def test_the_libraries_go_beside_the_module_with_all_their_files(
    calls: dict[str, tuple[Path, list[str]]], package: str, parent: Path
) -> None:
    folder, listed = calls[package]
    assert folder == parent
    # Compiled files of this checkout are no part of the package.
    placed = {name for name in listed if "__pycache__" not in name}
    assert placed == tracked(parent, package)
    assert calls["destination"][1][0].endswith("lib/qt-scripted-modules")


def test_the_self_test_of_the_module_is_registered(calls: dict[str, tuple[Path, list[str]]]) -> None:
    assert calls["test"][1] == ["SCRIPT", "PartialSeg.py"]


def test_what_the_extensions_index_reads_stands_on_one_line_each() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("CONTRIBUTORS", "DESCRIPTION", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{name} "[^"\n]+"\)$', text, re.MULTILINE), name
    assert re.search(r"^project\(PartialSeg\)$", text, re.MULTILINE)
