"""``partialseg demo``: one synthetic patient from DICOM to a picture, with the bundled model.

Makes a phantom as a DICOM series, reads it back, segments every task, writes the result in the
formats that 3D Slicer and a PACS read, draws a picture and scores it against the truth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import CollectionError, MissingExtraError
from PartialSegTraining.evaluation import write_report
from PartialSegTraining.scoretable import CaseScores, ScoreTable

if TYPE_CHECKING:
    from PartialSegLib.images import Image, Vector
    from PartialSegLib.inference import Predictor, Result
    from PartialSegLib.progress import Monitor
    from PartialSegLib.segmentation import Segmentation
    from PartialSegLib.structures import LabelSpace

#: What is written under the demo's picture.
FOOTER = "Synthetic phantom, not a patient. Not for clinical use."
#: The patient of the demo. Collections draw the seeds of their cases from all 32-bit numbers.
DEMO_SEED = 3
#: Voxel spacing (x, y, z) of the demo's scan, in millimetres.
DEMO_SPACING: Vector = (1.5, 1.5, 3.0)

_FOLDER, _NRRD, _DICOM, _PICTURE, _REPORT = "dicom", "result.seg.nrrd", "result.dcm", "picture.png", "report.json"


@dataclass
class Demo:
    """What a demo run made.

    Parameters
    ----------
    folder : Path
        Holds everything.
    files : list of Path
        In the order in which they were written.
    seconds : dict of str to float
        Time of each step.
    notes : list of str
        What this machine could not do, and why.
    table : ScoreTable, optional
        Scores against the truth, once the demo is through.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    table: ScoreTable | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure one step."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)


def run_demo(
    predictor: Predictor,
    folder: Path,
    *,
    seed: int = DEMO_SEED,
    spacing: Vector = DEMO_SPACING,
    preset: str = "standard",
    monitor: Monitor | None = None,
) -> Demo:
    """Carry out the demo.

    Parameters
    ----------
    predictor : Predictor
        The model, loaded.
    folder : Path
        Made when missing; files of an earlier demo are replaced.
    seed : int
        Decides the patient.
    spacing : tuple of float
        Voxel spacing (x, y, z) of the scan, in millimetres.
    preset : str
        ``fast``, ``standard`` or ``paper``.
    monitor : Monitor, optional
        Progress and cancellation of segmenting.

    Returns
    -------
    Demo
        Files, times, scores.
    """
    demo = Demo(folder)
    _make_folder(folder)
    with demo.step("phantom"):
        image, truth = _make_patient(folder / _FOLDER, seed, spacing, predictor.label_space)
        demo.files.append(folder / _FOLDER)
    with demo.step("segment"):
        result = predictor.segment(image, None, preset, monitor=monitor)
    with demo.step("write"):
        _write_result(demo, result.segmentation, image)
    with demo.step("picture"):
        _draw(demo, result.segmentation, image, f"Phantom {seed}")
    with demo.step("score"):
        demo.table = _score(result, truth, predictor, preset)
    _write_report(demo, result, seed)
    return demo


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CollectionError(
            f"{folder} cannot be made: {error.strerror or error}.", "Choose another folder."
        ) from error


def _make_patient(folder: Path, seed: int, spacing: Vector, space: LabelSpace) -> tuple[Image, Segmentation]:
    """Write a phantom as DICOM and return the scan as read back, with its truth."""
    from PartialSegLib.images import read_image
    from PartialSegLib.segmentation import Segmentation
    from PartialSegTraining.phantoms import generate_phantom, write_dicom_series

    keys = space.select()
    phantom = generate_phantom(seed, show=keys, spacing=spacing)
    # Slices of an earlier patient must not mix with these; anything else there is not the demo's to remove.
    for old in folder.glob("slice_*.dcm"):
        old.unlink()
    write_dicom_series(phantom.image, folder, seed=seed)
    image = read_image(folder)
    masks = {key: phantom.masks[key] for key in keys}
    truth = Segmentation.from_arrays(phantom.image.geometry, [space.structure(key) for key in keys], masks)
    return image, truth.on(image.geometry)


def _write_result(demo: Demo, segmentation: Segmentation, image: Image) -> None:
    from PartialSegLib.segmentationfiles import write_segmentation

    write_segmentation(segmentation, demo.folder / _NRRD)
    demo.files.append(demo.folder / _NRRD)
    if find_spec("highdicom") is None:
        demo.notes.append('No DICOM segmentation was written. Install it with: pip install "partialseg[dicom]".')
    elif any(mask.count for mask in segmentation.masks.values()):
        write_segmentation(segmentation, demo.folder / _DICOM, image=image)
        demo.files.append(demo.folder / _DICOM)


def _draw(demo: Demo, segmentation: Segmentation, image: Image, title: str) -> None:
    from PartialSegLib.rendering import render_overview

    try:
        demo.notes += render_overview(image, segmentation, demo.folder / _PICTURE, title=title, footer=FOOTER)
    except MissingExtraError as error:
        demo.notes.append(str(error))
    else:
        demo.files.append(demo.folder / _PICTURE)


def _score(result: Result, truth: Segmentation, predictor: Predictor, preset: str) -> ScoreTable:
    from PartialSegLib.metrics import score_segmentation

    scores = score_segmentation(result.segmentation, truth)
    subject = {"model": predictor.bundle.card.name, "preset": preset}
    return ScoreTable(truth.structures, (CaseScores("phantom", scores),), scores[0].tolerance_mm, subject)


def _write_report(demo: Demo, result: Result, seed: int) -> None:
    assert demo.table is not None
    document = {
        "phantom_seed": seed,
        "files": [path.name for path in demo.files],
        "seconds": demo.seconds,
        "notes": demo.notes,
        "run": result.report,
        "scores": demo.table.report(),
    }
    demo.files.append(demo.folder / _REPORT)
    write_report(demo.files[-1], json.dumps(document, indent=1) + "\n")


def register(subparsers: Any) -> None:
    """Add ``partialseg demo`` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="segment a synthetic patient and show the result",
        description="Make one synthetic patient as DICOM, segment every task with the bundled model, and write "
        "the result as .seg.nrrd and DICOM SEG, a picture, and a table of scores against the truth.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--model", default="demo", metavar="NAME", help="name or folder of a model (default: demo)")
    parser.add_argument("--seed", type=int, default=DEMO_SEED, help=f"decides the patient (default: {DEMO_SEED})")
    parser.add_argument("--preset", default="standard", choices=("fast", "standard", "paper"), help="default: standard")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg demo`` and return its exit status."""
    from PartialSegLib import catalog
    from PartialSegLib.inference import Predictor
    from PartialSegLib.terminal import terminal_monitor

    started = time.perf_counter()
    predictor = Predictor(catalog.find(arguments.model), arguments.device)
    with terminal_monitor() as monitor:
        demo = run_demo(predictor, arguments.output, seed=arguments.seed, preset=arguments.preset, monitor=monitor)
    assert demo.table is not None
    print(f"{demo.table.text()}\n")
    for path in demo.files:
        print(path)
    for note in demo.notes:
        print(f"Note: {note}")
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in demo.seconds.items())
    print(f"\n{time.perf_counter() - started:.1f} s in all: {steps}.")
    return 0
