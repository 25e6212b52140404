"""The module ``qt`` as PythonQt has it: everything of QtCore, QtGui and QtWidgets in one place."""

# ruff: noqa: N802

from __future__ import annotations

import types
import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from host import ctkwidgets, mrmlwidgets
from host.dialogs import DIALOGS, MessageBox, Shown


class QUiLoader(QtUiTools.QUiLoader):
    """Reads ``.ui`` files with the widgets of Slicer in them, and makes the connections that they list."""

    def load(self, file: Any, parent: Any = None) -> Any:
        """Return the widget of an open file; its texts go through the translation, as in Slicer."""
        tree = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = tree.find("connections")
        wanted = [] if connections is None else list(connections)
        if connections is not None:
            tree.remove(connections)
        _translate(tree)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget: Any = super().load(buffer, parent)
        for connection in wanted:
            _make(widget, connection)
        return widget

    def createWidget(self, name: str, parent: Any = None, object_name: str = "") -> Any:
        """Make one widget."""
        kind = getattr(ctkwidgets, name, None) or getattr(mrmlwidgets, name, None)
        if kind is None:
            return super().createWidget(name, parent, object_name)
        widget = kind(parent)
        widget.setObjectName(object_name)
        return widget


def _translate(tree: Any) -> None:
    import slicer

    for text in tree.iter("string"):
        if text.text and text.get("notr") != "true":
            text.text = slicer.i18n.tr(text.text)


def _make(widget: Any, connection: Any) -> None:
    """Make a connection of a ``.ui`` file: signature to method of the same arguments."""
    sender, signal, receiver, slot = (connection.findtext(tag) for tag in ("sender", "signal", "receiver", "slot"))
    by_name = {child.objectName: child for child in [widget, *widget.findChildren(QtCore.QObject)]}
    by_name[sender].connect(signal, getattr(by_name[receiver], slot.partition("(")[0]))


class QFileDialog(QtWidgets.QFileDialog):
    """File dialogs that a test answers; as in PythonQt they return the path alone."""

    @staticmethod
    def getOpenFileName(parent: Any = None, caption: str = "", *_: Any) -> str:
        return str(DIALOGS.ask(Shown("open file", caption)))

    @staticmethod
    def getExistingDirectory(parent: Any = None, caption: str = "", *_: Any) -> str:
        return str(DIALOGS.ask(Shown("open folder", caption)))

    @staticmethod
    def getSaveFileName(parent: Any = None, caption: str = "", *_: Any) -> str:
        return str(DIALOGS.ask(Shown("save file", caption)))


class QInputDialog(QtWidgets.QInputDialog):
    """Questions for a text that a test answers; an empty text is "Cancel"."""

    @staticmethod
    def getText(parent: Any, title: str, label: str, *_: Any) -> str:
        return str(DIALOGS.ask(Shown("text", label, title)))


class QDesktopServices:
    """Opens nothing; keeps what was to be opened."""

    @staticmethod
    def openUrl(url: Any) -> bool:
        DIALOGS.opened.append(url.toString())
        return True


def module() -> types.ModuleType:
    """Return the module ``qt``."""
    found = types.ModuleType("qt", __doc__)
    for part in (QtCore, QtGui, QtWidgets):
        vars(found).update({name: getattr(part, name) for name in dir(part) if not name.startswith("_")})
    for item in (QUiLoader, QFileDialog, QInputDialog, QDesktopServices):
        setattr(found, item.__name__, item)
    vars(found)["QMessageBox"] = MessageBox
    return found
