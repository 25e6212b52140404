"""The layout of the overview: two slices on the left, the 3D view, and the legend on the right.

Every length is given for a picture 1080 pixels high and grows with it. Called by
:func:`PartialSegLib.rendering.render_overview`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Image
from PartialSegLib.rendering.canvas import Canvas, Color, text_width
from PartialSegLib.rendering.opengl import OpenGLError
from PartialSegLib.rendering.slices import PLANES, Cut, Views, kind
from PartialSegLib.rendering.surfaces import draw_surfaces
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.structures import Structure

_BACKGROUND: Color = (0.035, 0.043, 0.059)
_BRIGHT: Color = (0.93, 0.95, 0.97)
_PLAIN: Color = (0.74, 0.78, 0.83)
_DIM: Color = (0.47, 0.52, 0.58)
_ACCENT: Color = (0.98, 0.80, 0.36)
_MARGIN, _GAP, _FOOTER = 30.0, 16.0, 46.0
_SLICES_WIDTH, _LEGEND_WIDTH = 0.335, 392.0

#: Letters at the left and right edge, and the letters of a positive and negative position.
_EDGES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
_SIGNS = {"axial": ("S", "I"), "coronal": ("P", "A"), "sagittal": ("L", "R")}


@dataclass(frozen=True)
class Style:
    """What the caller chooses: texts, size in pixels and intensity window."""

    title: str
    footer: str
    size: tuple[int, int]
    window: tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """A rectangle of the picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


def draw_overview(image: Image, segmentation: Segmentation, path: Path, style: Style) -> tuple[str, ...]:
    """Draw and write the picture; see :func:`PartialSegLib.rendering.render_overview`."""
    if not image.geometry.matches(segmentation.geometry):
        raise SegmentationError(
            f"The segmentation ({segmentation.geometry.shape}) does not lie on the grid of the image "
            f"({image.geometry.shape}).",
            "Give the image that was segmented.",
        )
    width, height = (max(int(value), least) for value, least in zip(style.size, (960, 540), strict=True))
    canvas = Canvas(width, height, _BACKGROUND)
    unit = height / 1080
    axial, coronal, large, legend = _panels(width, height, unit)
    views = Views(image, segmentation, style.window)
    cuts = {plane: views.cut(plane) for plane in PLANES}
    scale = min(_fitting_scale(cuts["axial"], axial), _fitting_scale(cuts["coronal"], coronal))
    _draw_slice(canvas, views, cuts, "axial", axial, scale, unit)
    _draw_slice(canvas, views, cuts, "coronal", coronal, scale, unit)
    notes = []
    try:
        canvas.paste(draw_surfaces(image, segmentation, large.height, large.width, _BACKGROUND), large.left, large.top)
        _caption(canvas, large, "3D", "from the front", unit)
        _edge_letters(canvas, large, ("R", "L"), unit)
    except OpenGLError as error:
        notes.append(str(error))
        _draw_slice(canvas, views, cuts, "sagittal", large, _fitting_scale(cuts["sagittal"], large), unit)
    details = _details(image, style.window)
    room = Panel(legend.left, legend.top, legend.width, legend.height - round((len(details) + 1) * 24 * unit))
    _draw_legend(canvas, segmentation, room, style.title, unit)
    for number, line in enumerate(reversed(details)):
        y = legend.top + legend.height - (number + 0.5) * 24 * unit
        canvas.fitted_text(line, legend.left, y, 17 * unit, _DIM, legend.width)
    _draw_footer(canvas, segmentation, style.footer, unit)
    _save(canvas, path)
    return tuple(notes)


def _panels(width: int, height: int, unit: float) -> tuple[Panel, Panel, Panel, Panel]:
    """Return the places of the axial, coronal and 3D view and of the legend."""
    margin, gap = round(_MARGIN * unit), round(_GAP * unit)
    full = height - margin - round(_FOOTER * unit)
    slices = round(width * _SLICES_WIDTH)
    upper = (full - gap) // 2
    legend = round(_LEGEND_WIDTH * unit)
    left = margin + slices + gap
    right = width - margin - legend
    return (
        Panel(margin, margin, slices, upper),
        Panel(margin, margin + upper + gap, slices, full - upper - gap),
        Panel(left, margin, right - 2 * gap - left, full),
        Panel(right, margin, legend, full),
    )


def _fitting_scale(cut: Cut, panel: Panel) -> float:
    """Return the pixels a millimetre at which the shown part of a cut fills a panel."""
    height, width = cut.size_mm
    return min(panel.height / height, panel.width / width)


def _draw_slice(
    canvas: Canvas, views: Views, cuts: dict[str, Cut], plane: str, panel: Panel, scale: float, unit: float
) -> None:
    cut = cuts[plane]
    canvas.paste(views.draw(cut, panel.height, panel.width, scale), panel.left, panel.top)
    position = views.position(cut)
    sign = _SIGNS[plane][0 if position >= 0 else 1]
    _caption(canvas, panel, plane.capitalize(), f"{sign} {abs(position):.0f} mm", unit)
    _edge_letters(canvas, panel, _EDGES[plane], unit)
    _scale_bar(canvas, panel, scale, unit)
    if plane != "sagittal":
        _mark_other_cut(canvas, cut, cuts["coronal" if plane == "axial" else "axial"], panel, scale, unit)


def _mark_other_cut(canvas: Canvas, cut: Cut, other: Cut, panel: Panel, scale: float, unit: float) -> None:
    """Put a tick at both edges of a panel where the other view cuts this one."""
    middle = (cut.rows.start + cut.rows.stop - 1) / 2
    down = (other.index - middle) * cut.spacing[0] * scale * (1 if cut.plane == "axial" else -1)
    y = panel.top + panel.height / 2 + down
    length, thickness = 22 * unit, max(1.5, 2 * unit)
    if panel.top < y < panel.top + panel.height:
        for left in (panel.left, panel.left + panel.width - length):
            canvas.rectangle(left, y - thickness / 2, length, thickness, _ACCENT, 0.9)


def _caption(canvas: Canvas, panel: Panel, name: str, detail: str, unit: float) -> None:
    """Write name and position of a view at its upper left, on a dark plate that keeps them readable."""
    x, y = panel.left + 14 * unit, panel.top + 23 * unit
    used = text_width(name, 21 * unit, bold=True) + 10 * unit
    width = used + text_width(detail, 18 * unit)
    canvas.rectangle(x - 8 * unit, y - 16 * unit, width + 16 * unit, 32 * unit, _BACKGROUND, 0.6, 7 * unit)
    canvas.text(name, x, y, 21 * unit, _BRIGHT, bold=True)
    canvas.text(detail, x + used, y, 18 * unit, _PLAIN)


def _edge_letters(canvas: Canvas, panel: Panel, letters: tuple[str, str], unit: float) -> None:
    y = panel.top + 52 * unit
    canvas.text(letters[0], panel.left + 14 * unit, y, 22 * unit, _ACCENT, bold=True, shadow=True)
    right = panel.left + panel.width - 14 * unit
    canvas.text(letters[1], right, y, 22 * unit, _ACCENT, bold=True, anchor="right", shadow=True)


def _scale_bar(canvas: Canvas, panel: Panel, scale: float, unit: float) -> None:
    """Draw 5 cm at the lower right."""
    length, thickness = 50 * scale, max(2.0, 3 * unit)
    left = panel.left + panel.width - 16 * unit - length
    y = panel.top + panel.height - 18 * unit
    canvas.rectangle(left - 1, y - 1, length + 2, thickness + 2, (0.0, 0.0, 0.0), 0.5)
    canvas.rectangle(left, y, length, thickness, _BRIGHT)
    canvas.text("5 cm", left + length / 2, y - 13 * unit, 16 * unit, _BRIGHT, anchor="center", shadow=True)


def _draw_legend(canvas: Canvas, segmentation: Segmentation, panel: Panel, title: str, unit: float) -> None:
    y = panel.top + 20 * unit
    if title:
        canvas.fitted_text(title, panel.left, y, 30 * unit, _BRIGHT, panel.width, bold=True)
        y += 44 * unit
    found = sum(1 for mask in segmentation.masks.values() if mask.count)
    summary = f"{found} of {len(segmentation.structures)} structures found"
    canvas.fitted_text(summary, panel.left, y, 18 * unit, _DIM, panel.width)
    y += 26 * unit
    rows = _in_groups(segmentation.structures)
    height = min(46 * unit, (panel.top + panel.height - y) / max(1, len(rows)))
    for structure, nested in rows:
        row = Panel(panel.left, round(y), panel.width, round(height))
        _legend_row(canvas, segmentation, structure, row, nested, unit)
        y += height


def _in_groups(structures: tuple[Structure, ...]) -> list[tuple[Structure, bool]]:
    """Return structures with those that lie inside another one after it, marked as nested."""
    keys = {structure.key for structure in structures}
    rows = []
    for outer in structures:
        if outer.contained_in in keys:
            continue
        rows.append((outer, False))
        rows += [(inner, True) for inner in structures if inner.contained_in == outer.key]
    return rows


def _legend_row(
    canvas: Canvas, segmentation: Segmentation, structure: Structure, row: Panel, nested: bool, unit: float
) -> None:
    """Draw swatch, name and volume of one structure; text is smaller where rows are narrow."""
    middle, size = row.top + row.height / 2, min(20 * unit, 0.66 * row.height)
    left = row.left + (1.25 * size if nested else 0.0)
    swatch = size
    present = segmentation.masks[structure.key].count > 0
    color: Color = (structure.color[0] / 255, structure.color[1] / 255, structure.color[2] / 255)
    strength = 1.0 if present else 0.3
    canvas.rectangle(left, middle - swatch / 2, swatch, swatch, color, strength, 0.28 * swatch)
    if kind(structure) == "organ":
        inner = 0.66 * swatch
        place = (left + (swatch - inner) / 2, middle - inner / 2, inner, inner)
        canvas.rectangle(*place, _BACKGROUND, 0.45, 0.2 * inner)
    volume = _volume(segmentation.volume_ml(structure.key)) if present else "not found"
    right = row.left + row.width
    canvas.text(volume, right, middle, size, _PLAIN if present else _DIM, anchor="right")
    start = left + swatch + 0.7 * size
    room = right - text_width(volume, size) - 0.9 * size - start
    canvas.fitted_text(structure.name, start, middle, size, _BRIGHT if present else _DIM, room)


def _volume(milliliters: float) -> str:
    if milliliters >= 99.95:
        return f"{milliliters:,.0f} ml"
    return f"{milliliters:.1f} ml" if milliliters >= 0.95 else f"{milliliters:.2f} ml"


def _details(image: Image, window: tuple[float, float]) -> list[str]:
    """Return what a radiologist wants to know about the image."""
    low, high = window
    voxels = " x ".join(str(n) for n in image.geometry.shape[::-1])
    spacing = " x ".join(f"{step:.2f}" for step in image.geometry.spacing)
    return [f"{voxels} voxels of {spacing} mm", f"Window {high - low:.0f}, level {(low + high) / 2:.0f} HU"]


def _draw_footer(canvas: Canvas, segmentation: Segmentation, footer: str, unit: float) -> None:
    y = canvas.height - _FOOTER * unit / 2
    margin = _MARGIN * unit
    author = segmentation.algorithm
    right = canvas.text(author, canvas.width - margin, y, 17 * unit, _DIM, anchor="right")
    canvas.fitted_text(footer, margin, y, 17 * unit, _DIM, canvas.width - 3 * margin - right)


def _save(canvas: Canvas, path: Path) -> None:
    try:
        canvas.save(path)
    except OSError as error:
        raise SegmentationError(f"The picture {path} cannot be written: {error}.", "Choose another folder.") from error
