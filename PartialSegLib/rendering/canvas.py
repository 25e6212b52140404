"""A picture under construction: colors, pasted images and text in pixels, written as PNG.

The layout (``rendering/__init__.py``) and the slice views draw on a :class:`Canvas`. Text is set by
VTK's own FreeType, which needs no window system, no OpenGL and no installed font.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage
from vtkmodules import vtkRenderingFreeType  # noqa: F401  registers the text renderer
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkIOImage import vtkPNGWriter
from vtkmodules.vtkRenderingCore import vtkTextProperty, vtkTextRenderer

from PartialSegLib.atomic import atomic_write

Color = tuple[float, float, float]
Anchor = Literal["left", "center", "right"]

#: Text is set larger by this factor and averaged down, which gives even stems at small sizes.
_OVERSAMPLING = 3


class Canvas:
    """An RGB picture with the origin at the top left.

    Parameters
    ----------
    width, height : int
        Pixels.
    background : tuple of float
        Red, green and blue, 0 to 1.
    """

    def __init__(self, width: int, height: int, background: Color) -> None:
        self.pixels = np.empty((height, width, 3), np.float32)
        self.pixels[:] = background

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    def paste(self, image: np.ndarray, left: int, top: int) -> None:
        """Put a (rows, columns, 3) image in 0 to 1 at a place; what reaches beyond the canvas is cut."""
        target = self.pixels[max(top, 0) : top + image.shape[0], max(left, 0) : left + image.shape[1]]
        offset = max(-top, 0), max(-left, 0)
        target[:] = image[offset[0] : offset[0] + target.shape[0], offset[1] : offset[1] + target.shape[1]]

    def blend(self, alpha: np.ndarray, left: int, top: int, color: Color) -> None:
        """Lay a color over the canvas through a (rows, columns) opacity in 0 to 1."""
        first_row, first_column = max(-top, 0), max(-left, 0)
        target = self.pixels[max(top, 0) : top + alpha.shape[0], max(left, 0) : left + alpha.shape[1]]
        opacity = alpha[first_row : first_row + target.shape[0], first_column : first_column + target.shape[1], None]
        target += opacity * (np.asarray(color, np.float32) - target)

    def rectangle(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        color: Color,
        opacity: float = 1.0,
        radius: float = 0,
    ) -> None:
        """Fill a rectangle with anti-aliased, rounded corners."""
        x0, y0 = int(np.floor(left)), int(np.floor(top))
        columns = np.arange(x0, int(np.ceil(left + width)) + 1) + 0.5
        rows = np.arange(y0, int(np.ceil(top + height)) + 1) + 0.5
        dx = np.abs(columns - (left + width / 2)) - (width / 2 - radius)
        dy = np.abs(rows - (top + height / 2)) - (height / 2 - radius)
        outside = np.hypot(np.maximum(dx, 0)[None], np.maximum(dy, 0)[:, None])
        inside = np.minimum(np.maximum(dx[None], dy[:, None]), 0)
        self.blend(opacity * np.clip(0.5 - (outside + inside - radius), 0, 1), x0, y0, color)

    def text(
        self,
        string: str,
        x: float,
        y: float,
        size: float,
        color: Color,
        *,
        bold: bool = False,
        anchor: Anchor = "left",
        shadow: bool = False,
    ) -> float:
        """Write one line of text and return its width in pixels.

        Parameters
        ----------
        string : str
            What to write; an empty string writes nothing.
        x, y : float
            Left end, middle or right end of the text (`anchor`), and its vertical middle.
        size : float
            Font size in pixels.
        color : tuple of float
            Red, green and blue, 0 to 1.
        bold : bool
            Heavier stems.
        anchor : str
            Which point of the text `x` is.
        shadow : bool
            Whether a soft dark rim makes it readable on a bright image.
        """
        if not string.strip():
            return 0.0
        alpha = _set_text(string, size, bold)
        width = alpha.shape[1]
        left = round(x - {"left": 0.0, "center": width / 2, "right": width}[anchor])
        top = round(y - alpha.shape[0] / 2)
        if shadow:
            reach = max(2, round(0.2 * size))
            rim = ndimage.gaussian_filter(np.pad(alpha, reach), 0.1 * size)
            self.blend(np.clip(2.2 * rim, 0, 0.85), left - reach, top - reach, (0.0, 0.0, 0.0))
        self.blend(alpha, left, top, color)
        return float(width)

    def fitted_text(
        self, string: str, x: float, y: float, size: float, color: Color, width: float, *, bold: bool = False
    ) -> None:
        """Write text that never grows wider than `width`: smaller down to 85 %, else in two smaller lines."""
        for share in (1.0, 0.92, 0.85):
            if text_width(string, size * share, bold) <= width:
                self.text(string, x, y, size * share, color, bold=bold)
                return
        small = 0.78 * size
        first, second = _break_line(string, small, width, bold)
        offset = 0.6 * small if second else 0.0
        self.text(first, x, y - offset, small, color, bold=bold)
        self.text(second, x, y + offset, small, color, bold=bold)

    def save(self, path: Path) -> None:
        """Write the picture as 8-bit PNG, whole or not at all."""
        data = (np.clip(self.pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
        image = vtkImageData()
        image.SetDimensions(self.width, self.height, 1)
        image.GetPointData().SetScalars(numpy_to_vtk(data[::-1].reshape(-1, 3), deep=True))
        writer = vtkPNGWriter()
        writer.SetInputData(image)
        writer.WriteToMemoryOn()
        writer.Write()
        with atomic_write(path) as file:
            file.write(vtk_to_numpy(writer.GetResult()).tobytes())


def text_width(string: str, size: float, bold: bool = False) -> float:
    """Return the width of a line of text in pixels."""
    return float(_set_text(string, size, bold).shape[1]) if string.strip() else 0.0


def _break_line(string: str, size: float, width: float, bold: bool) -> tuple[str, str]:
    """Break text after the last word that fits; a line that still does not fit ends in an ellipsis."""
    words = string.split()
    kept = 1
    while kept < len(words) and text_width(" ".join(words[: kept + 1]), size, bold) <= width:
        kept += 1
    lines = []
    for line in (" ".join(words[:kept]), " ".join(words[kept:])):
        shown = line
        while text_width(shown, size, bold) > width and len(shown) > 1:
            shown = shown[:-2].rstrip() + "…"
        lines.append(shown)
    return lines[0], lines[1]


def _set_text(string: str, size: float, bold: bool) -> np.ndarray:
    """Return the opacity of a line of text, float32 (rows, columns), without margins at its sides.

    All lines of one size have one height, so that their baselines agree.
    """
    style = vtkTextProperty()
    style.SetFontFamilyToArial()
    style.SetBold(bold)
    style.SetFontSize(max(1, round(size * _OVERSAMPLING)))
    style.SetColor(1.0, 1.0, 1.0)
    image, extent = vtkImageData(), [0, 0]
    vtkTextRenderer.GetInstance().RenderString(style, string, image, extent, 72)
    columns, rows, _ = image.GetDimensions()
    alpha = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 4)[: extent[1], : extent[0], 3]
    alpha = alpha[::-1]
    pad_rows, pad_columns = -alpha.shape[0] % _OVERSAMPLING, -alpha.shape[1] % _OVERSAMPLING
    alpha = np.pad(alpha, ((0, pad_rows), (0, pad_columns))).astype(np.float32) / 255
    cells = alpha.reshape(alpha.shape[0] // _OVERSAMPLING, _OVERSAMPLING, -1, _OVERSAMPLING)
    return cells.mean(axis=(1, 3))
