"""What a training says of itself while it runs: losses gathered step by step, written now and then.

Losses stay on the device until a line is written, so that a GPU never waits for its log. Called by
the trainer's loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from PartialSegLib.errors import CollectionError
from PartialSegTraining.losses import LossTerms
from PartialSegTraining.runlog import RunLog
from PartialSegTraining.tensorboard import EventWriter


class Recorder:
    """Gathers losses and writes them, and whatever else is measured, to the log of the run.

    Parameters
    ----------
    folder : Path
        Of the run, which exists; ``None`` in processes that do not write.
    step : int
        Step at which the training starts or goes on.
    tensorboard : bool
        Write event files too, in ``tensorboard/``.

    Raises
    ------
    MissingExtraError
        When event files are wanted, but TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, step: int, *, tensorboard: bool = False) -> None:
        # Asked for first: without it the log of an earlier run stays as it is.
        self._events = EventWriter(folder / "tensorboard", step) if folder is not None and tensorboard else None
        self._log = None if folder is None else RunLog(folder / "log.jsonl", step)
        self._losses: list[LossTerms] = []
        self._waited = 0.0
        self._started = time.monotonic()

    def add(self, loss: LossTerms) -> None:
        """Take the detached loss of a step; nothing waits for the device."""
        self._losses.append(loss)

    def flush(self, step: int, rate: float, waited: float) -> None:
        """Write the mean of the losses since the last time.

        Parameters
        ----------
        step : int
            Steps made so far.
        rate : float
            Learning rate of the last one.
        waited : float
            Seconds that the training has waited for its batches so far.

        Raises
        ------
        CollectionError
            When the loss is not finite.
        """
        if not self._losses:
            return
        count, names = len(self._losses), list(self._losses[0].terms)
        terms = torch.stack([torch.stack(list(loss.terms.values())) for loss in self._losses]).mean(0).tolist()
        self._losses.clear()
        total = sum(terms)
        if not math.isfinite(total):
            raise CollectionError(
                f"The training diverged: its loss is {total} after {step} steps.",
                "Lower 'learning_rate', or train in float32; the last checkpoint is from before.",
            )
        seconds = time.monotonic() - self._started
        share = min(1.0, (waited - self._waited) / seconds) if seconds else 0.0
        values = {"loss": total, **dict(zip(names, terms, strict=True)), "lr": rate}
        values = {name: float(f"{value:.6g}") for name, value in values.items()}
        self.write(step, {**values, "seconds_per_step": round(seconds / count, 4), "waiting": round(share, 4)})
        self._waited = waited
        self.resume()

    def resume(self) -> None:
        """Count the time from here: what came before was no step."""
        self._started = time.monotonic()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line of what was measured at a step."""
        for target in (self._log, self._events):
            if target is not None:
                target.write(step, values)

    def close(self) -> None:
        """Close what is open."""
        if self._events is not None:
            self._events.close()
