"""``partialseg render IMAGE SEGMENTATION -o PNG``: a picture of a result that lies in files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PartialSegLib.errors import PartialSegError


def register(subparsers: Any) -> None:
    """Add ``partialseg render`` to the command line."""
    parser = subparsers.add_parser(
        "render",
        help="draw a picture of a segmentation",
        description="Draw an axial slice, a coronal slice and a 3D view with every structure, and their volumes. "
        "Needs the extra 'render'.",
    )
    parser.add_argument("image", type=Path, help="image file or DICOM folder")
    parser.add_argument("segmentation", type=Path, help="segmentation file or folder of masks")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PNG", help="picture to write")
    parser.add_argument("--series", help="which series of a DICOM folder")
    parser.add_argument("--title", default="", help="line above the legend")
    parser.add_argument("--footer", default="", help="line below the views")
    parser.add_argument("--size", default="1920x1080", metavar="WxH", help="pixels (default: 1920x1080)")
    parser.add_argument("--window", type=float, default=400.0, help="width of the intensity window (default: 400)")
    parser.add_argument("--level", type=float, default=40.0, help="middle of the intensity window (default: 40)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg render`` and return its exit status."""
    from PartialSegLib.images import read_image
    from PartialSegLib.rendering import render_overview
    from PartialSegLib.segmentationfiles import read_segmentation

    size = _size(arguments.size)
    if arguments.window <= 0:
        raise PartialSegError(f"A window of width {arguments.window:g} shows nothing.", "Give more than 0.")
    if arguments.output.suffix.lower() != ".png":
        raise PartialSegError(f"{arguments.output} is no PNG file.", "Give a name that ends in .png.")
    image = read_image(arguments.image, arguments.series)
    segmentation = read_segmentation(arguments.segmentation, image=image)
    low, high = arguments.level - arguments.window / 2, arguments.level + arguments.window / 2
    notes = render_overview(
        image,
        segmentation,
        arguments.output,
        title=arguments.title or arguments.image.name,
        footer=arguments.footer,
        size=size,
        window=(low, high),
    )
    print(arguments.output)
    for note in notes:
        print(f"Note: {note}")
    return 0


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise PartialSegError(f"'{text}' is no size.", "Give width and height in pixels, such as 1920x1080.")
    return int(width), int(height)
