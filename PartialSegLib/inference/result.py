"""What a run gives back, and what its report says of how it was computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PartialSegLib.images import Image
from PartialSegLib.inference.passes import Outcome
from PartialSegLib.inference.planner import Forecast
from PartialSegLib.segmentation import Segmentation


@dataclass(frozen=True)
class Result:
    """What a run gives back.

    Parameters
    ----------
    segmentation : Segmentation
        One mask per chosen structure, on the image's own grid.
    report : dict
        Model, device, times, windows, forecast, steps taken when memory ran out, volumes; JSON.
    uncertainty : Image, optional
        float32 mean binary entropy of the chosen structures in bits, 0 outside the computed region.
    """

    segmentation: Segmentation
    report: dict[str, Any]
    uncertainty: Image | None = None


def computed(outcome: Outcome, expected: Forecast, engine: str) -> dict[str, Any]:
    """Return what was computed, on what and by which engine, for the report."""
    return {
        "device": str(expected.plan.device),
        "engine": engine,
        "forecast": expected.to_json(),
        "windows": outcome.windows,
        "windows_from_cache": outcome.windows_from_cache,
    }


def seconds(started: float, prepared: float, segmented: float, ended: float) -> dict[str, float]:
    """Return how long the parts of a run took, for the report, from the times at which each ended."""
    parts = {
        "prepare": prepared - started,
        "segment": segmented - prepared,
        "finish": ended - segmented,
        "total": ended - started,
    }
    return {name: round(value, 3) for name, value in parts.items()}
