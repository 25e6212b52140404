"""Draws the loss of a fine-tuning as a small line chart.

Drawn into a picture for a label, because that is what every Qt binding of Slicer does alike; the
charts of Slicer need a view of the layout, which belongs to the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import qt  # type: ignore[import-not-found]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

#: Room around the chart for its numbers: left, top, right, bottom, in pixels.
_MARGINS = 44, 10, 10, 20


def drawLoss(points: Sequence[tuple[int, float]], total: int, width: int, height: int, palette: Any) -> Any:
    """Return the chart.

    Parameters
    ----------
    points : sequence of (int, float)
        Step and loss; losses that are no number are left out.
    total : int
        Steps of the whole training.
    width, height : int
        In pixels.
    palette : QPalette
        Colors of the panel.

    Returns
    -------
    QPixmap
    """
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(palette.color(qt.QPalette.Base))
    finite = [(step, loss) for step, loss in points if math.isfinite(loss)]
    painter = qt.QPainter()
    painter.begin(pixmap)
    try:
        painter.setRenderHint(qt.QPainter.Antialiasing)
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() * 0.85))
        painter.setFont(font)
        _draw(painter, finite, max(1, total), width, height, palette)
    finally:
        painter.end()
    return pixmap


def _draw(painter: Any, points: list[tuple[int, float]], total: int, width: int, height: int, palette: Any) -> None:
    left, top, right, bottom = _MARGINS
    wide, high = width - left - right, height - top - bottom
    muted = palette.color(qt.QPalette.Disabled, qt.QPalette.Text)
    highest, lowest = _range([loss for _step, loss in points])
    painter.setPen(qt.QPen(muted))
    painter.drawLine(left, top, left, top + high)
    painter.drawLine(left, top + high, left + wide, top + high)
    for value, line in ((highest, top + 8), (lowest, top + high)):
        painter.drawText(2, line, f"{value:.2f}")
    painter.drawText(left, height - 5, "0")
    painter.drawText(left + wide // 2 - 24, height - 5, _("Loss by step"))
    painter.drawText(left + wide - 8 * len(str(total)), height - 5, str(total))
    if not points:
        return
    path = qt.QPainterPath()
    for index, (step, loss) in enumerate(points):
        x = left + wide * min(1.0, step / total)
        y = top + high * (highest - loss) / (highest - lowest)
        if index:
            path.lineTo(x, y)
        else:
            path.moveTo(x, y)
    pen = qt.QPen(palette.color(qt.QPalette.Highlight))
    pen.setWidth(2)
    painter.setPen(pen)
    painter.drawPath(path)


def _range(losses: list[float]) -> tuple[float, float]:
    """Return the largest and the smallest value of the axis, which differ."""
    if not losses:
        return 1.0, 0.0
    highest, lowest = max(losses), min(0.0, *losses)
    return (highest, lowest) if highest > lowest else (lowest + 1.0, lowest)
