"""``partialseg finetune``: a new model from a parent and a few annotated cases.

Registered through the entry point group ``partialseg.commands``. Nothing heavy is imported before the
command runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import CollectionError
from PartialSegLib.terminal import table, terminal_monitor
from PartialSegTraining.finetuning.contract import MODES, FineTuneOptions

if TYPE_CHECKING:
    from PartialSegLib.structures import LabelSpace
    from PartialSegTraining.cases import Case
    from PartialSegTraining.finetuning.contract import FineTuneResult

_DESCRIPTION = """\
Make a new model from a parent and one to twenty annotated cases. 'quick' learns the heads of the
annotated structures in a minute or so, can add structures, and leaves every other task as it was, bit
for bit; 'full' trains the whole network, with earlier cases (--replay) so that other structures do not
fade; 'transfer' takes a pretrained KiTS21 backbone to a new label space. The parent is not changed."""

_EPILOG = """\
A case is a folder with image.nii.gz and segmentations/STRUCTURE.nii.gz, as Slicer's side exports it; a
folder of such folders stands for all of them. --replay also takes collections (partialseg collection).
What a case does not annotate is unknown, not background.

examples:
  partialseg finetune demo cases/p1 cases/p2 --output runs/ft --held-out cases/p3
  partialseg finetune demo cases/p1 --output runs/ft --add-structure gallbladder --held-out cases/p2
  partialseg finetune demo cases --mode full --replay earlier --held-out checked --output runs/full"""


def register(subparsers: Any) -> None:
    """Add ``partialseg finetune`` to the command line."""
    parser = subparsers.add_parser(
        "finetune",
        help="teach a model with a few annotated cases",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", metavar="MODEL", help="the parent: name or folder of a model")
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE", help="case folders to learn from")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder that gets the new model")
    parser.add_argument("--mode", choices=MODES, default="quick", help="default: quick")
    for option, words in (
        ("--held-out", "case folders to judge on, never trained on"),
        ("--replay", "earlier case folders or collections, so that other structures do not fade (full)"),
    ):
        parser.add_argument(option, nargs="+", type=Path, default=[], metavar="CASE", help=words)
    parser.add_argument(
        "--structures", metavar="KEYS", help="use these annotations of the cases only (liver,spleen ...)"
    )
    parser.add_argument(
        "--add-structure", action="append", default=[], metavar="KEY", help="a structure new to the model (repeatable)"
    )
    parser.add_argument("--label-space", metavar="NAME", help="what 'transfer' learns (default: kits21)")
    parser.add_argument("--name", help="of the new model (default: that of its parent with the mode)")
    parser.add_argument("--head-steps", type=int, metavar="N", help="steps of the heads alone (quick: 300, else 50)")
    parser.add_argument("--warmup-steps", type=int, metavar="N", help="steps of a rising learning rate (default: 50)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the whole network after that (default: 400)")
    parser.add_argument("--window", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels of a training window")
    parser.add_argument("--batch", type=int, metavar="N", help="windows a step (default: 2)")
    parser.add_argument("--seed", type=int, help="decides every random choice (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg finetune`` and return its exit status."""
    from PartialSegLib import catalog
    from PartialSegTraining.finetuning.session import finetune

    parent = catalog.find(arguments.bundle)
    wanted = None
    if arguments.structures:
        wanted = parse_keys(arguments.structures)
    with terminal_monitor() as monitor:
        result = finetune(
            parent,
            read_cases(arguments.cases, wanted),
            arguments.output,
            mode=arguments.mode,
            held_out=read_cases(arguments.held_out),
            replay=read_cases(arguments.replay, space=parent.card.label_space),
            device=arguments.device,
            monitor=monitor,
            options=make_options(arguments),
        )
    print(json.dumps(result.to_json(), indent=1) if arguments.json else _text(result))
    return 0


def parse_keys(text: str) -> tuple[str, ...]:
    """Return the keys of a comma-separated list."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


def make_options(arguments: argparse.Namespace) -> FineTuneOptions:
    """Return what the command line chooses.

    Raises
    ------
    CollectionError
        When a value is out of range.
    """
    given = {
        item.name: getattr(arguments, item.name)
        for item in fields(FineTuneOptions)
        if getattr(arguments, item.name, None) is not None
    }
    # The command line has another word for this one, and uses this word for something else.
    given.pop("structures", None)
    given["add_structures"] = tuple(arguments.add_structure)
    if arguments.window is not None:
        given["window"] = tuple(arguments.window)
    try:
        return FineTuneOptions(**given)
    except ValueError as error:
        raise CollectionError(f"Such a fine-tuning is impossible: {error}.") from error


def read_cases(
    paths: Iterable[Path], structures: Iterable[str] | None = None, space: LabelSpace | None = None
) -> list[Case]:
    """Read case folders; a folder of case folders stands for all of them, a collection for its training cases.

    Parameters
    ----------
    paths : iterable of Path
        Case folders, folders of them, manifests (TOML) or folders with ``collection.json``.
    structures : iterable of str, optional
        Of case folders, only these annotations are used.
    space : LabelSpace, optional
        Knows the structures of collections; without it, they are not taken.

    Raises
    ------
    CollectionError
        When a path is nothing of this, or a case cannot be used.
    """
    from PartialSegTraining.datasets.collection import training_cases
    from PartialSegTraining.finetuning.casefolders import read_case_folder

    wanted = None if structures is None else tuple(structures)
    cases: list[Case] = []
    for path in paths:
        if space is not None and (path.suffix == ".toml" or (path / "collection.json").is_file()):
            cases += training_cases(path, space)[0]
            continue
        inner = sorted(item.parent for item in path.glob("*/image.nii.gz"))
        folders = [path] if (path / "image.nii.gz").is_file() or not inner else inner
        cases += [read_case_folder(folder, wanted) for folder in folders]
    return cases


def _text(result: FineTuneResult) -> str:
    """Return the table of what became of the structures, the verdict, and where the model lies."""
    rows = []
    for key in dict.fromkeys((*result.before, *result.after)):
        before, after = result.before.get(key), result.after.get(key)
        change = "new" if before is None else f"{100 * (after or 0.0) - 100 * before:+.1f}"
        shown = ["" if value is None else f"{value:.3f}" for value in (before, after)]
        rows.append((key, *shown, change))
    parts = [table(("Structure", "Dice before", "Dice after", "Points"), rows, right=(1, 2, 3)), ""] if rows else []
    parts += [result.verdict, f"{result.bundle} is ready ({result.seconds:.0f} s)."]
    return "\n".join(parts)
