"""``partialseg segment``: one scan in, overlapping masks out; or a folder of scans.

Everything that can be wrong with the command (tasks, names of outputs, model) is found before the
scan is read, and everything that can be wrong with the scan before the network runs. Folders of
scans are :mod:`PartialSegLib.commands.segmentfolder`'s.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib import catalog
from PartialSegLib.commands import segmentfolder
from PartialSegLib.errors import ImageError, PartialSegError, SegmentationError
from PartialSegLib.inference.presets import PRESETS
from PartialSegLib.terminal import table, terminal_monitor

if TYPE_CHECKING:
    from PartialSegLib.bundle import ModelBundle
    from PartialSegLib.images import Image
    from PartialSegLib.inference import Result

_EPILOG = """\
examples:
  partialseg segment scan.nii.gz -o result.seg.nrrd
  partialseg segment dicom_folder --tasks liver,kidney_tumor -o result.dcm -o masks
  partialseg segment scan.nrrd --region -120 40 -90 90 600 800 -o result.seg.nrrd
  partialseg segment scans --shard 2/8 -o results

formats of OUT, by its name:
  NAME.seg.nrrd  one file with overlapping segments, as 3D Slicer writes and reads it
  NAME.dcm       DICOM Segmentation, when IMAGE is a DICOM series (extra: dicom)
  FOLDER         one NIfTI mask per structure"""


def register(subparsers: Any) -> None:
    """Add ``partialseg segment`` to the command line."""
    parser = subparsers.add_parser(
        "segment",
        help="segment a CT scan, or a folder of them",
        description="Segment the chosen tasks of a CT scan. Every structure becomes a mask of its own on the grid of "
        "the scan; masks may overlap.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE", help="NIfTI, NRRD or MetaImage file, a DICOM folder, or a folder of scans")
    add(
        "--tasks",
        action="append",
        metavar="A,B",
        help="tasks or structures, separated by commas (default: all; see 'partialseg tasks')",
    )
    add("-o", "--output", action="append", required=True, type=Path, metavar="OUT", help="may be repeated; see below")
    add("--model", metavar="NAME", help="name or folder of a model (default: the bundled one)")
    add(
        "--preset",
        default="standard",
        choices=tuple(PRESETS),
        help="; ".join(f"{preset.name}: {preset.description}" for preset in PRESETS.values()) + " (default: standard)",
    )
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    add("--threads", type=_positive, metavar="N", help="CPU threads (default: one a core)")
    add("--series", metavar="UID", help="which series of a DICOM folder: its UID, the start of it, or its description")
    add(
        "--region",
        nargs=6,
        type=float,
        metavar=("X0", "X1", "Y0", "Y1", "Z0", "Z1"),
        help="segment this box only, in LPS millimetres",
    )
    add("--uncertainty", type=Path, metavar="FILE", help="write the mean binary entropy (bits) as an image")
    add("--report", type=Path, metavar="FILE", help="write the report as JSON")
    add("--json", action="store_true", help="print the report as JSON")
    add("--quiet", action="store_true", help="show no progress")
    segmentfolder.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg segment`` and return its exit status."""
    if segmentfolder.is_batch(arguments):
        bundle = catalog.find(arguments.model)
        chosen = bundle.card.label_space.select(_names(arguments.tasks))
        return segmentfolder.run_batch_command(arguments, bundle, chosen)
    _check_outputs(arguments)
    bundle = catalog.find(arguments.model)
    names = _names(arguments.tasks)
    # A name that is wrong is said before a large image is read.
    bundle.card.label_space.select(names)
    image = _read(arguments)
    result = _segment(arguments, bundle, image, names)
    written, problem = _write(arguments, result, image)
    report = _report(arguments.image, result, written)
    if arguments.report:
        _write_report(report, arguments.report)
    print(json.dumps(report, indent=1, ensure_ascii=False) if arguments.json else _text(report))
    if problem is not None:
        raise problem
    return 0


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse outputs that could not be written after the run."""
    from PartialSegLib.images import WRITABLE
    from PartialSegLib.segmentationfiles import check_target

    source = arguments.image.resolve()
    files = [path for path in (arguments.uncertainty, arguments.report) if path is not None]
    for path in (*arguments.output, *files):
        if path.resolve() == source:
            raise SegmentationError(f"'{path}' is the scan itself.", "Choose another name for the output.")
    for path in arguments.output:
        check_target(path)
    if arguments.uncertainty and not arguments.uncertainty.name.lower().endswith(WRITABLE):
        raise ImageError(f"Images cannot be written as '{arguments.uncertainty.name}'.", f"Use {', '.join(WRITABLE)}.")
    for path in files:
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise SegmentationError(f"There is no folder '{path.parent}' that may be written.", "Make it first.")


def _names(tasks: list[str] | None) -> list[str] | None:
    """Split ``--tasks``; ``None`` for all of them."""
    if tasks is None:
        return None
    names = [name.strip() for text in tasks for name in text.split(",")]
    return [name for name in names if name]


def _read(arguments: argparse.Namespace) -> Image:
    from PartialSegLib.images import read_image
    from PartialSegLib.segmentationfiles import check_target

    image = read_image(arguments.image, arguments.series)
    for path in arguments.output:
        check_target(path, image)
    return image


def _segment(arguments: argparse.Namespace, bundle: ModelBundle, image: Image, names: list[str] | None) -> Result:
    import torch

    from PartialSegLib.inference import Predictor

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    region = arguments.region and tuple(arguments.region)
    with terminal_monitor(quiet=arguments.quiet) as monitor:
        return Predictor(bundle, arguments.device).segment(
            image,
            names,
            arguments.preset,
            region=region,
            uncertainty=arguments.uncertainty is not None,
            monitor=monitor,
        )


def _write(arguments: argparse.Namespace, result: Result, image: Image) -> tuple[list[str], PartialSegError | None]:
    """Write every output; one that fails does not cost the others. Return their names and the first error."""
    from PartialSegLib.images import write_image
    from PartialSegLib.segmentationfiles import write_segmentation

    written: list[str] = []
    problem: PartialSegError | None = None
    for path in arguments.output:
        try:
            write_segmentation(result.segmentation, path, image=image)
            written.append(str(path))
        except PartialSegError as error:
            problem = problem or error
    if arguments.uncertainty and result.uncertainty is not None:
        try:
            write_image(result.uncertainty, arguments.uncertainty)
            written.append(str(arguments.uncertainty))
        except PartialSegError as error:
            problem = problem or error
    return written, problem


def _report(source: Path, result: Result, written: list[str]) -> dict[str, Any]:
    """Return the report of the run, with what was found and where it was written."""
    segmentation = result.segmentation
    return result.report | {
        "image": str(source),
        "outputs": written,
        "structures": [
            {
                "key": structure.key,
                "name": structure.name,
                "voxels": segmentation.masks[structure.key].count,
                "volume_ml": round(segmentation.volume_ml(structure.key), 3),
            }
            for structure in segmentation.structures
        ],
    }


def _write_report(report: dict[str, Any], path: Path) -> None:
    from PartialSegLib.atomic import atomic_write

    try:
        with atomic_write(path) as stream:
            stream.write((json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise SegmentationError(
            f"{path} could not be written: {error.strerror or error}.", "Choose another file."
        ) from error


def _text(report: dict[str, Any]) -> str:
    """Return a report as a person reads it."""
    found = report["structures"]
    rows = [(item["name"], f"{item['voxels']:,}", f"{item['volume_ml']:.1f}") for item in found]
    lines = [table(("Structure", "Voxels", "Volume (ml)"), rows, right=(1, 2)), ""]
    absent = [item["name"] for item in found if not item["voxels"]]
    if absent:
        lines.append(f"Not found (0 voxels): {', '.join(absent)}")
    lines += [f"Note: {note}" for note in (*report["corrections"], *report["steps"])]
    lines += [f"Wrote {path}" for path in report["outputs"]]
    lines.append(
        f"{report['seconds']['total']:.1f} s, {report['windows']} windows on {report['device']} "
        f"({report['engine']}), model {report['model']}, preset {report['preset']}."
    )
    return "\n".join(lines)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of threads")
    return int(text)
