"""How good a segmentation or a model is: scores of cases, and ``partialseg evaluate``.

Two segmentations are compared structure by structure; a model is run over cases with a complete
annotation. The table of the result is made in :mod:`PartialSegTraining.scoretable`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegTraining.scoretable import CaseScores, ScoreTable

if TYPE_CHECKING:
    from PartialSegLib.images import Geometry, Image
    from PartialSegLib.inference import Predictor
    from PartialSegLib.segmentation import Segmentation
    from PartialSegTraining.cases import Case

_MASK_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Pair:
    """A predicted and a true segmentation of one case."""

    name: str
    prediction: Path
    reference: Path


def score_model(
    predictor: Predictor, cases: Iterable[Case], *, preset: str = "standard", tolerance_mm: float = 2.0
) -> Iterator[CaseScores]:
    """Segment cases one by one and score every structure that the case annotates.

    Parameters
    ----------
    predictor : Predictor
        The model, loaded.
    cases : iterable of Case
        An annotated structure without voxels counts as rightly absent, an unannotated one not at all.
    preset : str
        ``fast``, ``standard`` or ``paper``.
    tolerance_mm : float
        Tolerance of the surface Dice, in millimetres.

    Yields
    ------
    CaseScores
        Scores in the order of the label space, and the seconds that segmenting took.
    """
    from PartialSegLib.metrics import score_segmentation
    from PartialSegLib.segmentation import Segmentation

    space = predictor.label_space
    for case in cases:
        image, masks = case.load()
        keys = space.select(sorted(masks))
        reference = Segmentation.from_arrays(image.geometry, [space.structure(key) for key in keys], masks)
        started = time.perf_counter()
        prediction = predictor.segment(image, keys, preset).segmentation
        seconds = time.perf_counter() - started
        yield CaseScores(case.name, score_segmentation(prediction, reference, keys, tolerance_mm), seconds)


def score_pair(pair: Pair, image: Image | None = None, tolerance_mm: float = 2.0) -> tuple[CaseScores, Segmentation]:
    """Score the structures that prediction and reference have in common.

    Parameters
    ----------
    pair : Pair
        Files or folders of masks.
    image : Image, optional
        The scan: its grid is used for both.
    tolerance_mm : float
        Tolerance of the surface Dice, in millimetres.

    Returns
    -------
    scores : CaseScores
    reference : Segmentation
        For the names of its structures.

    Raises
    ------
    SegmentationError
        When the grids do not coincide.
    CollectionError
        When the two have no structure in common.
    """
    from PartialSegLib.metrics import score_segmentation

    reference = read_masks(pair.reference, image)
    prediction = read_masks(pair.prediction, image, reference.geometry)
    scores = score_segmentation(prediction, reference, tolerance_mm=tolerance_mm)
    if not scores:
        raise CollectionError(
            f"{pair.prediction} ({', '.join(prediction.keys)}) and {pair.reference} ({', '.join(reference.keys)}) "
            "have no structure in common.",
            "Structures are matched by their keys; mask files by their names.",
        )
    return CaseScores(pair.name, scores), reference


def find_pairs(prediction: Path, reference: Path) -> list[Pair]:
    """Match two segmentations, or two folders of ``.seg.nrrd`` files by their names.

    Raises
    ------
    CollectionError
        When a path does not exist, or a predicted case has no reference.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise CollectionError(f"{path} does not exist.", "Give two segmentations, or two folders of them.")
    files = sorted(prediction.glob("*.seg.nrrd")) if prediction.is_dir() else []
    if not files:
        return [Pair(prediction.name, prediction, reference)]
    missing = [file.name for file in files if not (reference / file.name).is_file()]
    if missing:
        raise CollectionError(f"{reference} has no {missing[0]}.", "Reference files are named as the predicted ones.")
    return [Pair(file.name.removesuffix(".seg.nrrd"), file, reference / file.name) for file in files]


def read_masks(path: Path, image: Image | None = None, geometry: Geometry | None = None) -> Segmentation:
    """Read a segmentation of any format, or a folder of ``KEY.nii.gz`` masks without an index.

    Parameters
    ----------
    path : Path
        File or folder.
    image : Image, optional
        The scan; its grid is used, and a DICOM segmentation is matched with its slices.
    geometry : Geometry, optional
        Grid to use when there is no image.
    """
    from PartialSegLib.segmentationfiles import read_segmentation

    if path.is_dir() and not (path / "segmentation.json").is_file():
        return _read_mask_files(path, geometry if image is None else image.geometry)
    return read_segmentation(path, geometry=geometry, image=image)


def _read_mask_files(folder: Path, geometry: Geometry | None) -> Segmentation:
    from PartialSegLib.images import read_labels
    from PartialSegLib.segmentation import Segmentation
    from PartialSegLib.structures import Code, Structure, catalogue
    from PartialSegTraining.cases import MaskFiles

    files = {file.name.removesuffix(_MASK_ENDING): file for file in sorted(folder.glob(f"*{_MASK_ENDING}"))}
    if not files:
        raise CollectionError(f"{folder} holds no masks.", f"Masks are named by structure, as liver{_MASK_ENDING}.")
    geometry = geometry or read_labels(next(iter(files.values()))).geometry
    tissue = (Code("85756007", "Tissue"), Code("85756007", "Tissue"), (128, 174, 128))
    known = catalogue()
    structures = [known.get(key) or Structure(key, key.replace("_", " ").capitalize(), *tissue) for key in files]
    masks = MaskFiles(tuple(files.items())).masks(geometry)
    return Segmentation.from_arrays(geometry, structures, masks)


def register(subparsers: Any) -> None:
    """Add ``partialseg evaluate`` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score segmentations against references, or a model on annotated cases",
        description="Dice, 95th percentile Hausdorff distance and surface Dice per structure. Either of two "
        "segmentations (files or folders), or of a model on the fully annotated test cases of a collection.",
    )
    parser.add_argument("prediction", nargs="?", type=Path, help="segmentation file, folder of masks or of .seg.nrrd")
    parser.add_argument("reference", nargs="?", type=Path, help="what is true, in the same form")
    parser.add_argument("--image", type=Path, help="the scan, when its grid is not named by the segmentations")
    parser.add_argument("--model", metavar="NAME", help="name or folder of a model to run")
    parser.add_argument("--collection", type=Path, metavar="DIR", help="collection whose folder 'test' has the cases")
    parser.add_argument("--preset", default="standard", choices=("fast", "standard", "paper"), help="default: standard")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N cases")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (default: 2)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write every score of every case as JSON")
    parser.add_argument("--json", action="store_true", help="print that report instead of the table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for a README")
    parser.add_argument("--card", action="store_true", help="write the means on the card of the model")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg evaluate`` and return its exit status."""
    by_pair = arguments.prediction is not None and arguments.reference is not None
    by_model = arguments.model is not None and arguments.collection is not None
    if by_pair == by_model:
        raise PartialSegError(
            "There is nothing to compare." if not by_pair else "There are two things to compare.",
            "Give a prediction and a reference, or --model and --collection.",
        )
    if arguments.limit is not None and arguments.limit < 1:
        raise PartialSegError(f"--limit {arguments.limit} leaves no case.", "Give at least 1.")
    if arguments.card and not by_model:
        raise PartialSegError("--card needs a model to write on.", "Give --model and --collection.")
    table = _run_model(arguments) if by_model else _run_pairs(arguments)
    report = json.dumps(table.report(), indent=1, allow_nan=False) + "\n"
    print(report if arguments.json else table.text())
    for path, content in (
        (arguments.report, report),
        (arguments.markdown, table.markdown()),
    ):
        if path is not None:
            write_report(path, content)
    return 0


def write_report(path: Path, content: str) -> None:
    """Write a text file, whole or not at all.

    Raises
    ------
    CollectionError
        When it cannot be written.
    """
    from PartialSegLib.atomic import atomic_write

    try:
        with atomic_write(path) as stream:
            stream.write(content.encode("utf-8"))
    except OSError as error:
        raise CollectionError(
            f"{path} cannot be written: {error.strerror or error}.", "Choose another file."
        ) from error


def _run_pairs(arguments: argparse.Namespace) -> ScoreTable:
    from PartialSegLib.images import read_image

    image = read_image(arguments.image) if arguments.image else None
    pairs = find_pairs(arguments.prediction, arguments.reference)[: arguments.limit]
    cases, structures = [], {}
    for pair in _progress(pairs):
        scores, reference = score_pair(pair, image, arguments.tolerance)
        cases.append(scores)
        structures.update({structure.key: structure for structure in reference.structures})
    subject = {"prediction": str(arguments.prediction), "reference": str(arguments.reference)}
    return ScoreTable(tuple(structures.values()), tuple(cases), arguments.tolerance, subject)


def _run_model(arguments: argparse.Namespace) -> ScoreTable:
    from PartialSegLib import catalog
    from PartialSegLib.inference import Predictor
    from PartialSegTraining.cases import read_mask_folders

    predictor = Predictor(catalog.find(arguments.model), arguments.device)
    cases = read_mask_folders(arguments.collection / "test", predictor.label_space)[: arguments.limit]
    scores = score_model(predictor, _progress(cases), preset=arguments.preset, tolerance_mm=arguments.tolerance)
    subject = {"model": predictor.bundle.card.name, "preset": arguments.preset, "cases": str(len(cases))}
    table = ScoreTable(predictor.label_space.structures, tuple(scores), arguments.tolerance, subject)
    if arguments.card:
        predictor.bundle.with_figures(table.figures())
    return table


def _progress(items: Sequence[Any]) -> Iterable[Any]:
    """Show a bar on a terminal, and nothing in a log file."""
    from tqdm import tqdm

    return tqdm(items, desc="evaluate", unit="case", file=sys.stderr, disable=None if len(items) > 1 else True)
