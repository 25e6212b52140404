"""``slicer.app``: the application object, the module manager, and a main window that selects modules."""

# ruff: noqa: N801, N802

from __future__ import annotations

import os
import tempfile
from typing import Any, ClassVar

import vtk
from PySide6 import QtCore, QtGui, QtWidgets

#: The slice views of the layout, and what each shows.
SLICE_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


class ModuleManager(QtCore.QObject):
    """Knows the loaded modules, and says when one is about to go."""

    moduleAboutToBeUnloaded = QtCore.Signal(str)  # noqa: N815
    SIGNALS: ClassVar[dict[str, str]] = {"moduleAboutToBeUnloaded(QString)": "moduleAboutToBeUnloaded"}

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """Return a loaded module, or ``None``."""
        return self.modules.get(name)

    def factoryManager(self) -> ModuleManager:
        """Return what lists the modules."""
        return self

    def loadedModuleNames(self) -> list[str]:
        """Return the names of the loaded modules."""
        return list(self.modules)

    def unloadAll(self) -> None:
        """Unload every module, as Slicer does at its end."""
        for name in list(self.modules):
            self.moduleAboutToBeUnloaded.emit(name)
            self.modules.pop(name).unload()


class ModuleSelector:
    """Shows one module at a time: leaving one and entering the next."""

    def __init__(self, manager: ModuleManager) -> None:
        self._manager = manager
        self.selectedModule = ""
        #: Modules of Slicer itself that were selected, which are not here.
        self.elsewhere: list[str] = []

    def selectModule(self, name: str) -> None:
        """Leave the module that is shown, and enter another."""
        before, module = self._manager.module(self.selectedModule), self._manager.module(name)
        if before is not None and name != self.selectedModule:
            before.leave()
        self.selectedModule = name
        if module is None:
            self.elsewhere.append(name)
        else:
            module.enter()


class MainWindow(QtWidgets.QMainWindow):
    """The main window, which ``slicer.util.mainWindow()`` finds by its name."""

    def __init__(self, manager: ModuleManager) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = ModuleSelector(manager)

    def moduleSelector(self) -> ModuleSelector:
        """Return what selects modules."""
        return self._selector


class LayoutManager:
    """The slice views: real MRML nodes and real logics of slices, without a renderer."""

    def __init__(self, slicer: Any) -> None:
        self._slicer = slicer
        self._logics = vtk.vtkCollection()

    def sliceViewNames(self) -> tuple[str, ...]:
        """Return the names of the slice views."""
        return tuple(SLICE_VIEWS)

    def mrmlSliceLogics(self) -> Any:
        """Return the logics of the slice views."""
        return self._logics

    def addViews(self) -> None:
        """Add the slice views that the layout of Slicer adds to every scene."""
        scene = self._slicer.mrmlScene
        self._slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._logics.RemoveAllItems()
        for name, orientation in SLICE_VIEWS.items():
            logic = self._slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._slicer.modules.application)
            logic.SetMRMLScene(scene)
            node = logic.AddSliceNode(name)
            node.SetOrientation(orientation)
            node.SetDimensions(256, 256, 1)
            self._logics.AddItem(logic)


class qSlicerApplication(QtWidgets.QApplication):
    """The application."""

    startupCompleted = QtCore.Signal()  # noqa: N815
    SIGNALS: ClassVar[dict[str, str]] = {"startupCompleted()": "startupCompleted"}

    def __init__(self, slicer: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-settings-")
        settings = QtCore.QSettings
        settings.setDefaultFormat(settings.Format.IniFormat)
        settings.setPath(settings.Format.IniFormat, settings.Scope.UserScope, self._folder.name)
        super().__init__(["Slicer"])
        self.setApplicationName("Slicer")
        self.setOrganizationName("slicer.org")
        self.setStyle("fusion")
        self.applicationName = "Slicer"
        self.temporaryPath = tempfile.gettempdir()
        self.applicationVersion = "5.12.3"
        self._manager, self._layout = ModuleManager(), LayoutManager(slicer)
        self._window: MainWindow | None = MainWindow(self._manager)
        #: How often somebody asked for a restart.
        self.restarts = 0

    def reset(self) -> None:
        """Forget settings, selection, restarts and the clipboard, and add the slice views to an empty scene."""
        QtCore.QSettings().clear()
        self.restarts = 0
        self.setMainWindow(True)
        self.clipboard().clear()
        self._layout.addViews()

    def setMainWindow(self, present: bool) -> None:
        """Run with a main window, or as ``Slicer --no-main-window`` does."""
        if self._window is not None:
            self._window.deleteLater()
            self._window.setObjectName("")
        self._window = MainWindow(self._manager) if present else None

    def moduleManager(self) -> ModuleManager:
        """Return the module manager."""
        return self._manager

    def layoutManager(self) -> Any:
        """Return the views; ``None`` without a main window."""
        return self._layout if self._window is not None else None

    def testingEnabled(self) -> bool:
        """Whether dialogs are skipped: never, because tests answer them."""
        return False

    def commandOptions(self) -> Any:
        """Return the application's options."""
        return type("Options", (), {"noMainWindow": self._window is None})()

    def userSettings(self) -> Any:
        """Return the settings of the user."""
        return QtCore.QSettings()

    settings = userSettings

    def startupEnvironment(self) -> Any:
        """Return the environment as it was before the launcher changed it."""
        environment = QtCore.QProcessEnvironment()
        for name, value in os.environ.items():
            environment.insert(name, value)
        return environment

    def restart(self) -> None:
        """Do not restart; count it."""
        self.restarts += 1


def start(slicer: Any) -> qSlicerApplication:
    """Make ``slicer.app``."""
    application = qSlicerApplication(slicer)
    slicer.app = application
    font = application.font()
    font.setFamily("DejaVu Sans")
    font.setPointSizeF(9)
    application.setFont(font)
    application.setPalette(_palette())
    return application


def _palette() -> QtGui.QPalette:
    """Return the colors of Slicer's light style."""
    palette = QtGui.QPalette(QtGui.QColor("#f0f0f0"))
    role = QtGui.QPalette.ColorRole
    palette.setColor(role.Base, QtGui.QColor("white"))
    palette.setColor(role.Highlight, QtGui.QColor("#3875d6"))
    palette.setColor(role.HighlightedText, QtGui.QColor("white"))
    return palette
