"""Small charts as SVG, for a page or a file of their own: lines over steps, points with names, bars.

Only what the reports need, so that they need no plotting library and can be read without a network.
Charts are white, so that they look the same on a page and on their own. Called by the training
report and the benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

#: Colors of series (Okabe and Ito: told apart with any color vision), repeated when there are more.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")

_FONT = 'font-family="system-ui, sans-serif" font-size="12"'
_GRID, _AXIS, _TEXT = "#e3e6ea", "#9aa2ad", "#333a44"
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 18.0, 34.0, 46.0
_ROW, _NAMES = 24.0, 190.0
# Height of a row of the legend, and about the width of a letter.
_LEGEND_ROW, _LETTER = 18.0, 6.6


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Parameters
    ----------
    name : str
        In the legend.
    points : sequence of (float, float)
        x and y; those that are not finite are left out.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A named point of a chart.

    Parameters
    ----------
    name : str
        Written beside it.
    x, y : float
        Where it lies.
    spread : float
        Half the length of its vertical error bar; 0 for none.
    """

    name: str
    x: float
    y: float
    spread: float = 0.0


@dataclass(frozen=True)
class Bar:
    """A named value from 0 to 1.

    Parameters
    ----------
    name : str
        Before it.
    value : float
        Its length; ``nan`` for none.
    interval : tuple of float, optional
        Ends of an interval drawn over it.
    color : tuple of int
        Red, green, blue, 0 to 255.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    color: tuple[int, int, int] = (0, 114, 178)


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Parameters
    ----------
    label : str
        What is measured, with its unit.
    low, high : float
        Ends.
    logarithmic : bool
        Whether equal distances are equal factors; both ends are positive then.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high one."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return the values that are written at the axis."""
        if not self.logarithmic:
            return ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
        return [value for value in values if self.low <= value <= self.high]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values (1, 2 or 5 times a power of ten apart) from `low` to `high`.

    Parameters
    ----------
    low, high : float
        Ends, `low` below `high`.
    most : int
        About so many at the most.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def axis_around(label: str, values: Sequence[float], *, logarithmic: bool = False) -> Axis:
    """Return an axis on which all finite `values` lie, with a margin."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not logarithmic)]
    low, high = min(finite, default=0.1), max(finite, default=1.0)
    if logarithmic:
        return Axis(label, low / 1.4, high * 1.4, True)
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    # A scale of what cannot be negative does not go below zero.
    return Axis(label, max(0.0, low - margin) if low >= 0 else low - margin, high + margin)


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis, *, size: tuple[int, int] = (560, 300)) -> str:
    """Return a chart of lines with a legend below it where there are several, as SVG.

    Parameters
    ----------
    title : str
        Above the chart.
    series : sequence of Series
        Lines, in the order of :data:`COLORS`.
    x, y : Axis
        Their axes; a value outside of them is drawn at their end.
    size : tuple of int
        Width and height in pixels, without the legend.
    """
    frame = _Frame(x, y, *size)
    parts = frame.axes()
    for number, line in enumerate(series):
        color = COLORS[number % len(COLORS)]
        places = [frame.place(*point) for point in line.points if all(map(math.isfinite, point))]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        if len(places) == 1:
            parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2.5" fill="{color}"/>')
    entries, rows = _legend([line.name for line in series], size)
    return _document(title, (size[0], size[1] + round(rows * _LEGEND_ROW)), [*parts, *entries])


def mark_chart(title: str, marks: Sequence[Mark], x: Axis, y: Axis, *, size: tuple[int, int] = (720, 420)) -> str:
    """Return a chart of named points, as SVG; see :func:`line_chart`."""
    frame = _Frame(x, y, *size)
    parts, taken = frame.axes(), list[tuple[float, float, float]]()
    for number, mark in enumerate(sorted(marks, key=lambda mark: -mark.y)):
        color = COLORS[number % len(COLORS)]
        left, top = frame.place(mark.x, mark.y)
        high, low = frame.place(mark.x, mark.y + mark.spread)[1], frame.place(mark.x, mark.y - mark.spread)[1]
        if mark.spread:
            bar = f'x1="{left:.1f}" x2="{left:.1f}" y1="{high:.1f}" y2="{low:.1f}"'
            parts.append(f'<line {bar} stroke="{color}" stroke-opacity="0.45" stroke-width="1.5"/>')
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5" fill="{color}"/>')
        parts.append(_name(mark.name, left, top, size[0], taken))
    return _document(title, size, parts)


def bar_chart(title: str, bars: Sequence[Bar], label: str, *, width: int = 720) -> str:
    """Return horizontal bars on a scale from 0 to 1, as SVG.

    Parameters
    ----------
    title : str
        Above the chart.
    bars : sequence of Bar
        From top to bottom.
    label : str
        Below the scale.
    width : int
        Pixels; the height follows from the number of bars.
    """
    height = round(_TOP + _ROW * len(bars) + _BOTTOM)
    longest = max((len(bar.name) for bar in bars), default=0)
    left, right, bottom = max(_NAMES, 16 + _LETTER * longest), width - 64.0, _TOP + _ROW * len(bars)
    parts = []
    for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        at = left + (right - left) * value
        parts.append(_line(at, _TOP, at, bottom, _GRID))
        parts.append(_text(f"{value:g}", at, bottom + 16, "middle"))
    parts.append(_text(label, (left + right) / 2, height - 8, "middle"))
    for number, bar in enumerate(bars):
        top = _TOP + _ROW * number
        parts.append(_text(bar.name, left - 8, top + 16, "end"))
        if math.isnan(bar.value):
            parts.append(_text("-", left + 6, top + 16))
            continue
        length, color = (right - left) * bar.value, "rgb({},{},{})".format(*bar.color)
        parts.append(
            f'<rect x="{left}" y="{top + 4:.1f}" width="{length:.1f}" height="{_ROW - 8}" rx="2" fill="{color}" '
            'stroke="#555" stroke-width="0.5"/>'
        )
        if bar.interval is not None:
            low, high = (left + (right - left) * end for end in bar.interval)
            parts.append(_line(low, top + _ROW / 2, high, top + _ROW / 2, "#222", 1.5))
        parts.append(_text(f"{bar.value:.3f}", right + 8, top + 16))
    return _document(title, (width, height), parts)


class _Frame:
    """Where values lie in the picture, and the axes around them."""

    def __init__(self, x: Axis, y: Axis, width: int, height: int) -> None:
        self._x, self._y = x, y
        self._right, self._bottom = width - _RIGHT, height - _BOTTOM

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixels of a point."""
        across, up = (min(1.0, max(0.0, axis.place(value))) for axis, value in ((self._x, x), (self._y, y)))
        return _LEFT + (self._right - _LEFT) * across, self._bottom - (self._bottom - _TOP) * up

    def axes(self) -> list[str]:
        """Return grid, numbers and labels."""
        parts = []
        for value in self._x.ticks():
            at = self.place(value, self._y.low)[0]
            parts += [_line(at, _TOP, at, self._bottom, _GRID), _text(f"{value:g}", at, self._bottom + 16, "middle")]
        for value in self._y.ticks():
            at = self.place(self._x.low, value)[1]
            parts += [_line(_LEFT, at, self._right, at, _GRID), _text(f"{value:g}", _LEFT - 6, at + 4, "end")]
        parts.append(_line(_LEFT, self._bottom, self._right, self._bottom, _AXIS))
        parts.append(_line(_LEFT, _TOP, _LEFT, self._bottom, _AXIS))
        parts.append(_text(self._x.label, (_LEFT + self._right) / 2, self._bottom + 36, "middle"))
        middle = (_TOP + self._bottom) / 2
        turned = f'transform="rotate(-90 14 {middle:.1f})"'
        return [*parts, _text(self._y.label, 14, middle, "middle", turned)]


def _name(name: str, left: float, top: float, width: int, taken: list[tuple[float, float, float]]) -> str:
    """Write a name beside its point, below names that are already there (begin, end and height of each)."""
    on_left, length, at = left > width * 0.75, _LETTER * len(name), top + 4
    begin = left - 9 - length if on_left else left + 9
    while any(abs(at - height) < 13 and begin < end and other < begin + length for other, end, height in taken):
        at += 13
    taken.append((begin, begin + length, at))
    return _text(name, left - 9 if on_left else left + 9, at, "end" if on_left else "start")


def _legend(names: Sequence[str], size: tuple[int, int]) -> tuple[list[str], int]:
    """Return names with the colors of their lines, in rows below a chart, and how many rows they take."""
    if len(names) < 2:
        return [], 0
    parts, left, row = [], _LEFT, 0
    for number, name in enumerate(names):
        width = 34 + _LETTER * len(name)
        if left + width > size[0] and left > _LEFT:
            left, row = _LEFT, row + 1
        top, color = size[1] + 8 + _LEGEND_ROW * row, COLORS[number % len(COLORS)]
        parts += [_line(left, top - 4, left + 16, top - 4, color, 2.5), _text(name, left + 21, top)]
        left += width
    return parts, row + 1


def _line(left: float, top: float, right: float, bottom: float, color: str, width: float = 1.0) -> str:
    ends = f'x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}"'
    return f'<line {ends} stroke="{color}" stroke-width="{width:g}"/>'


def _text(text: str, left: float, top: float, anchor: str = "start", extra: str = "") -> str:
    place = f'x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{_TEXT}" {extra}>{escape(text)}</text>'.replace(" >", ">")


def _document(title: str, size: tuple[int, int], parts: Sequence[str]) -> str:
    width, height = size
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'{_FONT} role="img"><title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>'
    )
    caption = f'<text x="14" y="20" fill="{_TEXT}" font-size="14" font-weight="600">{escape(title)}</text>'
    return "".join([head, caption, *parts, "</svg>"])
