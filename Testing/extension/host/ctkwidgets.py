"""The module ``ctk``: the widgets of the Common Toolkit that Slicer's panels use."""

# ruff: noqa: N801, N802

from __future__ import annotations

import types
from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets

from host.dialogs import MessageBox

#: Height of the bar that shows a section's title, and the room around it, in pixels.
_BAR = 26


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A section with a title that can be closed: what is in it is hidden then."""

    contentsCollapsed = QtCore.Signal(bool)  # noqa: N815
    SIGNALS: ClassVar[dict[str, str]] = {"contentsCollapsed(bool)": "contentsCollapsed"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed, self._hidden = "", False, []  # type: ignore[var-annotated]
        self.setContentsMargins(0, _BAR, 0, 0)
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)

    def _get_text(self) -> str:
        return self._text

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._show(not collapsed)
        self.contentsCollapsed.emit(collapsed)

    text = QtCore.Property(str, _get_text, _set_text)
    collapsed = QtCore.Property(bool, _get_collapsed, _set_collapsed)

    def _show(self, shown: bool) -> None:
        """Hide the contents, or show again those that were not hidden before."""
        if shown:
            for child in self._hidden:
                child.setVisible(True)
            self._hidden = []
        else:
            children = self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly)
            self._hidden = [child for child in children if not child.isHidden()]
            for child in self._hidden:
                child.setVisible(False)
        self.setMaximumHeight(16777215 if shown else _BAR)
        self.updateGeometry()

    def mousePressEvent(self, event: Any) -> None:
        if event.position().y() < _BAR:
            self._set_collapsed(not self._collapsed)

    def keyPressEvent(self, event: Any) -> None:
        if event.key() in (QtCore.Qt.Key.Key_Space, QtCore.Qt.Key.Key_Return):
            self._set_collapsed(not self._collapsed)

    def minimumSizeHint(self) -> QtCore.QSize:
        hint = super().minimumSizeHint()
        return QtCore.QSize(0 if self._collapsed else hint.width(), max(hint.height(), _BAR))

    def sizeHint(self) -> QtCore.QSize:
        hint = super().sizeHint()
        return QtCore.QSize(hint.width(), max(hint.height(), _BAR))

    def paintEvent(self, event: Any) -> None:
        """Draw the bar as Slicer does: an arrow and the title on a raised strip."""
        painter = QtGui.QPainter(self)
        bar = QtCore.QRect(0, 0, QtWidgets.QWidget.width.fget(self), _BAR - 2)  # type: ignore[attr-defined]
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = bar
        style = QtWidgets.QApplication.style()
        style.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(7, 7, 10, 10)
        element = QtWidgets.QStyle.PrimitiveElement
        kind = element.PE_IndicatorArrowRight if self._collapsed else element.PE_IndicatorArrowDown
        style.drawPrimitive(kind, arrow, painter, self)
        painter.drawText(
            bar.adjusted(24, 0, -4, 0),
            QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.TextFlag.TextShowMnemonic,
            self._text,
        )
        painter.end()


class ctkMessageBox(MessageBox):
    """The message box of ``slicer.util``."""


def module() -> types.ModuleType:
    """Return the module ``ctk``."""
    found = types.ModuleType("ctk", __doc__)
    vars(found).update(ctkCollapsibleButton=ctkCollapsibleButton, ctkMessageBox=ctkMessageBox)
    return found
