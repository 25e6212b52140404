"""One scan of a batch: read, segmented, written, marked as done; what every engine carries out.

torch is imported when the first scan is begun, in the process that works on it. The model stays
loaded there for the scans that follow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PartialSegLib.batch.contract import BatchJob, Outcome, Scan
from PartialSegLib.batch.markers import read_marker, write_marker
from PartialSegLib.errors import CancelledError, PartialSegError

if TYPE_CHECKING:
    from PartialSegLib.inference import Predictor
    from PartialSegLib.progress import Monitor


def segment_scan(job: BatchJob, scan: Scan, monitor: Monitor | None = None) -> Outcome:
    """Segment a scan, unless its marker says that it is done.

    Parameters
    ----------
    job : BatchJob
        What to do.
    scan : Scan
        A broken one ends in an outcome that says so.
    monitor : Monitor, optional
        Progress and cancellation, between windows.

    Raises
    ------
    CancelledError
        When the monitor was cancelled; nothing was written.
    """
    started = time.monotonic()
    try:
        earlier = read_marker(job, scan)
        if earlier is not None:
            return earlier
        outcome = _segmented(job, scan, monitor, started)
        write_marker(job, scan, outcome)
    except CancelledError:
        raise
    except PartialSegError as error:
        return Outcome.failed(scan, error.code, str(error), _since(started))
    except Exception as error:
        # One scan that shows a defect of ours, or fills the memory, must not cost all others.
        return Outcome.failed(scan, "defect", f"{type(error).__name__}: {error}", _since(started))
    return outcome


def _segmented(job: BatchJob, scan: Scan, monitor: Monitor | None, started: float) -> Outcome:
    """Segment a scan and write the result."""
    from PartialSegLib.images import read_image
    from PartialSegLib.segmentationfiles import check_target, write_segmentation

    image, target = read_image(scan.path), job.target(scan)
    with _place_of_result(target, folder=job.format == "masks"):
        check_target(target, image)
        predictor = _predictor(job.model, job.device, job.threads)
        wanted = predictor.label_space.exactly(job.structures)
        result = predictor.segment(image, wanted, job.preset, monitor=monitor)
        write_segmentation(result.segmentation, target, image=image)
    volumes = {key: round(result.segmentation.volume_ml(key), 3) for key in job.structures}
    return Outcome(scan.name, str(scan.path), True, str(target), _since(started), volumes)


@contextmanager
def _place_of_result(target: Path, *, folder: bool) -> Iterator[None]:
    """Make the folder of masks, whose name may look like that of a file, and leave no empty one behind."""
    if folder:
        target.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if folder:
            with suppress(OSError):
                target.rmdir()
        raise


@lru_cache(maxsize=1)
def _predictor(model: Path, device: str, threads: int | None) -> Predictor:
    """Return the predictor of a model, loaded once a process."""
    import torch

    from PartialSegLib.bundle import ModelBundle
    from PartialSegLib.inference import Predictor

    if threads is not None:
        torch.set_num_threads(threads)
    return Predictor(ModelBundle.open(model), device)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)
