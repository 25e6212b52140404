"""Makes a picture of real Slicer views: ``python Testing/extension/slicer_views.py [FOLDER]``.

The module's logic segments a phantom (a synthetic CT, no patient) in a real MRML scene, and the slice and
3D views of ``trame-slicer``, with Slicer's own displayable managers, show it; no screen is needed.

``trame-slicer`` needs an older ``slicer-core`` than the one that the tests are run with. So the views have an
environment of their own, as Slicer has: it is installed into a temporary folder (1.5 GB, without torch), and
the worker runs in the Python that this command was called with. Takes three minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAME = "slicer-views.png"
#: What draws; these four fit each other.
VIEWS = ("trame-slicer[standalone]==2.0.0", "slicer-core==5.11.0.6", "slicer-layer-dm==2.0.0", "vtk==9.6.0")
#: What the module's logic needs beside it, in the versions of the worker.
LIBRARY = ("connected-components-3d", "numpy", "psutil", "safetensors", "scipy", "SimpleITK", "tqdm")

TASKS = ["liver", "kidney", "hepatic_vessel", "pancreas", "spleen"]
#: Width and height of a view, and what is between them and around them.
VIEW, GAP, FOOT = (690, 450), 7, 80
BACKGROUND, TEXT = "#16181c", "#d6dae0"
#: Column, row, name and color of the views, as in Slicer's layout.
PLACES = {
    "Red": (0, 0, "Axial", "#f34a33"),
    "ThreeD": (1, 0, "3D", "#7d8bc9"),
    "Green": (0, 1, "Coronal", "#6dad4a"),
    "Yellow": (1, 1, "Sagittal", "#efd64d"),
}
CAPTION = (
    "Phantom: a synthetic CT, no patient. Segmented by the bundled model. "
    "Views of Slicer (slicer-core {core}), drawn through trame-slicer {trame}."
)


def main() -> None:
    """Make the environment, and draw in it."""
    parser = argparse.ArgumentParser(description="Draw a phantom and its segments in real Slicer views.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs", help=f"where {NAME} is written")
    parser.add_argument("--python", type=Path, help="a Python that has the views; a temporary one without it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        draw(options.folder / NAME, options.worker)
    else:
        make(options.folder, options.python)


def make(folder: Path, python: Path | None = None) -> None:
    """Draw in a Python that has the views, by default one that is made for it."""
    with tempfile.TemporaryDirectory() as temporary:
        if python is None:
            subprocess.run([sys.executable, "-m", "venv", temporary], check=True)
            python = Path(temporary, "Scripts" if os.name == "nt" else "bin", "python")
            library = [f"{name}=={version(name)}" for name in LIBRARY]
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *VIEWS, *library], check=True)
        subprocess.run([str(python), __file__, str(folder), "--worker", sys.executable], check=True)


def draw(path: Path, worker: str) -> None:
    """Show a phantom, segment it, and write the picture."""
    application = start()
    views = open_views(application)
    with tempfile.TemporaryDirectory() as cases:
        from PartialSegSlicer.logic.headless import HeadlessLogic
        from PartialSegSlicer.logic.sampledata import addPhantom

        logic = HeadlessLogic(worker, Path(cases))
        try:
            volume = addPhantom(logic)
            show_volume(application, volume)
            result = logic.segment(volume, tasks=TASKS, quality="fast")
        finally:
            logic.close()
    show_segments(result.segmentationNode)
    look(application, views, volume, result)
    sheet({name: shot(view) for name, view in views.items()}, result).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


def start() -> Any:
    """Start Slicer's core with a scene, where the module looks for them."""
    sys.path[:0] = [str(ROOT), str(ROOT / "PartialSegExtension")]
    import slicer
    import slicer.util
    from trame_slicer.core import SlicerApp
    from trame_slicer.views import DirectViewFactory

    application = SlicerApp()
    application.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
    logics = {"segmentations": application.segmentations_logic, "volumes": application.volumes_logic}
    modules = {name: types.SimpleNamespace(logic=lambda logic=logic: logic) for name, logic in logics.items()}
    slicer.modules = types.SimpleNamespace(**modules, application=application.app_logic)
    slicer.mrmlScene = application.scene
    return application


def open_views(application: Any) -> dict[str, Any]:
    """Return Slicer's four views."""
    from slicer import vtkMRMLAbstractViewNode as Node
    from trame_slicer.views import ViewLayoutDefinition as Layout

    layouts = {
        "Red": Layout.axial_view(),
        "Green": Layout.coronal_view(),
        "Yellow": Layout.sagittal_view(),
        "ThreeD": Layout.threed_view(),
    }
    views = {name: application.view_manager.create_view(layout) for name, layout in layouts.items()}
    for name, view in views.items():
        view.set_render_blocked(True)
        view.update_size(*VIEW)
        view.set_orientation_marker(Node.OrientationMarkerTypeAxes, Node.OrientationMarkerSizeMedium)
        if name != "ThreeD":
            view.set_ruler(Node.RulerTypeThin)
    # Mesa loses translucent surfaces that are sampled more than once a pixel.
    views["ThreeD"].render_window().SetMultiSamples(0)
    views["ThreeD"].renderer().UseFXAAOn()
    return views


def show_volume(application: Any, volume: Any) -> None:
    """Show a volume behind all that comes later, in the window of soft tissue."""
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(350, 40)
    application.display_manager.show_volume_in_slice_background(volume)


def show_segments(segmentation: Any) -> None:
    """Fill segments lightly with an outline, and show surfaces in 3D: vessels and tumors through their organs."""
    segmentation.CreateClosedSurfaceRepresentation()
    display = segmentation.GetDisplayNode()
    display.SetOpacity2DFill(0.4)
    display.SetOpacity2DOutline(1.0)
    display.SetSliceIntersectionThickness(2)
    for organ in ("liver", "kidneys", "pancreas"):
        display.SetSegmentOpacity3D(organ, 0.45)


def look(application: Any, views: dict[str, Any], volume: Any, result: Any) -> None:
    """Turn the views to what is worth seeing."""
    application.display_manager.reset_views()
    point = best_point(volume, result)
    for name in ("Red", "Green", "Yellow"):
        views[name].get_view_node().JumpSliceByOffsetting(*point)
        views[name].zoom(0.15)
    # Surfaces have bounds only when they were drawn.
    views["ThreeD"].set_render_blocked(False)
    views["ThreeD"].reset_view()
    views["ThreeD"].zoom(0.15)


def best_point(volume: Any, result: Any) -> list[float]:
    """Return the point (R, A, S) through whose three slices most of every structure is seen."""
    import numpy as np
    import vtk
    from slicer import util

    seen = [np.zeros(length) for length in util.arrayFromVolume(volume).shape]
    for row in result.structures:
        voxels = util.arrayFromSegmentBinaryLabelmap(result.segmentationNode, row.segmentID, volume) > 0
        for axis, sums in enumerate(seen):
            areas = voxels.sum(tuple({0, 1, 2} - {axis}))
            sums += areas / areas.max()
    z, y, x = (int(sums.argmax()) for sums in seen)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return list(matrix.MultiplyPoint((x, y, z, 1))[:3])


def shot(view: Any) -> Any:
    """Return the picture of a view."""
    from PIL import Image
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

    view.set_render_blocked(False)
    taken = vtkWindowToImageFilter()
    taken.SetInput(view.render_window())
    taken.ReadFrontBufferOff()
    taken.Update()
    # What ends the scene draws nothing any more.
    view.set_render_blocked(True)
    wide, high, _ = taken.GetOutput().GetDimensions()
    pixels = vtk_to_numpy(taken.GetOutput().GetPointData().GetScalars())
    return Image.fromarray(pixels.reshape(high, wide, -1)[::-1, :, :3].copy())


def sheet(images: dict[str, Any], result: Any) -> Any:
    """Return the views beside each other, with their names, the segments' names and the caption."""
    from PIL import Image, ImageDraw, ImageFont

    whole = Image.new("RGB", (2 * VIEW[0] + 3 * GAP, 2 * VIEW[1] + 3 * GAP + FOOT), BACKGROUND)
    pen = ImageDraw.Draw(whole)
    small, large = ImageFont.load_default(15), ImageFont.load_default(18)
    for name, (column, row, title, color) in PLACES.items():
        x, y = GAP + column * (VIEW[0] + GAP), GAP + row * (VIEW[1] + GAP)
        whole.paste(images[name], (x, y))
        pen.rectangle((x, y, x + VIEW[0] - 1, y + 2), color)
        pen.text((x + 10, y + 10), title, color, large)
    x, y = GAP + 4, 2 * VIEW[1] + 3 * GAP + 8
    segmentation = result.segmentationNode.GetSegmentation()
    for structure in result.structures:
        segment = segmentation.GetSegment(structure.segmentID)
        pen.rectangle((x, y + 3, x + 13, y + 16), tuple(round(255 * part) for part in segment.GetColor()))
        pen.text((x + 20, y), segment.GetName(), TEXT, small)
        x += 20 + round(pen.textlength(segment.GetName(), small)) + 22
    caption = CAPTION.format(core=version("slicer-core"), trame=version("trame-slicer"))
    pen.text((GAP + 4, y + 34), caption, TEXT, small)
    return whole


if __name__ == "__main__":
    main()
