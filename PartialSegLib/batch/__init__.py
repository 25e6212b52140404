"""Many scans, one after another or many at once: started again, it does only what is missing.

    from PartialSegLib.batch import BatchJob, find_scans, make_engine, run_batch

    job = BatchJob.of(catalog.find(), "results", structures)
    with make_engine("local", job, workers=2) as engine:
        report = run_batch(job, find_scans("scans"), engine)

A scan that is done has a marker in the folder of results, written in one step when its segmentation
is complete; a scan that is broken is told in the report and does not stop the others; the scan of a
worker that was killed is done again. Importing this imports no torch.
"""

from PartialSegLib.batch.contract import BatchError, BatchJob, Engine, Outcome, Scan, WorkerLostError
from PartialSegLib.batch.driver import run_batch
from PartialSegLib.batch.engines import ENGINES, make_engine
from PartialSegLib.batch.reports import BatchReport
from PartialSegLib.batch.scans import Shard, find_scans, is_batch_folder
from PartialSegLib.batch.work import segment_scan

__all__ = [
    "ENGINES",
    "BatchError",
    "BatchJob",
    "BatchReport",
    "Engine",
    "Outcome",
    "Scan",
    "Shard",
    "WorkerLostError",
    "find_scans",
    "is_batch_folder",
    "make_engine",
    "run_batch",
    "segment_scan",
]
