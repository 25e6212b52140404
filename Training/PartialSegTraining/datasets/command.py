"""``partialseg collection``: check a collection, list the presets, make one of them one's own.

Registered by :mod:`PartialSegTraining.cli`. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import CollectionError
from PartialSegLib.terminal import table, terminal_monitor

if TYPE_CHECKING:
    from PartialSegTraining.datasets.checking import CheckResult, Problem


def register(subparsers: Any) -> None:
    """Add ``partialseg collection`` to the command line."""
    parser = subparsers.add_parser(
        "collection",
        help="check partially labelled datasets before training on them",
        description="Collections of partially labelled datasets: a manifest (TOML) says where they lie, which "
        "structures their labels show, what each of them annotates, and how they are split.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _register_check(actions)
    presets = actions.add_parser("presets", help="list the manifests that come with PartialSeg")
    presets.add_argument("--json", action="store_true", help="print the list as JSON")
    presets.set_defaults(run=run_presets)
    copy = actions.add_parser(
        "copy",
        help="write a preset for datasets of one's own folder",
        description="Write the manifest of a preset with the folder in which its datasets lie, to train on "
        "(partialseg train RECIPE --collection MANIFEST) and to change.",
    )
    copy.add_argument("preset", help="name of the preset")
    copy.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder in which the datasets lie")
    copy.add_argument("--output", type=Path, required=True, metavar="FILE", help="manifest to write (TOML)")
    copy.set_defaults(run=run_copy)


def _register_check(actions: Any) -> None:
    check = actions.add_parser(
        "check",
        help="read every case and say what is wrong",
        description="Read every case: missing files, masks on another grid, labels outside the table, empty masks, "
        "cases in two splits, copies of a training image among the test images. Exit status 0 when nothing is wrong.",
    )
    check.add_argument("manifest", help="manifest (TOML), name of a preset, or folder with collection.json")
    check.add_argument("--root", type=Path, metavar="DIR", help="folder of the datasets, in place of the manifest's")
    check.add_argument("--dataset", action="append", metavar="NAME", help="check this dataset only (repeatable)")
    check.add_argument(
        "--label-space", metavar="NAME", help="of a folder with collection.json, in place of the one that it names"
    )
    check.add_argument("--workers", type=int, metavar="N", help="threads that read (default: one a core, up to 4)")
    check.add_argument("--json", action="store_true", help="print a report as JSON")
    check.set_defaults(run=run_check)


def run_check(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg collection check`` and return its exit status."""
    from PartialSegLib.structures import LabelSpace
    from PartialSegTraining.datasets.checking import check
    from PartialSegTraining.datasets.collection import open_collection, open_manifest
    from PartialSegTraining.datasets.manifest import read_manifest, with_datasets

    if arguments.workers is not None and arguments.workers < 1:
        raise CollectionError(f"--workers {arguments.workers} leaves nobody to read.", "Give 1 or more.")
    if arguments.dataset:
        manifest = read_manifest(arguments.manifest, arguments.root)
        collection = open_manifest(with_datasets(manifest, tuple(arguments.dataset)))
    else:
        space = LabelSpace.named(arguments.label_space) if arguments.label_space else None
        collection = open_collection(arguments.manifest, root=arguments.root, space=space)
    with terminal_monitor() as monitor:
        result = check(collection, workers=arguments.workers, monitor=monitor)
    print(_as_json(collection.name, result) if arguments.json else _as_text(collection.name, result))
    return 0 if result.good else CollectionError.exit_code


def run_presets(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg collection presets`` and return its exit status."""
    from PartialSegTraining.datasets.manifest import preset_names, read_manifest

    presets = [(name, read_manifest(name)) for name in preset_names()]
    if arguments.json:
        entries = [
            {"name": name, "datasets": [item.name for item in preset.datasets], "description": preset.description}
            for name, preset in presets
        ]
        print(json.dumps({"presets": entries}, indent=1))
    else:
        rows = [(name, str(len(preset.datasets)), preset.description) for name, preset in presets]
        print(table(("Preset", "Datasets", "Description"), rows, right=(1,)))
    return 0


def run_copy(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg collection copy`` and return its exit status."""
    from PartialSegLib.atomic import atomic_write
    from PartialSegTraining.datasets.manifest import preset_with_root

    text = preset_with_root(arguments.preset, arguments.root.resolve())
    if arguments.output.exists():
        raise CollectionError(f"{arguments.output} exists already.", "Choose another name, or remove it.")
    try:
        with atomic_write(arguments.output) as stream:
            stream.write(text.encode("utf-8"))
    except OSError as error:
        raise CollectionError(
            f"{arguments.output} cannot be written: {error.strerror}.", "Choose another folder."
        ) from error
    print(f"{arguments.output} is ready: partialseg collection check {arguments.output}")
    return 0


def _as_json(name: str, result: CheckResult) -> str:
    return json.dumps(
        {
            "collection": name,
            "good": result.good,
            "cases": result.cases,
            "problems": [asdict(problem) for problem in result.problems if not problem.is_note],
            "notes": [asdict(problem) for problem in result.problems if problem.is_note],
            "structures": [asdict(tally) for tally in result.tallies],
        },
        indent=1,
    )


def _as_text(name: str, result: CheckResult) -> str:
    """Return the table, then every note and problem in one line."""
    rows = [
        (
            item.structure,
            item.split,
            str(item.annotated),
            str(item.present),
            str(item.voxels),
            f"{item.milliliters:.1f}",
        )
        for item in result.tallies
    ]
    header = ("Structure", "Split", "Annotated", "Present", "Voxels", "ml")
    parts = [table(header, rows, right=(2, 3, 4, 5)), ""] if rows else []
    parts += [_line("note", problem) for problem in result.problems if problem.is_note]
    wrong = [problem for problem in result.problems if not problem.is_note]
    parts += [_line("error", problem) for problem in wrong]
    sizes = ", ".join(f"{count} {split}" for split, count in result.cases.items()) or "no cases"
    parts.append(f"{name}: {sizes}; {f'{len(wrong)} wrong' if wrong else 'nothing wrong'}.")
    return "\n".join(parts)


def _line(word: str, problem: Problem) -> str:
    where = f" [{problem.dataset}]" if problem.dataset else ""
    return f"{word}{where}: {' '.join(f'{problem.message} {problem.hint}'.split())}"
