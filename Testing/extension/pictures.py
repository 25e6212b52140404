"""Makes the pictures for the documentation: ``python Testing/extension/pictures.py [FOLDER] [--slicer-views]``.

The module's own panel runs in the host of the tests (:mod:`host`), with a real scene, the real worker and
the bundled model, on a phantom: a synthetic CT, no patient, which every picture says. Qt's Fusion style
stands in for Slicer's. Takes a few minutes on two cores. With ``--slicer-views``, the segments in real
Slicer views are drawn too, which installs those for the time being (:mod:`slicer_views`).
"""

from __future__ import annotations

import argparse
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
#: Pixels per point of the pictures: sharp on a good screen, small on the disk.
os.environ.setdefault("QT_SCALE_FACTOR", "1.25")

import host  # noqa: E402
import psutil  # noqa: E402
import slicer_views  # noqa: E402

#: Width of the module panel in Slicer's default layout, in points.
WIDTH = 350
PATIENCE = 900.0
CAPTION = "Phantom: a synthetic CT, no patient"
#: Two synthetic patients, whom the bundled model did not see in training.
FIRST_PATIENT, SECOND_PATIENT = 3, 4


class Studio:
    """The panel, and what brings it into a state."""

    def __init__(self) -> None:
        self.host = host.start()
        self.host.reset()
        self.widget: Any = None

    def open(self) -> None:
        """Open the module, and wait until its installation is known."""
        self.widget = self.host.widget()
        self.until(lambda: not self.widget.logic.session.active)

    @property
    def ui(self) -> Any:
        """The widgets of the panel."""
        return self.widget.ui

    def until(self, condition: Callable[[], object]) -> None:
        """Let Qt and the worker go on until something is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("The panel did not come into the state that was waited for.")
            self.host.process(1)
            time.sleep(0.01)

    def sections(self, *opened: str) -> None:
        """Open these sections, and close all others."""
        for name in ("input", "task", "run", "result", "learn", "advanced", "log", "setup"):
            getattr(self.ui, f"{name}Section").collapsed = name not in opened

    def picture(self) -> Any:
        """Return the panel as it looks now."""
        panel = self.widget.parent
        panel.setFixedWidth(WIDTH)
        # Twice: lines that wrap say how high they are when they know how wide.
        for _ in range(2):
            self.host.process()
            height = max(panel.layout().totalHeightForWidth(WIDTH), panel.layout().minimumHeightForWidth(WIDTH))
            panel.setFixedHeight(height)
        self.host.process()
        return panel.grab().toImage()


def phantom(studio: Studio, seed: int) -> None:
    """Add a phantom to the scene and choose it."""
    from PartialSegSlicer.logic.sampledata import addPhantom

    studio.widget._parameterNode.inputVolume = addPhantom(studio.widget.logic, seed)
    studio.widget._parameterNode.outputSegmentation = None


def choose(studio: Studio, *keys: str) -> None:
    """Choose structures, and wait for the forecast."""
    settings = studio.widget._parameterNode
    settings.tasks = list(keys)
    settings.quality = "fast"
    settings.uncertainty = True
    studio.until(lambda: studio.ui.forecastLabel.text.startswith("About"))


def side_by_side(images: Sequence[Any], path: Path) -> None:
    """Write pictures beside each other, with the caption below."""
    from PySide6 import QtCore, QtGui

    ratio = images[0].devicePixelRatio()
    gap, foot = round(14 * ratio), round(26 * ratio)
    wide = sum(image.width() for image in images) + gap * (len(images) + 1)
    high = max(image.height() for image in images) + gap + foot
    sheet = QtGui.QImage(wide, high, QtGui.QImage.Format.Format_RGB32)
    sheet.fill(QtGui.QColor("#dcdcdc"))
    painter = QtGui.QPainter()
    painter.begin(sheet)
    x = gap
    for image in images:
        image.setDevicePixelRatio(1)
        painter.drawImage(x, gap, image)
        x += image.width() + gap
    font = painter.font()
    font.setPixelSize(round(12 * ratio))
    painter.setFont(font)
    painter.setPen(QtGui.QColor("#444444"))
    line = QtCore.QRect(gap, high - foot, wide - 2 * gap, foot)
    painter.drawText(line, QtCore.Qt.AlignmentFlag.AlignVCenter, CAPTION)
    painter.end()
    save_small(sheet, path)


def save_small(image: Any, path: Path) -> None:
    """Write a picture with the 256 colors that it has most of: a panel looks the same, in a third of the size."""
    import numpy as np
    from PySide6 import QtCore, QtGui

    pixels = np.frombuffer(image.constBits(), np.uint32)
    colors, counts = np.unique(pixels | 0xFF000000, return_counts=True)
    table = [int(color) for color in colors[np.argsort(-counts)[:256]]]
    # Dithering compresses badly, and is not needed where nearly every color is in the table.
    plain = QtCore.Qt.ImageConversionFlag.ThresholdDither | QtCore.Qt.ImageConversionFlag.AvoidDither
    # 0 asks for the smallest file, not for the worst picture.
    image.convertToFormat(QtGui.QImage.Format.Format_Indexed8, table, plain).save(str(path), "PNG", 0)
    print(f"{path}: {path.stat().st_size // 1000} kB")


@contextmanager
def bare_python(folder: Path) -> Iterator[Path]:
    """Put a Python without packages in the place of Slicer's own, as on the first day."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
    program = folder / "PythonSlicer"
    program.write_text(f'#!/bin/sh\nexec "{folder / "bare" / "bin" / "python"}" "$@"\n', encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    try:
        yield program
    finally:
        os.environ["PATH"] = before


def work(studio: Studio) -> list[Any]:
    """Return the pictures of a run: chosen, running, finished."""
    phantom(studio, FIRST_PATIENT)
    choose(studio, "liver", "kidney/kidneys", "hepatic_vessel/hepatic_vessels", "pancreas/pancreas", "spleen")
    studio.sections("input", "task", "run")
    images = [studio.picture()]
    studio.ui.applyButton.click()
    bar = studio.ui.progressBar
    studio.until(lambda: studio.ui.statusLabel.text.startswith("Segmenting") and bar.value * 3 >= bar.maximum)
    images.append(studio.picture())
    finish(studio)
    save_case(studio)
    studio.ui.reviewNextButton.click()
    studio.sections("run", "result")
    images.append(studio.picture())
    return images


def learn(studio: Studio) -> list[Any]:
    """Return the pictures of a fine-tuning: under way, and judged on the second patient."""
    phantom(studio, SECOND_PATIENT)
    studio.ui.applyButton.click()
    finish(studio)
    save_case(studio)
    studio.ui.fineTuneButton.click()
    losses = studio.widget.panel.fineTuning._losses
    studio.sections("learn")
    studio.until(lambda: len(losses) > 100 or not studio.widget.logic.busy)
    images = [studio.picture()]
    finish(studio)
    return [*images, studio.picture()]


def finish(studio: Studio) -> None:
    """Wait for the end of what is under way; an error ends the pictures."""
    studio.until(lambda: not studio.widget.logic.busy)
    if not studio.ui.errorPanel.isHidden():
        raise SystemExit(f"{studio.ui.errorMessage.text} {studio.ui.errorHint.text}")


def save_case(studio: Studio) -> None:
    """Mark the kidneys and the spleen as corrected, and save them as a training case."""
    table = studio.ui.resultTable
    for row in range(table.rowCount):
        if table.item(row, 0).text() in ("Kidneys", "Spleen"):
            table.selectRow(row)
            studio.ui.correctedButton.click()
    studio.ui.saveCaseButton.click()


def trouble(studio: Studio) -> list[Any]:
    """Return the pictures of a worker that was killed, and of a first day."""
    studio.sections("run")
    studio.ui.applyButton.click()
    studio.until(lambda: studio.ui.progressBar.maximum > 1)
    psutil.Process(studio.widget.logic.session.client.hello["pid"]).kill()
    studio.until(lambda: not studio.widget.logic.busy)
    killed = studio.picture()
    studio.ui.errorCloseButton.click()
    with tempfile.TemporaryDirectory() as folder, bare_python(Path(folder)):
        check(studio)
        studio.sections("input", "setup")
        first_day = studio.picture()
    check(studio)
    return [first_day, killed]


def check(studio: Studio) -> None:
    """Look at the installation again, with a new worker."""
    studio.widget.logic.close()
    studio.ui.setupCheckButton.click()
    studio.until(lambda: not studio.widget.logic.session.active)


def main(folder: Path) -> None:
    """Make all pictures."""
    studio = Studio()
    with tempfile.TemporaryDirectory() as cases:
        os.environ["PARTIALSEG_CASES"] = cases
        studio.open()
        side_by_side(work(studio), folder / "panel.png")
        side_by_side(trouble(studio), folder / "panel-problems.png")
        side_by_side(learn(studio), folder / "panel-learning.png")
        studio.host.reset()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the pictures for the documentation.")
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parents[1] / "docs")
    parser.add_argument("--slicer-views", action="store_true", help="also draw the segments in real Slicer views")
    options = parser.parse_args()
    main(options.folder)
    if options.slicer_views:
        slicer_views.make(options.folder)
