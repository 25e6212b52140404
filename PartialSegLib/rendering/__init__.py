"""A picture of a result: what was found, where it lies, how large it is.

:func:`render_overview` is called by ``partialseg render`` and the demo. It needs VTK (extra
``render``), which is imported only when a picture is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PartialSegLib.errors import MissingExtraError

if TYPE_CHECKING:
    from PartialSegLib.images import Image
    from PartialSegLib.segmentation import Segmentation

#: Soft-tissue window of CT (width 400, level 40), in Hounsfield units.
SOFT_TISSUE = (-160.0, 240.0)


def render_overview(
    image: Image,
    segmentation: Segmentation,
    path: str | Path,
    *,
    title: str = "",
    footer: str = "",
    size: tuple[int, int] = (1920, 1080),
    window: tuple[float, float] = SOFT_TISSUE,
) -> tuple[str, ...]:
    """Write one PNG with an axial slice, a coronal slice, a 3D view and a legend with volumes.

    The slices go through the position that shows most of the structures, with true proportions and
    the patient's left on the right (radiological convention).

    Parameters
    ----------
    image : Image
        CT in Hounsfield units.
    segmentation : Segmentation
        Overlapping masks on the grid of `image`.
    path : str or Path
        PNG file, written whole or not at all.
    title, footer : str
        Lines above the legend and below the views, such as ``"Synthetic phantom, not a patient"``.
    size : tuple of int
        Width and height in pixels, at least 960 x 540.
    window : tuple of float
        Intensities shown as black and white.

    Returns
    -------
    tuple of str
        What could not be drawn on this machine and why, one sentence each; empty when all was.
        Without OpenGL a sagittal slice takes the place of the 3D view.

    Raises
    ------
    MissingExtraError
        When VTK is not installed.
    SegmentationError
        When image and segmentation lie on different grids, or the file cannot be written.
    """
    try:
        from PartialSegLib.rendering.overview import Style, draw_overview
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("vtk", "vtkmodules"):
            raise
        raise MissingExtraError("Pictures", "render") from error
    return draw_overview(image, segmentation, Path(path), Style(title, footer, size, window))
