"""A batch from its first scan to its report: hands scans to an engine, and again where a worker died.

Imports no torch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from PartialSegLib.batch.contract import BatchError, BatchJob, Engine, Outcome, Scan, WorkerLostError
from PartialSegLib.batch.markers import FOLDER, read_marker
from PartialSegLib.batch.reports import BatchReport, write_report
from PartialSegLib.batch.scans import Shard
from PartialSegLib.progress import Monitor

#: A scan whose worker dies so often is given up: it may be what kills them.
ATTEMPTS = 2
#: Seconds between two looks at whether the user wants to stop.
_PATIENCE = 0.2


def run_batch(
    job: BatchJob,
    scans: Iterable[Scan],
    engine: Engine,
    *,
    shard: Shard | None = None,
    monitor: Monitor | None = None,
    told: Callable[[Outcome], object] | None = None,
) -> BatchReport:
    """Segment every scan that is not done yet, and write the report of all of them.

    Parameters
    ----------
    job : BatchJob
        What to do; its folder of results is made.
    scans : iterable of Scan
        Of the whole batch.
    engine : Engine
        Works on them.
    shard : Shard, optional
        Only this part of them.
    monitor : Monitor, optional
        Told about every scan; cancelling it gives up those that are worked on.
    told : callable, optional
        Called with what became of a scan, as soon as it is known.

    Returns
    -------
    BatchReport
        Also written to the folder of results, as CSV and JSON.

    Raises
    ------
    BatchError
        When the folder of results or the report cannot be written.
    CancelledError
        When the monitor was cancelled; what is done stays done.
    """
    shard, monitor = shard or Shard(), monitor or Monitor()
    mine = shard.of(list(scans))
    try:
        (job.output / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BatchError(f"{job.output} cannot be made: {error.strerror}.", "Choose another folder.") from error
    outcomes = {scan.name: outcome for scan in mine if (outcome := _earlier(job, scan)) is not None}
    monitor.step("scans", len(outcomes), len(mine))
    for outcome in _worked_on(job, [scan for scan in mine if scan.name not in outcomes], engine):
        if outcome is not None:
            outcomes[outcome.scan] = outcome
            if told is not None:
                told(outcome)
        monitor.step("scans", len(outcomes), len(mine))
    report = BatchReport(job, shard, tuple(outcomes[scan.name] for scan in mine))
    write_report(report)
    return report


def _worked_on(job: BatchJob, scans: list[Scan], engine: Engine) -> Iterator[Outcome | None]:
    """Yield what becomes of each scan, as workers finish, and ``None`` where nothing did for a while.

    Never more are begun than there are workers, so that a stopped batch gives up as few as possible.
    """
    waiting, attempts = deque(scans), Counter[str]()
    running: dict[Future[Outcome], Scan] = {}
    while waiting or running:
        while waiting and len(running) < engine.workers:
            scan = waiting.popleft()
            attempts[scan.name] += 1
            running[engine.submit(scan)] = scan
        finished, _ = wait(running, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
        if not finished:
            yield None
        for future in finished:
            scan = running.pop(future)
            try:
                yield future.result()
            except WorkerLostError as error:
                # It may have died after its work, before anybody heard of it.
                if (done := _earlier(job, scan)) is not None:
                    yield replace(done, earlier=False)
                elif attempts[scan.name] < ATTEMPTS:
                    waiting.append(scan)
                else:
                    yield Outcome.failed(scan, error.code, f"{error} This happened {ATTEMPTS} times.")


def _earlier(job: BatchJob, scan: Scan) -> Outcome | None:
    try:
        return read_marker(job, scan)
    except OSError:
        return None
