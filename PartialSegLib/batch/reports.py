"""The report of a batch: what became of every scan, as CSV for a spreadsheet and as JSON.

Written whole when a batch ends; that of a shard has the shard in its name. Imports no torch.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PartialSegLib.atomic import atomic_write
from PartialSegLib.batch.contract import BatchError, BatchJob, Outcome
from PartialSegLib.batch.scans import Shard


@dataclass(frozen=True)
class BatchReport:
    """What became of the scans of a batch, or of one shard of it.

    Parameters
    ----------
    job : BatchJob
        What was done to them.
    shard : Shard
        Which of them these are.
    outcomes : tuple of Outcome
        By name of the scan.
    """

    job: BatchJob
    shard: Shard
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The scans that could not be segmented."""
        return tuple(outcome for outcome in self.outcomes if not outcome.done)

    @property
    def paths(self) -> tuple[Path, Path]:
        """Where the report is written: CSV and JSON."""
        part = "" if self.shard.count == 1 else f"-{self.shard.number}-of-{self.shard.count}"
        return self.job.output / f"report{part}.csv", self.job.output / f"report{part}.json"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "model": str(self.job.model),
            "weights": self.job.weights,
            "structures": list(self.job.structures),
            "preset": self.job.preset,
            "format": self.job.format,
            "shard": f"{self.shard.number}/{self.shard.count}",
            "scans": len(self.outcomes),
            "done": len(self.outcomes) - len(self.failed),
            "failed": len(self.failed),
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
        }

    def to_csv(self) -> str:
        """Return one line a scan; volumes are in milliliters."""
        text = io.StringIO()
        volumes = [f"{key}_ml" for key in self.job.structures]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["scan", "state", "seconds", *volumes, "output", "image", "error", "message"])
        for outcome in self.outcomes:
            state = "failed" if not outcome.done else "done earlier" if outcome.earlier else "done"
            found = [outcome.volumes_ml.get(key, "") for key in self.job.structures]
            ends = [outcome.output, outcome.image, outcome.code, outcome.message]
            writer.writerow([outcome.scan, state, outcome.seconds, *found, *ends])
        return text.getvalue()


def write_report(report: BatchReport) -> None:
    """Write a report beside the results.

    Raises
    ------
    BatchError
        When it cannot be written.
    """
    table, document = report.paths
    texts = {table: report.to_csv(), document: json.dumps(report.to_json(), indent=1) + "\n"}
    for path, text in texts.items():
        try:
            with atomic_write(path) as file:
                file.write(text.encode())
        except OSError as error:
            raise BatchError(f"{path} cannot be written: {error.strerror}.", "Make room, then run it again.") from error
