"""Fixtures that several tests of the extension share, and the drawn cases of the library's tests."""

import sys
from pathlib import Path

from host import slicer_app
from logic_cases import logic, own_logic, shared_logic, volume
from worker_cases import client, long_scan, quick, random_model, scan

__all__ = [
    "client",
    "logic",
    "long_scan",
    "own_logic",
    "quick",
    "random_model",
    "scan",
    "shared_logic",
    "slicer_app",
    "volume",
]

sys.path.append(str(Path(__file__).parents[1] / "lib"))
