"""``partialseg import``: published weights become an installed model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib import catalog

if TYPE_CHECKING:
    from PartialSegLib.bundle import ModelBundle

_EPILOG = """\
examples:
  partialseg import MOTS_DynConv_checkpoint.pth
  partialseg import MOTS_DynConv_checkpoint.pth --spacing paper --as dodnet-paper-spacing
  partialseg import Task100_MultiTalent.zip --network unet
  partialseg import nnUNet/3d_fullres/Task100_MultiTalent --fold each
  partialseg import nnUNet_results/Dataset007_Pancreas/nnUNetTrainer__nnUNetPlans__3d_fullres
  partialseg import universal_Task02_Heart_Task03_Liver_epoch300_190701.pth.tar --task liver

docs/published-models.md says what can be imported, where it comes from and what is known of it.
Files are read so that nothing in them can run."""


def register(subparsers: Any) -> None:
    """Add ``partialseg import`` to the command line."""
    parser = subparsers.add_parser(
        "import",
        help="turn published weights into a model",
        description="Turn a published checkpoint (DoDNet, MultiTalent, 3D U2-Net) or a trained folder of nnU-Net v2 "
        "into an installed model. Files are only read. Models go to the model folder, which the environment variable "
        f"{catalog.FOLDER_VARIABLE} moves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("path", type=Path, metavar="FILE_OR_FOLDER", help="checkpoint file, zip or results folder")
    add("--as", dest="name", metavar="NAME", help="name of the model (default: that of the published one)")
    add(
        "--spacing",
        choices=("author", "paper"),
        help="DoDNet: the network's spacing after the author's word on the checkpoint (3 x 0.76 x 0.76 mm, the "
        "default) or after the paper (1.5 x 0.8 x 0.8 mm)",
    )
    add("--network", choices=("unet", "resenc"), help="MultiTalent: one of its networks (default: all that are there)")
    add("--fold", metavar="N", help="MultiTalent, nnU-Net: fold 0, 1 ... or 'each' for all (default: the first)")
    add("--label-space", metavar="NAME", help="name or file of the label space of a fine-tuned network")
    add("--task", metavar="KEY", help="3D U2-Net: one of its tasks (default: a model of each)")
    add("--overwrite", action="store_true", help="replace an installed model of the same name")
    add("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg import`` and return its exit status."""
    from PartialSegLib.published import ImportOptions
    from PartialSegLib.published.importing import import_models

    options = ImportOptions(
        name=arguments.name,
        spacing=arguments.spacing,
        network=arguments.network,
        fold=arguments.fold,
        label_space=arguments.label_space,
        task=arguments.task,
    )
    bundles = import_models(arguments.path, options, overwrite=arguments.overwrite)
    if arguments.json:
        print(json.dumps({"models": [describe(bundle) for bundle in bundles]}, indent=1, ensure_ascii=False))
    else:
        print("\n\n".join(_text(bundle) for bundle in bundles))
    return 0


def describe(bundle: ModelBundle) -> dict[str, Any]:
    """Return what was imported as JSON."""
    card = bundle.card
    return {
        "name": card.name,
        "folder": str(bundle.folder),
        "title": card.title,
        "network": card.network,
        "network_parameters": dict(card.network_parameters),
        "spacing": list(card.preprocessing.spacing),
        "window": list(card.window),
        "tasks": len(card.label_space.tasks),
        "structures": list(card.label_space.select()),
        "license": card.license,
        "provenance": dict(card.provenance),
        "weights": dict(card.weights),
    }


def _text(bundle: ModelBundle) -> str:
    """Return what was imported as a person reads it, and what to run next."""
    card, came = bundle.card, bundle.card.provenance
    spacing = " x ".join(f"{value:g}" for value in card.preprocessing.spacing)
    lines = [
        f"{card.title}: model '{card.name}' in {bundle.folder}",
        f"  {card.network}, {len(card.label_space.tasks)} tasks, {len(card.label_space.select())} structures, "
        f"{card.weights['bytes'] / 2**20:.0f} MiB, spacing {spacing} mm (network's x, y, z)",
        *(f"  {name.replace('_', ' ')}: {value}" for name, value in came["choices"].items()),
        *(f"  {item['file']}: SHA-256 {item['sha256']}" for item in came["imported_from"]),
        f"  license: {card.license}",
        f"Next: partialseg tasks --model {card.name}",
        f"      partialseg segment scan.nii.gz --model {card.name} -o result.seg.nrrd",
    ]
    return "\n".join(lines)
