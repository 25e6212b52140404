"""What Slicer's application gives a module and ``slicer-core`` lacks, on PySide6, without a screen.

``slicer-core`` brings MRML, the logics of Slicer's modules and ``slicer.util``: those are real here.
This package adds the rest in its documented behavior, so that the module's own widget class runs in
a test, every control can be clicked, and pictures can be taken:

=====================================  ===========================================================
Here                                   stands in for
=====================================  ===========================================================
:mod:`host.pythonqt`, :mod:`host.qt`   PythonQt: ``qt``, properties as attributes, ``connect("clicked()", f)``
:mod:`host.dialogs`                    a person who answers dialogs
:mod:`host.ctkwidgets`                 ``ctk``: the two widgets that the panel uses
:mod:`host.mrmlwidgets`                ``slicer.qMRMLWidget``, ``slicer.qMRMLNodeComboBox``
:mod:`host.application`                ``slicer.app``, the main window, the module selector
:mod:`host.modules`                    how Slicer loads, shows, reloads and unloads a scripted module
:mod:`host.scripted`                   ``slicer.ScriptedLoadableModule``
:mod:`host.parameternode`              ``slicer.parameterNodeWrapper``
:mod:`host.packaging`                  ``slicer.packaging``, ``slicer.i18n``: what was asked, installed or translated
=====================================  ===========================================================

It is small on purpose: what the module does not use is missing, and a test that needs it fails
loudly. The real application remains the reference: where this differs from Slicer, this is wrong.
The fixture ``slicer_app`` (in ``conftest.py``) starts it once a process, and empties it before each test.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from slicer_scene import SlicerScene
from slicer_scene import start as start_scene

#: The folder that Slicer would find the module in.
EXTENSION = Path(__file__).resolve().parents[3] / "PartialSegExtension"


@dataclass(frozen=True)
class Host:
    """The running stand-in, and what tests do with it.

    Parameters
    ----------
    mrml : SlicerScene
        The real scene, and the ``slicer`` package.
    app : host.application.qSlicerApplication
        ``slicer.app``.
    dialogs : host.dialogs.Dialogs
        What was asked, and the answers that a test gives.
    packages : host.packaging.Packages
        What was installed, and what texts were translated.
    """

    mrml: SlicerScene
    app: Any
    dialogs: Any
    packages: Any

    @property
    def slicer(self) -> Any:
        """The ``slicer`` package."""
        return self.mrml.slicer

    def load(self, name: str = "PartialSeg") -> Any:
        """Load a scripted module of the extension as Slicer does at its start; return the module."""
        from host.modules import load

        return load(EXTENSION / f"{name}.py")

    def widget(self, name: str = "PartialSeg") -> Any:
        """Load a module, open its panel as a user does, and return the Python widget."""
        self.load(name)
        self.slicer.util.selectModule(name)
        return getattr(self.slicer.modules, f"{name}Widget")

    def process(self, times: int = 3) -> None:
        """Let Qt handle what is waiting."""
        for _ in range(times):
            self.app.processEvents()

    def reset(self) -> None:
        """Unload the modules, empty the scene, and forget dialogs, packages and settings."""
        from host.modules import SegmentEditor

        self.app.moduleManager().unloadAll()
        self.app.moduleManager().modules["SegmentEditor"] = SegmentEditor()
        self.mrml.scene.Clear(0)
        self.dialogs.reset()
        self.packages.reset()
        self.app.reset()


@cache
def start() -> Host:
    """Start MRML and everything around it, once per process."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    mrml = start_scene()
    from host import application, ctkwidgets, dialogs, mrmlwidgets, packaging, parameternode, pythonqt, qt, scripted

    pythonqt.install()
    sys.modules["qt"], sys.modules["ctk"] = qt.module(), ctkwidgets.module()
    slicer = mrml.slicer
    for name in ("qMRMLWidget", "qMRMLNodeComboBox"):
        setattr(slicer, name, getattr(mrmlwidgets, name))
    packages = packaging.Packages()
    for name, module in {
        "i18n": packaging.i18n(packages),
        "packaging": packaging.packaging(packages),
        "parameterNodeWrapper": parameternode,
        "ScriptedLoadableModule": scripted,
    }.items():
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    sys.modules["SampleData"] = packaging.sample_data(packages)
    if not hasattr(slicer, "modules"):
        slicer.modules = types.SimpleNamespace()
    app = application.start(slicer)
    return Host(mrml, app, dialogs.DIALOGS, packages)


@pytest.fixture
def slicer_app() -> Iterator[Host]:
    """The stand-in for Slicer's application: no module loaded, an empty scene, nobody asked anything."""
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    pytest.importorskip("PySide6", reason="PySide6 is not installed")
    host = start()
    host.reset()
    yield host
    host.reset()
