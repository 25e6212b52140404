"""``partialseg info``: what is installed here. Imports neither torch nor numpy, and answers at once."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import PartialSegLib
from PartialSegLib import catalog
from PartialSegLib.commands.models import describe
from PartialSegLib.inference.presets import PRESETS
from PartialSegLib.terminal import table

#: Distributions that decide what this installation can do, and what each is for.
PACKAGES = {
    "torch": "networks",
    "numpy": "arrays",
    "SimpleITK": "image files",
    "safetensors": "weights",
    "connected-components-3d": "post-processing",
    "scipy": "metrics",
    "openvino": "computes networks on Intel processors (extra: cpu)",
    "pydicom": "DICOM (extra: dicom)",
    "highdicom": "DICOM segmentations (extra: dicom)",
    "vtk": "pictures (extra: render)",
    "surface-distance": "surface distances (extra: evaluation)",
    "monai": "MultiTalent's SwinUNETR (extra: swin)",
    "dynamic-network-architectures": "networks of nnU-Net v2 (extra: nnunet)",
}


def register(subparsers: Any) -> None:
    """Add ``partialseg info`` to the command line."""
    parser = subparsers.add_parser(
        "info",
        help="show versions, optional packages and models",
        description="Show the version, the optional packages, the presets and the models of this installation.",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg info`` and return its exit status."""
    document = collect()
    if arguments.json:
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return 0
    print(f"PartialSeg {document['version']}, Python {document['python']}, {document['platform']}\n")
    rows = [(name, document["packages"][name] or "not installed", use) for name, use in PACKAGES.items()]
    print(table(("Package", "Version", "For"), rows))
    print("\nPresets")
    for preset in document["presets"]:
        print(f"  {preset['name']}: {preset['description']}")
    print(f"\nModels are installed in {document['model_folder']}")
    for model in document["models"]:
        print(f"  {model['name']}: {model['problem'] or model['title']}")
    return 0


def collect() -> dict[str, Any]:
    """Return everything that ``partialseg info --json`` prints."""
    return {
        "version": PartialSegLib.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "presets": [{"name": preset.name, "description": preset.description} for preset in PRESETS.values()],
        "model_folder": str(catalog.model_folder()),
        "models": [describe(entry) for entry in catalog.models()],
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
