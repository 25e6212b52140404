"""``partialseg report RUN``: what a training did, on one page that needs no network."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import PartialSegError

if TYPE_CHECKING:
    from PartialSegLib.bundle import ModelBundle
    from PartialSegLib.progress import Monitor
    from PartialSegTraining.cases import Case
    from PartialSegTraining.report.measuring import Measured

#: Name of the page in the folder of a training.
PAGE = "report.html"


def register(subparsers: Any) -> None:
    """Add ``partialseg report`` to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="write a page about a training: curves, scores, best and worst case",
        description="Write one HTML page that needs no network: loss curves, Dice of each structure on held-out and on "
        "test cases with 95 % intervals, and pictures of the best and the worst case.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the training (--output of train)")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"the page (default: RUN/{PAGE})")
    parser.add_argument(
        "--collection",
        type=Path,
        metavar="PATH",
        help="manifest or folder with test cases (default: RUN/collection, where train made phantoms)",
    )
    parser.add_argument("--model", metavar="NAME", help="model to measure (default: the newest one in RUN)")
    parser.add_argument("--limit", type=int, metavar="N", help="measure on so many test cases")
    parser.add_argument("--preset", default="standard", choices=("fast", "standard", "paper"), help="default: standard")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--no-pictures", action="store_true", help="leave out the pictures")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg report`` and return its exit status."""
    from PartialSegLib import catalog
    from PartialSegLib.bundle import ModelBundle
    from PartialSegLib.terminal import terminal_monitor
    from PartialSegTraining.evaluation.files import write_report
    from PartialSegTraining.report.page import page
    from PartialSegTraining.report.training import Run, sections

    if arguments.limit is not None and arguments.limit < 1:
        raise PartialSegError(f"--limit {arguments.limit} leaves no case.", "Give at least 1.")
    told = Run.read(arguments.run_folder)
    bundles = told.bundles()
    bundle: ModelBundle | None = None
    if arguments.model is not None:
        bundle = catalog.find(arguments.model)
    elif bundles:
        bundle = ModelBundle.open(bundles[0])
    space = None if bundle is None else bundle.card.label_space
    output = arguments.output or arguments.run_folder / PAGE
    # Pictures go into the page, so their files may go.
    with terminal_monitor() as monitor, tempfile.TemporaryDirectory() as drawn:
        measured = None if bundle is None else _measure(arguments, bundle, Path(drawn), monitor)
        parts = sections(told, space, None if bundle is None else bundle.card, measured)
        title = arguments.run_folder.resolve().name if bundle is None else bundle.card.title
        write_report(output, page("Training report", title, parts))
    print(output)
    return 0


def _measure(arguments: argparse.Namespace, bundle: ModelBundle, drawn: Path, monitor: Monitor) -> Measured | None:
    """Run the model over the test cases, where there are any."""
    from PartialSegLib.inference import Predictor
    from PartialSegTraining.report.measuring import measure

    cases, phantoms = _cases(arguments, bundle)
    if not cases:
        return None
    return measure(
        Predictor(bundle, arguments.device),
        cases,
        drawn,
        preset=arguments.preset,
        pictures=not arguments.no_pictures,
        footer="Synthetic phantom, not a patient" if phantoms else "",
        monitor=monitor,
    )


def _cases(arguments: argparse.Namespace, bundle: ModelBundle) -> tuple[list[Case], bool]:
    """Return the test cases, and whether they are phantoms."""
    from PartialSegTraining.datasets.collection import open_collection
    from PartialSegTraining.phantoms.collection import DESCRIPTION

    path = arguments.collection or arguments.run_folder / "collection"
    if arguments.collection is None and not (path / DESCRIPTION).is_file():
        return [], False
    collection = open_collection(path, space=bundle.card.label_space)
    for _, error in collection.problems:
        raise error
    return collection.cases("test")[: arguments.limit], (path / DESCRIPTION).is_file()
