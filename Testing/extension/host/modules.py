"""How Slicer treats a scripted module: load the file, show its panel, reload it, unload it."""

# ruff: noqa: N801, N802

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from PySide6 import QtWidgets

from host.mrmlwidgets import qMRMLWidget


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The widget around a module's panel; it holds the Python object of the module's widget class."""

    def __init__(self, module: qSlicerScriptedLoadableModule) -> None:
        super().__init__()
        self._module = module
        self._python: Any = None
        #: Whether the user is in the module.
        self.isEntered = False
        QtWidgets.QVBoxLayout(self)

    def self(self) -> Any:
        """Return the Python object."""
        return self._python

    def reload(self) -> None:
        """Make the Python object from what the module's file is now, and let it build its panel."""
        import slicer

        name = self._module.name
        self._python = getattr(sys.modules[name], f"{name}Widget")(self)
        setattr(slicer.modules, f"{name}Widget", self._python)
        self._python.setup()


class qSlicerScriptedLoadableModule:
    """A loaded module. It is the ``parent`` of the module's Python class, which writes its texts to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = str(path), path.stem
        self.title, self.helpText, self.acknowledgementText = "", "", ""
        self.categories: list[str] = []
        self.contributors: list[str] = []
        self.dependencies: list[str] = []
        self.hidden = False
        self.widget: qSlicerScriptedLoadableModuleWidget | None = None
        self._instance: Any = None

    def start(self) -> None:
        """Import the file and make the module's Python class; then Slicer says that it has started."""
        import slicer

        folder = str(Path(self.path).parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = module
        spec.loader.exec_module(module)
        self._instance = getattr(module, self.name)(self)
        setattr(slicer.modules, self.name.lower(), self)
        setattr(slicer.modules, f"{self.name}Instance", self._instance)
        slicer.app.startupCompleted.emit()

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        """Return the panel, made when it is asked for first."""
        import slicer

        if self.widget is None:
            self.widget = qSlicerScriptedLoadableModuleWidget(self)
            self.widget.setMRMLScene(slicer.mrmlScene)
            self.widget.reload()
        return self.widget

    def enter(self) -> None:
        """Show the panel."""
        python = self.widgetRepresentation().self()
        self.widgetRepresentation().show()
        self.widgetRepresentation().isEntered = True
        if hasattr(python, "enter"):
            python.enter()

    def leave(self) -> None:
        """Hide the panel."""
        python = self.widgetRepresentation().self()
        self.widgetRepresentation().hide()
        self.widgetRepresentation().isEntered = False
        if hasattr(python, "exit"):
            python.exit()

    def unload(self) -> None:
        """Delete the panel, and forget the module."""
        import slicer

        if self.widget is not None:
            self.widget.hide()
            self.widget.deleteLater()
            delattr(slicer.modules, f"{self.name}Widget")
        for name in (self.name.lower(), f"{self.name}Instance"):
            delattr(slicer.modules, name)
        sys.modules.pop(self.name, None)


def load(path: Path) -> qSlicerScriptedLoadableModule:
    """Load a module, unless it is loaded."""
    import slicer

    slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
    manager = slicer.app.moduleManager()
    if path.stem not in manager.modules:
        module = qSlicerScriptedLoadableModule(path)
        module.start()
        manager.modules[path.stem] = module
    found: qSlicerScriptedLoadableModule = manager.modules[path.stem]
    return found


class SegmentEditor:
    """Slicer's module Segment Editor, as far as other modules use it: it keeps what it was told to edit."""

    name = "SegmentEditor"

    def __init__(self) -> None:
        self.editor = self
        self.segmentation: Any = None
        self.volume: Any = None
        self.segment = ""

    def widgetRepresentation(self) -> SegmentEditor:
        """Return the panel, whose attribute ``editor`` is the editor."""
        return self

    def setSegmentationNode(self, node: Any) -> None:
        """Edit a segmentation."""
        self.segmentation = node

    def setSourceVolumeNode(self, node: Any) -> None:
        """Edit on a volume."""
        self.volume = node

    def setCurrentSegmentID(self, segment: str) -> None:
        """Edit one segment."""
        self.segment = segment

    def enter(self) -> None:
        """Show the panel; there is none here."""

    def leave(self) -> None:
        """Hide the panel."""

    def unload(self) -> None:
        """Forget the module."""
