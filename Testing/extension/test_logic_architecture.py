"""The module's logic stays light too: no torch, no Qt, no dialog, and nothing that Slicer's Python lacks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTENSION = ROOT / "PartialSegExtension"
FILES = sorted((EXTENSION / "PartialSegSlicer" / "logic").glob("*.py"))
OUTSIDE = {"SimpleITK", "numpy", "slicer", "vtk"}
OWN = {"PartialSegLib", "PartialSegSlicer", "PartialSegWorker"}
DIALOGS = ("Display(", "messageBox", "QMessageBox", "QFileDialog", "QInputDialog", "import qt", "import ctk")


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_logic_imports_what_slicer_brings_and_no_panel(file: Path) -> None:
    names = imported(file)
    assert {name.split(".")[0] for name in names} <= OUTSIDE | OWN
    assert not any(name.startswith("PartialSegSlicer.panels") for name in names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_logic_shows_no_dialog_and_says_what_each_file_decides(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not [word for word in DIALOGS if word in text]
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) < 460


def test_the_bridge_does_not_know_the_logic() -> None:
    for file in (EXTENSION / "PartialSegSlicer").glob("*.py"):
        assert not [name for name in imported(file) if name.startswith(("PartialSegSlicer.logic", "PartialSegWorker"))]


def test_importing_the_logic_imports_no_torch_and_nothing_that_slicer_lacks() -> None:
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    code = (
        "import sys\n"
        f"sys.path[:0] = [{str(EXTENSION)!r}, {str(ROOT)!r}]\n"
        "import slicer.util, SimpleITK, numpy, vtk\n"
        "class Refused:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'scipy', 'safetensors', 'cc3d', 'psutil', 'tqdm', 'pydicom',\n"
        "                                  'highdicom', 'qt', 'ctk', 'PySide6', 'PartialSegTraining', 'packaging'}:\n"
        "            raise AssertionError(f'{name} was imported')\n"
        "sys.meta_path.insert(0, Refused())\n"
        "import PartialSegSlicer.logic.headless, PartialSegSlicer.logic.sampledata\n"
        "logic = PartialSegSlicer.logic.headless.HeadlessLogic()\n"
        "assert logic.models()['models'], 'no model'\n"
        "assert 'Worker: not running' in logic.diagnostics()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
