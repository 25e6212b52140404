"""The log of a training: one JSON object a line, for people and for plots; written by the trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PartialSegLib.atomic import atomic_write


class RunLog:
    """Appends lines to ``log.jsonl``.

    Parameters
    ----------
    path : Path
        The file; its folder exists.
    step : int
        Step at which the training starts or goes on. Lines of later steps, made after the last
        checkpoint of an interrupted run, are dropped: those steps are made again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= step] if step else []
        with atomic_write(path) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append what was measured at a step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _step_of(line: str) -> float:
    """Return the step of a line; a line that was cut short counts as later than any other."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
