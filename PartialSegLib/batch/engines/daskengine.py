"""Scans on a Dask cluster, or on one that is started on this machine (extra ``dask``)."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

from PartialSegLib.batch.contract import BatchError, BatchJob, Outcome, Scan, Work, WorkerLostError
from PartialSegLib.batch.engines.base import BaseEngine
from PartialSegLib.errors import MissingExtraError

#: Seconds to wait for the scheduler of a running cluster.
_PATIENCE = 30


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

    @property
    def workers(self) -> int:
        """How many scans the cluster works on at once: one a process, whatever threads it has."""
        return self._workers

    def submit(self, scan: Scan) -> Future[Outcome]:
        """See :meth:`Engine.submit`."""
        future: Future[Outcome] = Future()
        # The same scan submitted again is new work, not a result to look up.
        remote = self._client.submit(self._work, self._job, scan, pure=False, key=None)
        remote.add_done_callback(partial(self._finish, future, scan))
        return future

    def close(self) -> None:
        """See :meth:`Engine.close`; a cluster that ran before goes on."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _finish(self, future: Future[Outcome], scan: Scan, remote: Any) -> None:
        if remote.status == "finished":
            future.set_result(remote.result())
            return
        error = remote.exception() if remote.status == "error" else None
        if error is None or isinstance(error, self._distributed.scheduler.KilledWorker):
            hint = "Was there too little memory? Work on fewer scans at once."
            error = WorkerLostError(f"The process that worked on '{scan.name}' died on Dask.", hint)
        future.set_exception(error)


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
