"""``partialseg evaluate``: two segmentations, a model on a collection, or two models on the same cases."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegTraining.evaluation.files import find_pairs, write_report
from PartialSegTraining.evaluation.scoring import score_model, score_pair
from PartialSegTraining.scoretable import ScoreTable

if TYPE_CHECKING:
    from PartialSegLib.inference import Predictor
    from PartialSegLib.structures import LabelSpace
    from PartialSegTraining.cases import Case
    from PartialSegTraining.evaluation.comparison import Comparison
    from PartialSegTraining.evaluation.dodnet import DoDNetTable


def register(subparsers: Any) -> None:
    """Add ``partialseg evaluate`` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score segmentations against references, or a model on annotated cases",
        description="Dice, 95th percentile Hausdorff distance, surface Dice and mean surface distance per structure, "
        "with 95 % bootstrap intervals. Either of two segmentations (files or folders), or of a model on the cases of "
        "a collection; of two models on the same cases, with a paired test.",
    )
    parser.add_argument("prediction", nargs="?", type=Path, help="segmentation file, folder of masks or of .seg.nrrd")
    parser.add_argument("reference", nargs="?", type=Path, help="what is true, in the same form")
    parser.add_argument("--image", type=Path, help="the scan, when its grid is not named by the segmentations")
    parser.add_argument("--model", metavar="NAME", help="name or folder of a model to run")
    parser.add_argument("--compare", metavar="NAME", help="second model, run on the same cases and tested against it")
    parser.add_argument(
        "--collection", type=Path, metavar="PATH", help="manifest, or folder of phantoms whose folder 'test' has cases"
    )
    parser.add_argument("--split", default="test", help="cases of a collection to use (default: test)")
    parser.add_argument("--preset", default="standard", choices=("fast", "standard", "paper"), help="default: standard")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N cases")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (default: 2)")
    parser.add_argument(
        "--metric",
        default="ours",
        choices=("ours", "dodnet"),
        help="dodnet: also as in DoDNet's tables, in voxels of the model's grid and with its penalty of 373.13",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write every score of every case as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every score of every case as CSV")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with everything")
    parser.add_argument("--json", action="store_true", help="print that report instead of the table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for a README")
    parser.add_argument("--card", action="store_true", help="write the means on the card of the model")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg evaluate`` and return its exit status."""
    by_model = _check(arguments)
    comparison: Comparison | None = None
    if by_model:
        table, dodnet, comparison = _run_models(arguments)
    else:
        table, dodnet = _run_pairs(arguments)
    _write(arguments, table, dodnet, comparison)
    return 0


def _check(arguments: argparse.Namespace) -> bool:
    """Refuse half a question; return whether a model is to be run."""
    by_pair = arguments.prediction is not None and arguments.reference is not None
    by_model = arguments.model is not None and arguments.collection is not None
    if by_pair == by_model:
        raise PartialSegError(
            "There is nothing to compare." if not by_pair else "There are two things to compare.",
            "Give a prediction and a reference, or --model and --collection.",
        )
    if arguments.limit is not None and arguments.limit < 1:
        raise PartialSegError(f"--limit {arguments.limit} leaves no case.", "Give at least 1.")
    for option in ("card", "compare"):
        if getattr(arguments, option) and not by_model:
            raise PartialSegError(f"--{option} needs a model.", "Give --model and --collection.")
    return by_model


def _write(
    arguments: argparse.Namespace, table: ScoreTable, dodnet: DoDNetTable | None, comparison: Comparison | None
) -> None:
    """Print the result and write the files that were asked for."""
    document = table.report()
    texts, marked = [table.text()], [table.markdown()]
    if dodnet is not None:
        document["dodnet"] = dodnet.report()
        texts.append(dodnet.text())
    if comparison is not None:
        document["comparison"] = comparison.report()
        texts.append(comparison.text())
        marked.append(comparison.markdown())
    report = json.dumps(document, indent=1, allow_nan=False) + "\n"
    print(report if arguments.json else "\n\n".join(texts))
    if arguments.report is not None:
        write_report(arguments.report, report)
    if arguments.markdown is not None:
        write_report(arguments.markdown, "\n".join(marked))
    if arguments.csv is not None or arguments.html is not None:
        from PartialSegTraining.evaluation.documents import csv_scores, html_report

        if arguments.csv is not None:
            write_report(arguments.csv, csv_scores(table))
        if arguments.html is not None:
            write_report(arguments.html, html_report(table, comparison, dodnet))


def _run_pairs(arguments: argparse.Namespace) -> tuple[ScoreTable, DoDNetTable | None]:
    from PartialSegLib.images import read_image

    image = read_image(arguments.image) if arguments.image else None
    pairs = find_pairs(arguments.prediction, arguments.reference)[: arguments.limit]
    cases, structures, dodnet = [], {}, _dodnet_table(arguments, None)
    for pair in _progress(pairs):
        scores, prediction, reference = score_pair(pair, image, arguments.tolerance)
        cases.append(scores)
        structures.update({structure.key: structure for structure in reference.structures})
        if dodnet is not None:
            dodnet.names.update({structure.key: structure.name for structure in reference.structures})
            dodnet.add(pair.name, prediction, reference)
    subject = {"prediction": str(arguments.prediction), "reference": str(arguments.reference)}
    return ScoreTable(tuple(structures.values()), tuple(cases), arguments.tolerance, subject), dodnet


def _run_models(arguments: argparse.Namespace) -> tuple[ScoreTable, DoDNetTable | None, Comparison | None]:
    from PartialSegLib import catalog
    from PartialSegLib.inference import Predictor

    predictor = Predictor(catalog.find(arguments.model), arguments.device)
    dodnet = _dodnet_table(arguments, predictor)
    table = _score(predictor, arguments, dodnet)
    if arguments.card:
        predictor.bundle.with_figures(table.figures())
    if not arguments.compare:
        return table, dodnet, None
    from PartialSegTraining.evaluation.comparison import compare_tables

    second = Predictor(catalog.find(arguments.compare), arguments.device)
    # Versions of one model have one name.
    names = (arguments.model, arguments.compare)
    return table, dodnet, compare_tables(table, _score(second, arguments, None), names)


def _score(predictor: Predictor, arguments: argparse.Namespace, dodnet: DoDNetTable | None) -> ScoreTable:
    """Run one model over the cases."""
    cases = _cases(arguments, predictor.label_space)
    scores = score_model(
        predictor,
        _progress(cases),
        preset=arguments.preset,
        tolerance_mm=arguments.tolerance,
        witness=None
        if dodnet is None
        else lambda case, image, prediction, reference: dodnet.add(case.name, prediction, reference),
    )
    subject = {"model": predictor.bundle.card.name, "preset": arguments.preset, "cases": str(len(cases))}
    return ScoreTable(predictor.label_space.structures, tuple(scores), arguments.tolerance, subject)


def _cases(arguments: argparse.Namespace, space: LabelSpace) -> list[Case]:
    """Return the cases to run on: of a manifest, or of a folder of phantoms."""
    from PartialSegTraining.cases import read_mask_folders
    from PartialSegTraining.datasets.collection import open_collection

    path = arguments.collection
    if path.is_dir() and arguments.split == "test":
        return read_mask_folders(path / "test", space)[: arguments.limit]
    collection = open_collection(path, space=space)
    for _, error in collection.problems:
        raise error
    cases = collection.cases(arguments.split)[: arguments.limit]
    if not cases:
        splits = sorted({member.split for member in collection.members})
        raise CollectionError(f"{path} has no case in '{arguments.split}'.", f"Its splits: {', '.join(splits)}.")
    return cases


def _dodnet_table(arguments: argparse.Namespace, predictor: Predictor | None) -> DoDNetTable | None:
    """Return the table to fill, when DoDNet's metric was asked for."""
    if arguments.metric != "dodnet":
        return None
    from PartialSegTraining.evaluation.dodnet import DoDNetTable

    if predictor is None:
        return DoDNetTable({}, None)
    names = {structure.key: structure.name for structure in predictor.label_space.structures}
    return DoDNetTable(names, predictor.bundle.card.preprocessing.spacing)


def _progress(items: Sequence[Any]) -> Iterable[Any]:
    """Show a bar on a terminal, and nothing in a log file."""
    from tqdm import tqdm

    return tqdm(items, desc="evaluate", unit="case", file=sys.stderr, disable=None if len(items) > 1 else True)
