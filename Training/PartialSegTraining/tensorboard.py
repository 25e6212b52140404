"""The log of a training as TensorBoard's event files (extra ``train``); written by the recorder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PartialSegLib.errors import MissingExtraError


class EventWriter:
    """Writes the lines of the log as scalars: ``train/loss``, ``train/lr``, ``validation/liver`` ...

    Parameters
    ----------
    folder : Path
        Of the event files; made when it is missing.
    step : int
        Step at which the training starts or goes on; TensorBoard drops what an interrupted run
        wrote of later steps.

    Raises
    ------
    MissingExtraError
        When TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("TensorBoard's event files", "train") from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line of ``log.jsonl`` (:mod:`PartialSegTraining.runlog`); what is no number is left out."""
        section = "validation" if "validation" in values else "train"
        numbers = {**values, **values.get("validation", {})}
        for name, value in numbers.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._writer.add_scalar(f"{section}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
