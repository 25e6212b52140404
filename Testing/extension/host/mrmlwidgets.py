"""The widgets of Slicer that know the scene: ``qMRMLWidget`` and ``qMRMLNodeComboBox``."""

# ruff: noqa: N801, N802, N803, N815

from __future__ import annotations

from typing import Any, ClassVar

from PySide6 import QtCore, QtWidgets
from shiboken6 import isValid


class qMRMLWidget(QtWidgets.QWidget):
    """A widget with a scene, which it passes on by a signal."""

    mrmlSceneChanged = QtCore.Signal(object)
    SIGNALS: ClassVar[dict[str, str]] = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        """Take a scene."""
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene


class qSlicerWidget(qMRMLWidget):
    """What Slicer's own panels derive from."""


def _flag(name: str, default: bool) -> Any:
    def read(self: Any) -> bool:
        return bool(self._flags.get(name, default))

    def write(self: Any, value: bool) -> None:
        self._flags[name] = value
        self._refresh()

    return QtCore.Property(bool, read, write)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Chooses a node of the scene.

    Without "None" in it, the first node that comes is chosen, as in Slicer; a node that goes away is
    replaced by none. Adding a node by hand is :meth:`addNode`; renaming and deleting are left to Slicer.
    """

    currentNodeChanged = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    SIGNALS: ClassVar[dict[str, str]] = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
    }

    noneEnabled = _flag("none", False)
    addEnabled = _flag("add", True)
    removeEnabled = _flag("remove", True)
    renameEnabled = _flag("rename", False)
    editEnabled = _flag("edit", False)
    showHidden = _flag("hidden", False)
    showChildNodeTypes = _flag("children", True)
    selectNodeUponCreation = _flag("select", True)

    def __init__(self, parent: Any = None) -> None:
        self._flags: dict[str, bool] = {}
        self._types: list[str] = []
        self._none, self._base = "None", ""
        self._scene: Any = None
        self._tags: list[int] = []
        self._ids: list[str] = []
        self._current = ""
        super().__init__(parent)
        self._combo = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self.setFocusProxy(self._combo)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._combo.activated.connect(self._chosen)
        self._refresh()

    def _get_types(self) -> list[str]:
        return self._types

    def _set_types(self, types: list[str]) -> None:
        self._types = list(types)
        self._refresh()

    def _get_none(self) -> str:
        return self._none

    def _set_none(self, text: str) -> None:
        self._none = text
        self._refresh()

    def _get_base(self) -> str:
        return self._base

    def _set_base(self, name: str) -> None:
        self._base = name

    nodeTypes = QtCore.Property("QStringList", _get_types, _set_types)
    noneDisplay = QtCore.Property(str, _get_none, _set_none)
    baseName = QtCore.Property(str, _get_base, _set_base)

    @property
    def currentNodeID(self) -> str:
        """ID of the chosen node; empty without one."""
        return self._current

    def setMRMLScene(self, scene: Any) -> None:
        """Take a scene, and follow its nodes."""
        import slicer

        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        kind = slicer.vtkMRMLScene
        for event in (kind.NodeAddedEvent, kind.NodeRemovedEvent, kind.EndCloseEvent, kind.EndBatchProcessEvent):
            if scene is not None:
                self._tags.append(scene.AddObserver(event, self._scene_changed))
        self._refresh()

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    def currentNode(self) -> Any:
        """Return the chosen node, or ``None``."""
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        """Choose a node, or none."""
        self.setCurrentNodeID("" if node is None else node.GetID())

    def setCurrentNodeID(self, identifier: str | None) -> None:
        """Choose a node by its ID."""
        identifier = identifier or ""
        if identifier and identifier not in self._ids:
            return
        if identifier != self._current:
            self._current = identifier
            self._refresh()
            self.currentNodeChanged.emit(self.currentNode())

    def addNode(self, nodeType: str = "") -> Any:
        """Add a node as the entry "Create new ..." does, and choose it."""
        node = self._scene.AddNewNodeByClass(nodeType or self._types[0], self._base)
        self.nodeAddedByUser.emit(node)
        self.setCurrentNode(node)
        return node

    def nodeCount(self) -> int:
        """Return the number of nodes to choose from."""
        return len(self._ids)

    def _scene_changed(self, *_: Any) -> None:
        if not isValid(self._combo):
            # Qt has deleted the widget: what is left of it follows no scene.
            for tag in self._tags:
                self._scene.RemoveObserver(tag)
            self._tags = []
        elif not self._scene.IsClosing() and not self._scene.IsBatchProcessing():
            self._refresh()

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        every = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        mine = [node for node in every if any(self._fits(node, kind) for kind in self._types)]
        return [node for node in mine if self._flags.get("hidden") or not node.GetHideFromEditors()]

    def _fits(self, node: Any, kind: str) -> bool:
        if self._flags.get("children", True):
            return bool(node.IsA(kind))
        return bool(node.GetClassName() == kind)

    def _refresh(self) -> None:
        if not hasattr(self, "_combo"):
            return
        before = self._current
        nodes = self._nodes()
        self._ids = [node.GetID() for node in nodes]
        none = self._flags.get("none", False)
        if self._current not in self._ids:
            self._current = "" if none or not self._ids else self._ids[0]
        self._combo.clear()
        if none or not self._current:
            self._combo.addItem(self._none if none else "", "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        self._combo.setCurrentIndex(max(0, self._combo.findData(self._current)))
        if before != self._current:
            self.currentNodeChanged.emit(self.currentNode())

    def _chosen(self, index: int) -> None:
        self.setCurrentNodeID(self._combo.itemData(index))
