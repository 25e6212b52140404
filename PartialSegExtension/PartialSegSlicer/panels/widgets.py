"""Small things that several sections do with Qt's widgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import qt  # type: ignore[import-not-found]

from PartialSegLib.progress import Progress
from PartialSegSlicer.panels.texts import progressText

#: Side of a color swatch, in pixels.
_SWATCH = 12
#: Room beside the text of a label, in pixels.
_MARGIN = 6
#: Room above and below the text of a row, in pixels.
_ROW_MARGIN = 8


@contextmanager
def silent(widget: Any) -> Iterator[None]:
    """Change a widget without its signals: nobody has chosen anything."""
    before = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(before)


def fill(combo: Any, entries: Iterable[tuple[str, str]], chosen: str) -> None:
    """Fill a combo box with (text, value), and choose a value; the first one when it is not there."""
    with silent(combo):
        combo.clear()
        for text, value in entries:
            combo.addItem(text, value)
        combo.setCurrentIndex(max(0, combo.findData(chosen)))


def chosenOf(combo: Any) -> str:
    """Return the value that is chosen in a combo box; empty for none."""
    return str(combo.itemData(combo.currentIndex) or "") if combo.currentIndex >= 0 else ""


def swatch(color: Sequence[int]) -> Any:
    """Return an icon of one color (red, green, blue: 0 to 255)."""
    pixmap = qt.QPixmap(_SWATCH, _SWATCH)
    pixmap.fill(qt.QColor(*(int(part) for part in color)))
    return qt.QIcon(pixmap)


def cell(text: str, *, right: bool = False, tip: str = "", data: Any = None) -> Any:
    """Return an entry of a table."""
    item = qt.QTableWidgetItem(text)
    item.setToolTip(tip)
    if right:
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    if data is not None:
        item.setData(qt.Qt.UserRole, data)
    return item


def stretchFirst(table: Any) -> None:
    """Give the first column of a table or tree the room that the others leave."""
    header = table.header() if hasattr(table, "header") else table.horizontalHeader()
    header.setStretchLastSection(False)
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    header.setMinimumSectionSize(24)


def fitRows(table: Any, fewest: int, most: int) -> None:
    """Make a table as high as its rows, within limits: an empty one takes little room."""
    rows = table.rowCount
    one = table.rowHeight(0) if rows else table.verticalHeader().defaultSectionSize
    shown = min(max(rows, fewest), most)
    table.setFixedHeight(table.horizontalHeader().height + shown * one + 2 * table.frameWidth)


def plainTable(table: Any) -> None:
    """Give a table rows of one line each, and its first column the room that the others leave."""
    stretchFirst(table)
    rows = table.verticalHeader()
    rows.setSectionResizeMode(qt.QHeaderView.Fixed)
    rows.setDefaultSectionSize(table.fontMetrics().height() + _ROW_MARGIN)


def alignLabels(labels: Iterable[Any]) -> None:
    """Give labels the width of the widest, so that the fields of all sections begin at one line."""
    labels = list(labels)
    widest = max(label.fontMetrics().boundingRect(label.text).width() for label in labels) + _MARGIN
    for label in labels:
        label.setMinimumWidth(widest)


def showLine(label: Any, text: str) -> None:
    """Show a line of text; an empty one takes no room."""
    label.setText(text)
    label.setVisible(bool(text))


def showProgress(bar: Any, line: Any, progress: Progress | None) -> None:
    """Show progress in a bar and its line; hide both without any, and show a bar without end for an unknown total."""
    bar.setVisible(progress is not None)
    line.setVisible(progress is not None)
    if progress is None:
        return
    bar.setRange(0, progress.total if progress.total > 1 else 0)
    bar.setValue(progress.done)
    line.setText(progressText(progress))


def setTone(frame: Any, color: str) -> None:
    """Give a frame a colored edge and a hint of the color, which reads in light and dark styles."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    frame.setStyleSheet(
        f"QFrame#{frame.objectName} {{ border: none; border-left: 3px solid {color}; "
        f"background-color: rgba({red}, {green}, {blue}, 28); }}"
    )
