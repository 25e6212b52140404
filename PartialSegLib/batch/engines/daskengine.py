"""Scans on a Dask cluster, or on one that is started on this machine (extra ``dask``)."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from PartialSegLib.batch.contract import BatchError, BatchJob, Outcome, Scan, Work, WorkerLostError
from PartialSegLib.batch.engines.base import BaseEngine
from PartialSegLib.batch.markers import FOLDER
from PartialSegLib.errors import MissingExtraError

#: Seconds to wait for the scheduler of a running cluster.
_PATIENCE = 30
#: How often a scan may wait at a process that another scan kills.
_MOVES = 10


class DaskEngine(BaseEngine):
    """See :func:`PartialSegLib.batch.engines.make_engine`.

    Parameters
    ----------
    job : BatchJob
        What is done to every scan.
    workers : int
        Processes of a cluster that is started here.
    address : str, optional
        Of the scheduler of a running cluster (``tcp://host:8786``).
    work : callable
        Works on one scan; a process keeps its model for the next one.
    """

    def __init__(self, job: BatchJob, workers: int, address: str | None, work: Work) -> None:
        try:
            import distributed
        except ImportError as error:
            raise MissingExtraError("Batches on Dask", "dask") from error
        self._distributed = distributed
        self._job, self._work = job if address else job.divided(workers), work
        self._cluster = None if address else _local_cluster(distributed, workers)
        try:
            self._client = distributed.Client(self._cluster or address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise BatchError(
                f"No Dask answers at '{address}': {error}.", "Check the address of the scheduler."
            ) from error
        self._workers = workers if address is None else max(1, len(self._client.nthreads()))
        self._marks: set[Path] = set()

    @property
    def workers(self) -> int:
        """How many scans the cluster works on at once: one a process, whatever threads it has."""
        return self._workers

    def submit(self, scan: Scan) -> Future[Outcome]:
        """See :meth:`Engine.submit`."""
        future: Future[Outcome] = Future()
        mark = self._job.output / FOLDER / f"{scan.name}.{uuid4().hex}.begun"
        self._marks.add(mark)
        self._send(future, scan, mark, 0)
        return future

    def close(self) -> None:
        """See :meth:`Engine.close`; a cluster that ran before goes on."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        for mark in self._marks:
            with suppress(OSError):
                mark.unlink(missing_ok=True)

    def _send(self, future: Future[Outcome], scan: Scan, mark: Path, moves: int) -> None:
        # The same scan submitted again is new work, not a result to look up.
        remote = self._client.submit(_marked, self._work, mark, self._job, scan, pure=False, key=None)
        remote.add_done_callback(partial(self._finish, future, scan, mark, moves))

    def _finish(self, future: Future[Outcome], scan: Scan, mark: Path, moves: int, remote: Any) -> None:
        if remote.status == "finished":
            future.set_result(remote.result())
            return
        error = remote.exception() if remote.status == "error" else None
        killed = isinstance(error, self._distributed.scheduler.KilledWorker)
        if killed and not mark.exists() and moves < _MOVES:
            # Dask lays scans ready at a process: this one was not begun when another one killed it.
            self._send(future, scan, mark, moves + 1)
            return
        if error is None or killed:
            hint = "Was there too little memory? Work on fewer scans at once."
            error = WorkerLostError(f"The process that worked on '{scan.name}' died on Dask.", hint)
        future.set_exception(error)


def _marked(work: Work, mark: Path, job: BatchJob, scan: Scan) -> Outcome:
    """Work on a scan; a mark that stays says that the process died meanwhile, and not before."""
    with suppress(OSError):
        mark.touch()
    try:
        return work(job, scan)
    finally:
        with suppress(OSError):
            mark.unlink(missing_ok=True)


def _local_cluster(distributed: Any, workers: int) -> Any:
    """Start a cluster of processes with one thread each, and no limit of memory: scans are planned to fit."""
    import dask

    # A batch counts the attempts; where the cluster was there before, its scheduler does so first.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=None,
            dashboard_address=None,
            silence_logs=40,
        )
