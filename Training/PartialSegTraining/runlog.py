"""The log of a training: ``log.jsonl``, one JSON object a line, for people, plots and reports.

Written by the trainer's loop (:mod:`PartialSegTraining.loop`), by the first process alone where there
are several; read by anything that knows these kinds of lines. Every line has ``step``, the number of
steps made before it, and steps never fall from one line to the next.

- *training*, every ``log_every`` steps: ``loss``, the mean over the steps since the last such line;
  one number for each term of the loss, under its name (``dice``, ``bce`` ...; they add up to
  ``loss``); ``lr``, the learning rate of the last step; ``seconds_per_step``, wall-clock, without
  validations and checkpoints; ``waiting``, the part of that time (0 to 1) in which the training
  waited for its windows. Other numbers may follow under other names.
- *validation*, every ``validate_every`` steps and after the last one: ``validation``, an object with
  the Dice (0 to 1) of each structure that a held-out case annotates, the mean over cases where whole
  cases are measured; ``mean_dice``, the mean over those structures; ``best``, whether no earlier
  validation was as good; and where whole cases are measured ``cases``, an object with one object per
  held-out case, by its name, of the Dice of each structure (``null`` where neither the case nor the
  prediction has any voxel of it).
- *stop*, when a training ends before its last step because it no longer gets better: ``stopped``,
  the reason in words.

A reader ignores lines and names that it does not know, and a last line that was cut short.
"""

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


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, without a last one that was cut short; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def _step_of(line: str) -> float:
    """Return the step of a line; a line that was cut short counts as later than any other."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
