"""Fixtures that several tests of the extension share, and the drawn cases of the other rooms."""

import sys
from pathlib import Path

from host import slicer_app
from logic_cases import logic, own_logic, own_packages, shared_logic, volume
from panel_cases import opened, panel
from worker_cases import client, long_scan, quick, random_model, scan

__all__ = [
    "client",
    "logic",
    "long_scan",
    "opened",
    "own_logic",
    "own_packages",
    "panel",
    "quick",
    "random_model",
    "scan",
    "shared_logic",
    "slicer_app",
    "volume",
]

for room in ("lib", "training"):
    sys.path.append(str(Path(__file__).parents[1] / room))
