"""The bridge stays light: no torch, no Qt, no dialog, and only what Slicer's process brings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BRIDGE = ROOT / "PartialSegExtension" / "PartialSegSlicer"
#: The bridge is the package itself; what uses it lies in folders below.
FILES = sorted(BRIDGE.glob("*.py"))
#: The rooms of the library that the bridge may enter.
LIGHT = {
    "PartialSegLib",
    "PartialSegLib.atomic",
    "PartialSegLib.errors",
    "PartialSegLib.images",
    "PartialSegLib.segmentation",
    "PartialSegLib.segmentationfiles",
    "PartialSegLib.structures",
}
OUTSIDE = {"numpy", "slicer", "slicer.i18n", "vtk", "vtk.util.numpy_support"}


def modules(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_bridge_imports_only_light_rooms(file: Path) -> None:
    names = {name for name in modules(file) if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in names if not name.startswith("PartialSegSlicer.")} <= LIGHT | OUTSIDE


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_module_of_the_bridge_says_what_it_decides(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_importing_the_bridge_imports_no_torch_and_no_qt() -> None:
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    names = [f"PartialSegSlicer.{file.stem}" for file in FILES if file.stem != "__init__"]
    assert len(names) == 10
    code = (
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(BRIDGE.parent)!r})\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "heavy = {'torch', 'PartialSegTraining', 'PartialSegWorker', 'qt', 'ctk', 'PySide6', 'openvino', 'highdicom'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
