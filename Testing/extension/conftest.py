"""Fixtures that several tests of the extension share, and the drawn cases of the library's tests."""

import sys
from pathlib import Path

from host import slicer_app
from worker_cases import random_model, scan

__all__ = ["random_model", "scan", "slicer_app"]

sys.path.append(str(Path(__file__).parents[1] / "lib"))
